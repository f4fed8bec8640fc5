# Everything a developer or a CI machine calls. `make` alone lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Test processes; on two cores 3 are quicker than 2, as tests wait a quarter of their time
JOBS ?= 3
# Of the suites that start clusters and servers, whose processes take the cores themselves
HEAVY_JOBS ?= 2
DEMO := demo
# Of the faults of `make chaos` and `make soak`, and of `make bench-gate`; the same one repeats a run
SEED ?= 1

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv with the pinned dependencies; .venv/bin/hpo is the command
	@echo "Ready: $(VENV)/bin/hpo --help"

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make setup: there is no $(PYTHON) here; install Python 3.11 or newer, or name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make setup: $(PYTHON) is $$($(PYTHON) --version 2>&1), needed is 3.11 or newer; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make setup: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing about 7 GB (PyTorch, Ray, MLflow); this takes a few minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,cmaes,onnx]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || $(MAKE) --no-print-directory headless-opencv
	@touch $@

# Ultralytics asks for opencv-python, whose windows need libGL and GLib. A bare machine has neither
# and this project opens no window: the same version without them is laid over it.
.PHONY: headless-opencv
headless-opencv:
	@echo "OpenCV finds no libGL or GLib on this machine: using its build without windows."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall \
	  $$(sed -n 's/^opencv-python==\([^ ;]*\).*/opencv-python-headless==\1/p' constraints.txt)
	$(BIN)/python -c 'import cv2'

.PHONY: demo
demo: $(STAMP) ## A whole study in demo/: 12 YOLOv8n trainings by 2 workers, a champion, pages to look at
	@mkdir -p $(DEMO)/.hpo
	cd $(DEMO) && ../$(BIN)/hpo create-study --exist-ok
	cd $(DEMO) && ../$(BIN)/hpo launch --workers 2
	cd $(DEMO) && ../$(BIN)/hpo champion
	cd $(DEMO) && ../$(BIN)/hpo up
	@printf '%s\n' '' 'How to go on, from the folder $(DEMO):' \
	  '  ../$(VENV)/bin/hpo trials                every trial with its parameters' \
	  '  ../$(VENV)/bin/hpo extend --trials 20    open the study again for 8 more trials' \
	  '  ../$(VENV)/bin/hpo launch --workers 2    and run them' \
	  '  ../$(VENV)/bin/hpo init mine             a study file for data of your own' \
	  '  ../$(VENV)/bin/hpo down                  stop everything that runs here'

# Groups are made by tests/conftest.py, which also puts the slowest tests first
SPREAD := --dist loadgroup --no-loadscope-reorder
DEFAULT := not e2e and not real and not faults and not promotion and not cluster and not deploy

.PHONY: test
test: $(STAMP) ## Run the tests of every promise, except whole jobs (a quarter of an hour)
	$(BIN)/python -m pytest -n $(JOBS) $(SPREAD)

.PHONY: test-fast
test-fast: $(STAMP) ## Run the tests that need no database, MLflow, process or training (a minute)
	$(BIN)/python -m pytest -n $(HEAVY_JOBS) $(SPREAD) \
	  -m '$(DEFAULT) and not db and not mlflow and not process and not training and not ray'

.PHONY: test-e2e
test-e2e: $(STAMP) ## Whole jobs: Ray with four YOLO trials, killed workers, the wheel (minutes)
	$(BIN)/python -m pytest -n $(JOBS) $(SPREAD) \
	  -m 'e2e and not real and not faults and not promotion and not cluster and not deploy'

.PHONY: test-real
test-real: $(STAMP) ## Whole studies on real images: blood cells and persons (about 5 minutes)
	$(BIN)/python -m pytest -m real -s tests/e2e

.PHONY: test-faults
test-faults: $(STAMP) ## Every outage of MLflow, and a promotion killed at each of its steps (minutes)
	$(BIN)/python -m pytest -n $(HEAVY_JOBS) $(SPREAD) -m faults tests

.PHONY: test-promotion
test-promotion: $(STAMP) ## Studies that win and lose against a champion, the served model, ONNX (minutes)
	$(BIN)/python -m pytest -n $(HEAVY_JOBS) $(SPREAD) -m promotion tests

.PHONY: test-cluster
test-cluster: $(STAMP) ## Several Ray nodes and a node's death, PgBouncer, open doors, secrets looked for (half an hour)
	$(BIN)/python -m pytest -n $(HEAVY_JOBS) --dist loadfile -m cluster tests

.PHONY: test-deploy
test-deploy: $(STAMP) ## Build the image and run the compose file with podman or Docker (root, many minutes)
	$(BIN)/python -m pytest -m deploy -s tests/deploy

.PHONY: chaos
chaos: $(STAMP) ## Kill, pause and cut off real workers, check every promise, write docs/reliability.md (minutes)
	PYTHONPATH=tests:benchmarks $(BIN)/python -m faults.run --seed $(SEED) --kills 40 --workers 3 \
	  --trainer simulated yolo --bugs --section chaos --out docs/reliability.md

.PHONY: soak
soak: $(STAMP) ## The same with 200 kills and four workers at once (a quarter of an hour)
	PYTHONPATH=tests:benchmarks $(BIN)/python -m faults.run --seed $(SEED) --kills 200 --workers 4 \
	  --section soak --out docs/reliability.md

.PHONY: lint
lint: $(STAMP) ## Check style, types and who imports whom; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMP) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(STAMP) ## Measure training overhead and the cost of claims; prints figures
	@for script in benchmarks/bench_*.py; do \
	  case "$$script" in */bench_gate.py|*/bench_scale.py) continue;; esac; \
	  $(BIN)/python "$$script" || exit 1; done

.PHONY: bench-gate
bench-gate: $(STAMP) ## Measure how often the promotion gate is wrong, write docs/promotion.md (15 minutes)
	$(BIN)/python benchmarks/bench_gate.py --seed $(SEED) --processes $(HEAVY_JOBS) --out docs/promotion.md

.PHONY: bench-scale
bench-scale: $(STAMP) ## Measure claims of 1 to 64 workers, write docs/scaling.md (8 minutes, a quiet machine)
	$(BIN)/python benchmarks/bench_scale.py --out docs/scaling.md

.PHONY: docs
docs: $(STAMP) ## Write docs/cli.md anew from the commands
	$(BIN)/python -m hpo.cli.reference > docs/.new
	mv docs/.new docs/cli.md

.PHONY: constraints
constraints: $(STAMP) ## Pin what pyproject.toml asks for; UPGRADE=--upgrade moves every pin to today's versions
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --no-annotate --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command 'make constraints' $(UPGRADE) --quiet -o constraints.txt

.PHONY: test-wheel
test-wheel: $(STAMP) ## Install the built wheel in an empty environment and use hpo there (minutes)
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .
	PYTHON=$(PYTHON) tests/e2e/use_wheel.sh dist/*.whl

.PHONY: clean
clean: ## Remove demo/, built files and caches; .venv stays
	[ ! -d $(DEMO)/.hpo ] || [ ! -x $(BIN)/hpo ] || (cd $(DEMO) && ../$(BIN)/hpo down)
	rm -rf $(DEMO) dist build .pytest_cache .ruff_cache .mypy_cache
	find hpo search_spaces workers tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

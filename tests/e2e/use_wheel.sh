#!/bin/sh
# Installs a built wheel in an empty environment and uses `hpo` there, far from the checkout.
# Usage: PYTHON=python3 tests/e2e/use_wheel.sh dist/NAME.whl
set -eu

wheel=$(realpath "$1")
checkout=$(realpath "$(dirname "$0")/../..")
place=$(mktemp -d)
hpo="$place/venv/bin/hpo"

leave() {
  if [ -d "$place/project/.hpo" ]; then (cd "$place/project" && "$hpo" down) || true; fi
  rm -rf "$place"
}
trap leave EXIT

"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  -c "$checkout/constraints.txt" "$wheel"

mkdir "$place/project"
cd "$place/project"
unset HPO_STORAGE HPO_HOME HPO_ARTIFACTS HPO_STUDY MLFLOW_TRACKING_URI RAY_ADDRESS
"$hpo" --version
"$place/venv/bin/python" -c '
import sys
import hpo, search_spaces, workers
strangers = [m.__file__ for m in (hpo, search_spaces, workers) if not m.__file__.startswith(sys.prefix)]
sys.exit(f"imported from elsewhere: {strangers}" if strangers else 0)'
"$hpo" space list
"$hpo" init from-the-wheel
cat > simulated.yaml <<'YAML'
study: from-the-wheel
trainer: simulated
search_space: simulated
objective: {metric: mAP50, direction: maximize}
budget: {trials: 4, epochs: 3}
train: {epoch_s: 0.01}
promotion: {model: from-the-wheel}
YAML
"$hpo" create-study simulated.yaml
"$hpo" worker
"$hpo" status
"$hpo" trials
"$hpo" champion
echo "The wheel works."

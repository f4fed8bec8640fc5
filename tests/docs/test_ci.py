"""The workflow of GitHub Actions and the hooks before a commit: what they run, and on what."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import yaml
from sqlalchemy import make_url
from support.sources import ROOT, make_targets, targets_in

WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
JOBS: dict[str, Any] = WORKFLOW["jobs"]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def runs(job: str) -> list[str]:
    """The commands of a job."""
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def matrix(job: str) -> dict[str, list[str]]:
    """What a job is run with, one after the other."""
    return dict(JOBS[job].get("strategy", {}).get("matrix", {}))


def test_jobs_run_targets_of_the_makefile_and_nothing_else() -> None:
    """What fails there can be run at home by the same words."""
    commands = [command for job in JOBS for command in runs(job)]
    assert [one for one in commands if not re.fullmatch(r"make( [a-z0-9-]+)+", one)] == []
    assert targets_in("\n".join(commands)) == {"lint", "test", "test-e2e"}
    assert targets_in("\n".join(commands)) <= set(make_targets())


def test_the_oldest_python_and_a_new_one_run_the_tests() -> None:
    """The oldest is the one that the package still takes."""
    assert matrix("test") == {"python": ["3.11", "3.13"]}
    assert PROJECT["requires-python"] == f">={matrix('test')['python'][0]}"
    assert runs("test") == runs("postgres") == ["make test"]


def test_the_oldest_postgresql_and_a_new_one_run_the_tests() -> None:
    """A service of each version is given to the tests by HPO_TEST_POSTGRES."""
    job = JOBS["postgres"]
    service = job["services"]["postgres"]
    assert matrix("postgres") == {"postgres": ["14", "18"]}
    assert service["image"] == "postgres:${{ matrix.postgres }}"
    url = make_url(job["env"]["HPO_TEST_POSTGRES"])
    assert url.username == service["env"]["POSTGRES_USER"] == url.database
    assert url.password == service["env"]["POSTGRES_PASSWORD"]
    assert f"{url.port}:5432" in service["ports"]


def test_jobs_may_read_the_repository_and_nothing_else() -> None:
    """No job asks for more, and none leaves the token where a test could find it."""
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert [name for name, job in JOBS.items() if "permissions" in job] == []
    steps = [step for job in JOBS.values() for step in job["steps"]]
    used = [step for step in steps if "uses" in step]
    assert [s["uses"] for s in used if not re.fullmatch(r"actions/[\w-]+@v\d+", s["uses"])] == []
    checkouts = [step for step in used if step["uses"].startswith("actions/checkout@")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False] * len(JOBS)


def test_jobs_end_by_themselves() -> None:
    """A push ends the jobs of the one before, and no job runs for hours."""
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is True
    assert all(job["timeout-minutes"] <= 60 for job in JOBS.values())


def test_the_hooks_run_what_make_lint_runs() -> None:
    """A commit that the hooks let through passes `make lint`."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    asked = {
        line.strip().replace("$(BIN)/", "").removesuffix(" .") for line in recipe[1].splitlines()
    }
    hooks = [hook for repository in HOOKS for hook in repository["hooks"]]
    entries = {hook["entry"].removesuffix(" --force-exclude") for hook in hooks}
    assert entries == {f".venv/bin/{command}" for command in asked}
    assert {hook["language"] for hook in hooks} == {"system"}

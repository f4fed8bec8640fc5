"""`hpo rollback` in processes of its own: killed at each step, two at once, and what it says."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import HPO

if TYPE_CHECKING:
    from support.promotion import ChampionBench

# MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

PLANTED = Path(__file__).resolve().parents[1] / "faults" / "planted"
MLFLOW = "mlflow.tracking.client:MlflowClient"
# Whatever is written by a rollback to version 1, in order. After one step is before the next.
STEPS = {
    "nothing yet": "hpo.promotion.alias:read_alias_state:after:1",
    "noted": "hpo.promotion.lock:require_held:before:1",
    "alias moved": f"{MLFLOW}.set_registered_model_alias:after:1",
    "previous moved": f"{MLFLOW}.set_registered_model_alias:after:2",
    "aliases moved": "hpo.promotion.alias:_point:after:1",
    "row inserted": "hpo.promotion.ledger:write:after:1",
}
# The same for a rollback to no champion
AWAY = {
    "noted": "hpo.promotion.lock:require_held:before:1",
    "alias removed": f"{MLFLOW}.delete_registered_model_alias:after:1",
    "previous moved": f"{MLFLOW}.set_registered_model_alias:after:1",
    "row inserted": "hpo.promotion.ledger:write:after:1",
}
WHY = ("--why", "it misses small ones")


def start(bench: ChampionBench, *words: str, **env: str) -> subprocess.Popen[str]:
    """`hpo rollback` of the bench's model, in a process of its own."""
    return subprocess.Popen(
        [HPO, "rollback", *words], env=bench.env() | {"HPO_STUDY": bench.study.name} | env,
        cwd=bench.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def command(bench: ChampionBench, *words: str, code: int = 0) -> tuple[str, str]:
    """What it says on stdout and stderr."""
    process = start(bench, *words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def kill_at(bench: ChampionBench, fault: str, *words: str) -> None:
    """A rollback that dies at the step meant."""
    mark = bench.folder / "mark"
    mark.unlink(missing_ok=True)
    process = start(
        bench, *words, PYTHONPATH=str(PLANTED), HPO_TEST_KILL=fault, HPO_TEST_MARK=str(mark)
    )
    said = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, said
    assert mark.read_text() == f"{fault}\n"


def once(bench: ChampionBench) -> None:
    """One row of the rollback to version 1, and the aliases that it says."""
    assert bench.changes()[2:] == [("rolled_back", 2, 1)]
    assert bench.aliases() == {"champion": 1, "previous": 2}
    assert bench.notes() == 0


@pytest.mark.faults
@pytest.mark.parametrize("step", STEPS)
def test_a_rollback_killed_at_a_step_is_made_once_by_the_same_command(
    champions: ChampionBench, step: str
) -> None:
    """SIGKILL right there, then again: one row, and the aliases are right."""
    champions.promote()
    champions.promote()
    kill_at(champions, STEPS[step], *WHY)
    command(champions, *WHY)
    once(champions)


@pytest.mark.faults
@pytest.mark.parametrize("step", AWAY)
def test_a_rollback_to_none_killed_at_a_step_is_made_once(
    champions: ChampionBench, step: str
) -> None:
    """The same where the alias is removed."""
    champions.promote()
    kill_at(champions, AWAY[step], *WHY)
    command(champions, *WHY)
    assert champions.changes() == [("promoted", None, 1), ("rolled_back", 1, None)]
    assert (champions.aliases(), champions.notes()) == ({"previous": 1}, 0)


@pytest.mark.faults
def test_a_rollback_killed_with_the_alias_moved_is_completed_by_the_same_command(
    champions: ChampionBench,
) -> None:
    """It says so, and keeps the first one's words; killed again, it is still one row."""
    champions.promote()
    champions.promote()
    kill_at(champions, STEPS["alias moved"], "--why", "the first")
    kill_at(champions, STEPS["row inserted"], "--why", "the second")
    out, _ = command(champions, "--why", "the third")
    assert "An earlier `hpo rollback` had been interrupted: it is completed now." in out
    assert "the first" in out
    once(champions)


def test_a_rollback_killed_with_the_alias_moved_is_completed_by_the_next_finalizer(
    champions: ChampionBench,
) -> None:
    """Which then finds the champion that the person wanted."""
    champions.promote()
    champions.promote()
    kill_at(champions, STEPS["alias moved"], *WHY)
    settled = champions.settle()
    assert settled.champion is not None
    assert (settled.champion.number, settled.external_change) == (1, "")
    once(champions)


def test_two_rollbacks_at_once_go_one_after_the_other(champions: ChampionBench) -> None:
    """On real processes: each goes one champion back, from where the other left it."""
    for _ in range(3):
        champions.promote()
    both = [start(champions, *WHY, "--json") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(json.loads(out)["version"] for out, _ in said) == [1, 2]
    assert champions.changes()[3:] == [("rolled_back", 3, 2), ("rolled_back", 2, 1)]
    assert champions.aliases() == {"champion": 1, "previous": 2}


@pytest.mark.promotion
def test_the_command_says_what_it_did_and_what_it_refuses(champions: ChampionBench) -> None:
    """In sentences, with exit codes 0, 1 and 2, and as JSON."""
    champions.promote(trial=4)
    champions.promote(trial=9)
    model = ("--model", champions.model)
    out, _ = command(champions, *model, *WHY)
    lines = out.splitlines()
    assert lines[0] == (
        f"{champions.model} version 1 (trial 4 of {champions.study.name}) is champion, alias "
        "champion: in place of version 2."
    )
    assert lines[1] == "Before: version 2."
    assert lines[2].endswith("it misses small ones")
    assert "@" in champions.rows()[-1].actor
    document = json.loads(command(champions, *WHY, "--json")[0])
    assert (document["outcome"], document["version"]) == ("rolled_back", None)
    assert (document["why"], document["previous_version"]) == ("it misses small ones", 1)
    for words, code, part in (
        ((*WHY,), 1, "has no champion"),
        (("--to", "8", *WHY), 2, "no version 8"),
        (("--to", "many", *WHY), 2, "is no version"),
        (("--why", ""), 2, "--why is empty"),
        ((), 2, "--why"),
        ((*model, "--study", champions.study.name, *WHY), 2, "name two things"),
        (("--alias", "edge", *WHY), 2, "--alias goes with --model"),
    ):
        out, err = command(champions, *words, code=code)
        assert (out, part in err) == ("", True), (words, out, err)

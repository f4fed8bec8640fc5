"""`hpo champion`: who is champion, who was when, and where MLflow says otherwise."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import in_process
from support.promotion import ALIAS

from hpo.promotion import ledger
from hpo.promotion.champion import champion
from hpo.promotion.decision import Decision, Outcome
from hpo.promotion.evidence import Evidence
from hpo.promotion.ledger import ChampionPeriod, history, succession
from hpo.studies.status import status

if TYPE_CHECKING:
    from support.promotion import ChampionBench

# MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def said(bench: ChampionBench, *words: str) -> str:
    """What `hpo champion` prints."""
    env = bench.env() | {"HPO_STUDY": bench.study.name}
    done = in_process(bench.folder, env, "champion", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(bench: ChampionBench) -> dict[str, Any]:
    """Its document, read in this process."""
    document = champion(bench.engine, bench.settings, bench.model, ALIAS)
    assert document is not None
    return document


def keep(bench: ChampionBench) -> None:
    """A decision that leaves the champion where it is, past the gate's word."""
    decision = Decision(
        outcome=Outcome.KEPT, study=bench.study.name, model=bench.model, alias=ALIAS,
        reason="it is not better", trial=3, version=2, previous_version=2,
        evidence=Evidence(reason="it is not better", metric="mAP50", value=0.25),
    )  # fmt: skip
    with bench.engine.begin() as connection:
        ledger.insert(connection, bench.study, uuid.uuid4(), decision)


def test_the_history_tells_every_decision_the_newest_first(champions: ChampionBench) -> None:
    """In words and as JSON, also with MLflow away."""
    assert "Nothing was decided" in said(champions, "--history")
    assert json.loads(said(champions, "--history", "--json")) == []
    champions.promote(trial=4, value=0.5)
    champions.promote(trial=9, value=0.75)
    keep(champions)
    champions.roll_back(why="it misses small ones")
    found = json.loads(said(champions, "--model", champions.model, "--history", "--json"))
    assert [(one["outcome"], one["previous_version"], one["version"]) for one in found] == [
        ("rolled_back", 2, 1),
        ("kept", 2, 2),
        ("promoted", 1, 2),
        ("promoted", None, 1),
    ]
    assert [one["seq"] for one in found] == sorted((one["seq"] for one in found), reverse=True)
    assert [one["value"] for one in found] == [0.5, 0.25, 0.75, 0.5]
    assert (found[0]["why"], found[0]["actor"]) == ("it misses small ones", "ada@lab")
    text = said(champions, "--history").splitlines()
    assert text[0].split()[:4] == ["seq", "decided", "outcome", "champion"]
    assert "rolled_back" in text[1]
    assert "2 -> 1" in text[1]
    assert text[1].rstrip().endswith("ada@lab")
    assert "none -> 1" in text[4]


def test_an_override_is_marked_in_the_history(champions: ChampionBench) -> None:
    """With who it was and why."""
    decision = Decision(
        outcome=Outcome.PROMOTED, study=champions.study.name, model=champions.model, alias=ALIAS,
        reason="a person chose it", trial=3, version=1,
        evidence=Evidence(reason="a person chose it"), override=True, why="the client asked",
        actor="ada@lab",
    )  # fmt: skip
    with champions.engine.begin() as connection:
        ledger.insert(connection, champions.study, uuid.uuid4(), decision)
    text = said(champions, "--history")
    assert "promoted (override)" in text
    assert "the client asked" in text


def test_a_rollback_shows_in_the_champion_and_in_the_status(champions: ChampionBench) -> None:
    """Who did it and why; and when there is no champion any more."""
    champions.promote(trial=4, value=0.5)
    champions.promote(trial=9, value=0.75)
    champions.roll_back(why="it misses small ones")
    text = said(champions)
    assert f"{champions.model} version 1, alias champion: trial 4 of" in text
    assert "Rolled back by ada@lab: it misses small ones" in text
    now = status(champions.engine, champions.study)["champion"]
    assert (now["version"], now["trial"]) == (1, 4)
    champions.roll_back(why="that one too")
    text = said(champions)
    assert f"{champions.model} has no champion since" in text
    assert "Rolled back by ada@lab: that one too" in text
    assert (shown(champions)["version"], shown(champions)["difference"]) == (None, "")
    assert status(champions.engine, champions.study)["champion"] is None


def test_a_difference_is_said_with_the_command_that_mends_it(champions: ChampionBench) -> None:
    """A moved alias, a move that was interrupted, a deleted version."""
    champions.promote()
    champions.promote()
    assert shown(champions)["difference"] == ""
    champions.point(1)
    text = said(champions)
    assert "But: the alias 'champion'" in text
    assert "was moved to version 1 outside this service" in text
    assert "--to 2 --why TEXT` puts it back" in text
    champions.point(2)
    champions.promote(record=False)
    assert (shown(champions)["version"], shown(champions)["mlflow_version"]) == (2, 3)
    assert "`hpo finalize` or `hpo rollback` completes it" in shown(champions)["difference"]
    assert len(champions.rows()) == 2  # looking completes nothing
    champions.settle()
    champions.client.delete_model_version(champions.model, "3")
    assert "was deleted in MLflow" in shown(champions)["difference"]


def test_the_succession_follows_identity_not_numbers(champions: ChampionBench) -> None:
    """What is rolled back leaves it; one made outside this service stands in it by its number."""
    champions.promote()
    champions.promote()
    foreign = champions.version().number
    champions.roll_back(foreign)
    with champions.engine.connect() as connection:
        line = succession(history(connection, champions.model, ALIAS))
    ids = [str(row.promotion_id) for row in champions.rows()]
    assert line == [
        ChampionPeriod(1, ids[0]),
        ChampionPeriod(2, ids[1]),
        ChampionPeriod(foreign, None),
    ]
    champions.roll_back(1)
    with champions.engine.connect() as connection:
        assert succession(history(connection, champions.model)) == [ChampionPeriod(1, ids[0])]

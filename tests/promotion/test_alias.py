"""How a champion's alias moves, and what is made of an alias that is not where it was left."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.promotion import ALIAS, ChampionBench

from hpo.errors import ChampionError
from hpo.promotion.alias import Move, move, read_alias_state
from hpo.promotion.lock import promotion_lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.mlflow_server import MlflowServer

# MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def test_the_champion_before_keeps_the_alias_previous(champions: ChampionBench) -> None:
    """The first has none before it; then each promotion hands it on."""
    seen = []
    for _ in range(3):
        champions.promote()
        seen.append(champions.aliases())
    assert seen == [
        {"champion": 1},
        {"champion": 2, "previous": 1},
        {"champion": 3, "previous": 2},
    ]
    assert champions.changes() == [
        ("promoted", None, 1),
        ("promoted", 1, 2),
        ("promoted", 2, 3),
    ]
    assert champions.notes() == 0


def test_a_move_that_was_not_recorded_is_completed_once_with_all_that_it_was_made_on(
    champions: ChampionBench,
) -> None:
    """Whoever comes next records the same decision, with its evidence."""
    champions.promote()
    number = champions.promote(trial=7, value=0.75, record=False)
    with champions.engine.connect() as connection:
        seen = read_alias_state(connection, champions.registry, champions.model, ALIAS)
    assert seen.pending is not None
    assert (seen.pending.to, seen.pending.before, len(champions.rows())) == (2, 1, 1)
    for _ in range(2):
        settled = champions.settle()
        assert settled.champion is not None
        assert (settled.champion.number, settled.pending, settled.external_change) == (2, None, "")
    row = champions.rows()[1]
    assert (row.promotion_id, row.trial_number) == (seen.pending.decision_id, 7)
    assert (row.evidence["value"], row.version, row.previous_version) == (0.75, number, 1)
    assert (len(champions.rows()), champions.notes()) == (2, 0)


def test_the_next_promotion_completes_the_one_before_and_goes_on(
    champions: ChampionBench,
) -> None:
    """Both are recorded, in the order in which the alias moved."""
    champions.promote()
    champions.promote(record=False)
    champions.promote()
    assert champions.changes()[1:] == [("promoted", 1, 2), ("promoted", 2, 3)]
    assert (champions.aliases(), champions.notes()) == ({"champion": 3, "previous": 2}, 0)


def test_a_decision_of_one_s_own_is_left_to_its_maker(champions: ChampionBench) -> None:
    """The finalizer that repeats a promotion finds its move pending, and nothing recorded."""
    from hpo.promotion.alias import complete_pending_move

    champions.promote(record=False)
    with promotion_lock(champions.database, champions.model, lambda: None) as connection:
        seen = read_alias_state(connection, champions.registry, champions.model, ALIAS)
        assert seen.pending is not None
        mine = seen.pending.decision_id
        settled = complete_pending_move(
            connection, champions.registry, champions.model, ALIAS, mine
        )
    assert settled.pending == seen.pending
    assert champions.rows() == []


def test_a_move_that_never_reached_the_alias_is_forgotten(champions: ChampionBench) -> None:
    """Its note explains nothing, and the next move takes its place."""
    champions.promote()
    missing = Move(
        model=champions.model, alias=ALIAS, to=9, before=1, decision_id=uuid.uuid4(), row={}
    )
    with (
        pytest.raises(ChampionError, match="no version 9"),
        promotion_lock(champions.database, champions.model, lambda: None) as connection,
    ):
        move(connection, champions.registry, missing)
    assert champions.notes() == 1
    settled = champions.settle()
    assert (settled.pending, settled.external_change) == (None, "")
    assert champions.promote() == 2
    assert (champions.aliases(), champions.notes()) == ({"champion": 2, "previous": 1}, 0)


def test_an_alias_moved_by_another_hand_is_said_with_both_ways_out(
    champions: ChampionBench,
) -> None:
    """Between our versions, to one that is not ours, and away; the record stays."""
    champions.promote()
    champions.promote()
    foreign = champions.version().number
    how = f"`hpo rollback --model {champions.model} --alias champion --to"
    for to in (1, foreign):
        champions.point(to)
        text = champions.settle().external_change
        assert f"was moved to version {to}" in text
        assert f"{how} {to} --why TEXT` accepts it" in text
        assert f"{how} 2 --why TEXT` puts it back" in text
    champions.point(None)
    text = champions.settle().external_change
    assert "has no alias 'champion'" in text
    assert f"{how} 2 --why TEXT` puts it back, {how} none --why TEXT` accepts it" in text
    champions.point(2)
    assert champions.settle().external_change == ""
    assert len(champions.rows()) == 2


def test_an_alias_of_a_model_that_nothing_is_recorded_of_is_another_hand_s(
    champions: ChampionBench,
) -> None:
    """It can be accepted by name."""
    champions.version()
    champions.point(1)
    text = champions.settle().external_change
    assert "nothing is recorded of the model" in text
    assert "--to 1 --why TEXT` accepts it" in text


def test_a_champion_that_was_deleted_in_mlflow_is_said(champions: ChampionBench) -> None:
    """MLflow takes the alias away with the version; the model is still there."""
    champions.promote()
    champions.promote()
    champions.client.delete_model_version(champions.model, "2")
    settled = champions.settle()
    assert (settled.champion, settled.gone, settled.lost) == (None, True, False)
    assert "version 2 of" in settled.external_change
    assert "was deleted in MLflow" in settled.external_change
    assert f"`hpo finalize --study {champions.study.name}` makes it" in settled.external_change


def test_an_mlflow_that_holds_nothing_is_no_other_hand(
    champions: ChampionBench, new_mlflow: Callable[[], str]
) -> None:
    """Its records were lost, or it is another one."""
    champions.promote()
    champions.settings = replace(champions.settings, tracking_uri=new_mlflow())
    settled = champions.settle()
    assert (settled.lost, settled.external_change, settled.gone) == (True, "", False)


def test_a_version_made_again_under_another_number_is_still_the_champion(
    champions: ChampionBench, new_mlflow: Callable[[], str]
) -> None:
    """It is known by the decision it was made for."""
    champions.promote()
    champions.promote()
    decision = champions.rows()[1].promotion_id
    champions.settings = replace(champions.settings, tracking_uri=new_mlflow())
    assert champions.version(decision).number == 1
    champions.point(1)
    settled = champions.settle()
    assert settled.champion is not None
    assert (settled.champion.number, settled.external_change, settled.lost) == (1, "", False)


def test_two_aliases_of_one_model_have_a_champion_each(champions: ChampionBench) -> None:
    """What is recorded of one says nothing of the other."""
    champions.promote()
    with champions.engine.connect() as connection:
        other = read_alias_state(connection, champions.registry, champions.model, "edge")
    assert (other.champion, other.record, other.external_change) == (None, None, "")


def test_aliases_are_read_and_moved_through_mlflow_s_server_as_well(
    champions: ChampionBench, mlflow_server: MlflowServer
) -> None:
    """The same words over HTTP, for what is there and for what is not."""
    champions.settings = replace(champions.settings, tracking_uri=mlflow_server.url)
    registry = champions.registry
    assert (registry.has(champions.model), champions.aliases()) == (False, {})
    registry.remove_alias(champions.model, ALIAS)
    champions.promote()
    assert registry.get(champions.model, 9) is None
    champions.promote()
    assert champions.aliases() == {"champion": 2, "previous": 1}
    registry.remove_alias(champions.model, "nobody")
    champions.client.delete_model_version(champions.model, "2")
    assert champions.aliases() == {"previous": 1}
    assert champions.settle().gone
    assert registry.find(str(champions.rows()[1].promotion_id)) is None

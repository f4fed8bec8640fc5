"""`hpo rollback`: where the alias goes, what is recorded, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hpo.errors import ChampionError, TrackingError, UsageError
from hpo.promotion.decision import Outcome
from hpo.promotion.rollback import Request, roll_back

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.mlflow_server import MlflowServer
    from support.promotion import ChampionBench, PromotionBench

# MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def test_a_rollback_leads_to_the_champion_before_and_never_forward_again(
    champions: ChampionBench,
) -> None:
    """After A, B and C: to B, then to A, then to none, though the one before in time was B."""
    for _ in range(3):
        champions.promote()
    seen = [champions.aliases()]
    for _ in range(3):
        champions.roll_back()
        seen.append(champions.aliases())
    assert seen == [
        {"champion": 3, "previous": 2},
        {"champion": 2, "previous": 3},
        {"champion": 1, "previous": 2},
        {"previous": 1},
    ]
    assert champions.changes()[3:] == [
        ("rolled_back", 3, 2),
        ("rolled_back", 2, 1),
        ("rolled_back", 1, None),
    ]
    with pytest.raises(ChampionError, match="has no champion") as refused:
        champions.roll_back()
    assert refused.value.exit_code == 1
    assert len(champions.rows()) == 6


def test_a_rollback_records_who_why_and_the_figures_of_the_version_it_leads_to(
    champions: ChampionBench,
) -> None:
    """As a row like any other, which the finalizer reads as who is champion."""
    champions.promote(trial=4, value=0.5)
    champions.promote(trial=9, value=0.75)
    decision = champions.roll_back(why="it misses small ones")
    assert (decision.version, decision.previous_version, decision.trial) == (1, 2, 4)
    row = champions.rows()[-1]
    assert (row.outcome, row.trial_number, row.study_name) == ("rolled_back", 4, decision.study)
    assert (row.why, row.actor, row.override) == ("it misses small ones", "ada@lab", False)
    assert (row.evidence["value"], row.evidence["metric"]) == (0.5, "mAP50")
    assert row.evidence["decision"] == str(champions.rows()[0].promotion_id)
    settled = champions.settle()
    assert (settled.champion, settled.external_change) == (settled.shown, "")


def test_a_promotion_after_a_rollback_can_be_rolled_back_too(champions: ChampionBench) -> None:
    """After A, B, back to A and C, the champion before C is A."""
    champions.promote()
    champions.promote()
    champions.roll_back()
    assert champions.promote() == 3
    assert champions.roll_back().version == 1
    assert champions.changes()[-2:] == [("promoted", 1, 3), ("rolled_back", 3, 1)]


def test_a_time_without_champion_hides_none_of_those_before(champions: ChampionBench) -> None:
    """After A, B, none and B again, the way back leads to A; so it does from none."""
    champions.promote()
    champions.promote()
    champions.roll_back("none")
    assert champions.roll_back(2).version == 2
    assert champions.roll_back().version == 1
    champions.roll_back(2)
    champions.roll_back("none")
    assert champions.roll_back().version == 1
    assert champions.aliases()["champion"] == 1


def test_a_version_can_be_named_also_forward_and_one_of_another_hand(
    champions: ChampionBench,
) -> None:
    """The way back from it leads to the champion before."""
    champions.promote()
    champions.promote()
    foreign = champions.version().number
    champions.roll_back(1)
    assert champions.roll_back(2).version == 2  # forward: a rollback undone
    decision = champions.roll_back(foreign)
    assert (decision.version, decision.trial, decision.evidence.decision) == (3, None, None)
    assert champions.aliases() == {"champion": 3, "previous": 2}
    assert champions.settle().external_change == ""
    assert [champions.roll_back().version for _ in range(2)] == [2, 1]


def test_the_finalizer_does_not_promote_again_what_was_rolled_back(
    promotion_bench: PromotionBench,
) -> None:
    """Neither a worker's nor a person's; a better trial of another study still can be."""
    bench = promotion_bench
    first, second = bench.study("first"), bench.study("second")
    bench.told(first, 0.3, 0.4)
    bench.told(second, 0.5, 0.7)
    assert (bench.finalize(first).version, bench.finalize(second).version) == (1, 2)
    request = Request(
        model=bench.model, alias="champion", to="before", why="it misses small ones",
        actor="ada@lab",
    )  # fmt: skip
    assert roll_back(bench.database, bench.settings, request).version == 1
    for asked in (False, True):
        assert bench.decide(second, open_ok=asked).already
        assert (bench.champion(), bench.versions()) == (1, [1, 2])
    third = bench.study("third", seed=2)
    bench.told(third, 0.5, 0.9)
    decision = bench.finalize(third)
    assert (decision.version, decision.previous_version) == (3, 1)


def test_the_finalizer_leaves_an_alias_that_another_hand_moved(
    promotion_bench: PromotionBench,
) -> None:
    """Its decision is inconclusive and says how to settle it; settled, it goes on."""
    bench = promotion_bench
    first, second, third = (bench.study(name) for name in ("first", "second", "third"))
    bench.told(first, 0.3, 0.4)
    bench.told(second, 0.5, 0.7)
    bench.told(third, 0.5, 0.9)
    bench.finalize(first)
    bench.finalize(second)
    bench.client.set_registered_model_alias(bench.model, "champion", "1")
    decision = bench.finalize(third)
    assert (decision.outcome, bench.champion()) == (Outcome.INCONCLUSIVE, 1)
    assert "was moved to version 1" in decision.reason
    request = Request(
        model=bench.model, alias="champion", to=1, why="it is the better one", actor="ada@lab"
    )
    roll_back(bench.database, bench.settings, request)
    decision = bench.decide(third, open_ok=True)
    assert (decision.outcome, decision.previous_version) == (Outcome.PROMOTED, 1)


def test_wrong_requests_change_nothing(champions: ChampionBench) -> None:
    """No reason, no such version, no change: each with its mend."""
    champions.promote()
    for to, why, said in (
        ("before", " ", "--why is empty"),
        (7, "why", "no version 7"),
        (1, "why", "champion already"),
    ):
        with pytest.raises(UsageError, match=said) as refused:
            champions.roll_back(to, why)
        assert refused.value.hint
    assert (len(champions.rows()), champions.aliases()) == (1, {"champion": 1})


def test_what_another_hand_did_is_never_overwritten_without_a_word_about_it(
    champions: ChampionBench,
) -> None:
    """Without --to it is refused with both ways out; each of them settles it."""
    champions.promote()
    champions.promote()
    champions.promote()
    champions.point(1)
    with pytest.raises(ChampionError, match="was moved to version 1"):
        champions.roll_back()
    assert (champions.aliases()["champion"], len(champions.rows())) == (1, 3)
    back = champions.roll_back(3)
    assert "put back" in back.reason
    assert champions.aliases() == {"champion": 3, "previous": 2}
    champions.point(1)
    accepted = champions.roll_back(1)
    assert "accepted, in place of version 3" in accepted.reason
    assert champions.aliases() == {"champion": 1, "previous": 3}
    assert champions.changes()[3:] == [("rolled_back", 3, 3), ("rolled_back", 3, 1)]
    assert champions.settle().external_change == ""


def test_an_alias_that_was_removed_is_put_back_or_left_away(champions: ChampionBench) -> None:
    """As the person says."""
    champions.promote()
    champions.promote()
    champions.point(None)
    with pytest.raises(ChampionError, match="was removed outside this service"):
        champions.roll_back()
    champions.roll_back(2)
    assert champions.aliases() == {"champion": 2, "previous": 1}
    champions.point(None)
    champions.roll_back("none")
    assert champions.aliases() == {"previous": 2}
    assert champions.settle().external_change == ""
    with pytest.raises(UsageError, match="has no champion"):
        champions.roll_back("none")


def test_an_alias_that_was_set_before_anything_is_recorded_can_be_accepted(
    champions: ChampionBench,
) -> None:
    """The record then begins with it."""
    champions.version()
    champions.point(1)
    with pytest.raises(ChampionError, match="nothing is recorded"):
        champions.roll_back()
    champions.roll_back(1)
    row = champions.rows()[0]
    assert (row.outcome, row.version, row.previous_version) == ("rolled_back", 1, None)
    assert row.study_name == champions.study.name
    assert champions.promote() == 2
    assert champions.roll_back().version == 1


def test_a_deleted_champion_is_left_for_the_one_before(champions: ChampionBench) -> None:
    """Nothing needs to be said of an alias that went with its version."""
    for _ in range(3):
        champions.promote()
    champions.client.delete_model_version(champions.model, "3")
    decision = champions.roll_back()
    assert (decision.version, decision.previous_version) == (2, 3)
    assert champions.aliases() == {"champion": 2}
    champions.client.delete_model_version(champions.model, "1")
    with pytest.raises(ChampionError, match="the champion before, is not in") as refused:
        champions.roll_back()
    assert "--to none" in refused.value.hint


def test_a_lost_mlflow_is_no_reason_to_go_back(
    champions: ChampionBench, new_mlflow: Callable[[], str]
) -> None:
    """The champion is made again first; nothing is recorded."""
    champions.promote()
    champions.promote()
    champions.settings = replace(champions.settings, tracking_uri=new_mlflow())
    with pytest.raises(ChampionError, match="holds nothing of") as refused:
        champions.roll_back()
    assert f"`hpo finalize --study {champions.study.name}`" in refused.value.hint
    assert len(champions.rows()) == 2


def test_an_interrupted_promotion_is_recorded_before_it_is_rolled_back(
    champions: ChampionBench,
) -> None:
    """The record has both."""
    champions.promote()
    champions.promote(record=False)
    decision = champions.roll_back()
    assert (decision.version, decision.already) == (1, False)
    assert champions.changes()[1:] == [("promoted", 1, 2), ("rolled_back", 2, 1)]


def test_with_mlflow_away_nothing_is_recorded(champions: ChampionBench) -> None:
    """Neither a row nor a note; later the same command goes through."""
    champions.promote()
    champions.promote()
    here = champions.settings
    champions.settings = replace(here, tracking_uri="http://127.0.0.1:9")
    with pytest.raises(TrackingError):
        champions.roll_back()
    assert (len(champions.rows()), champions.notes()) == (2, 0)
    champions.settings = here
    assert champions.roll_back().version == 1


def test_a_server_that_goes_away_halfway_is_completed_by_the_next_call(
    champions: ChampionBench, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias was moved, `previous` was not: one row in the end, for the one rollback."""
    from hpo.tracking.registry import Registry

    champions.settings = replace(champions.settings, tracking_uri=mlflow_server.url)
    champions.promote()
    champions.promote()
    real = Registry.move_alias

    def last_word(*values: object) -> None:
        real(*values)  # type: ignore[arg-type]
        mlflow_server.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "move_alias", last_word)
        with pytest.raises(TrackingError):
            champions.roll_back(why="first")
    assert len(champions.rows()) == 2
    mlflow_server.start()
    assert champions.aliases() == {"champion": 1, "previous": 1}
    decision = champions.roll_back(why="second")
    assert (decision.already, decision.version, decision.why) == (True, 1, "first")
    assert champions.aliases() == {"champion": 1, "previous": 2}
    assert champions.changes()[2:] == [("rolled_back", 2, 1)]

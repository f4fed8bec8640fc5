"""What becomes of a champion when MLflow loses its database: said, and made again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.promotion import PromotionBench, promotions

from hpo.errors import TrackingError
from hpo.promotion.champion import champion
from hpo.promotion.decision import Outcome
from hpo.studies.store import delete_study

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.studies.store import Study

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def bench(promotion_bench: PromotionBench) -> PromotionBench:
    """On the test's own database, and on the shared MLflow until it is lost."""
    return promotion_bench


def lose(bench: PromotionBench, new_mlflow: Callable[[], str]) -> None:
    """From here on MLflow is an empty one."""
    bench.settings = replace(bench.settings, tracking_uri=new_mlflow())


def promoted(bench: PromotionBench, name: str, *values: float) -> Study:
    study = bench.study(name)
    bench.told(study, *values)
    assert bench.finalize(study).outcome is Outcome.PROMOTED
    return study


def difference(bench: PromotionBench) -> str:
    found = champion(bench.engine, bench.settings, bench.model, "champion")
    assert found is not None
    return str(found["difference"])


def test_a_lost_champion_is_made_again_by_hand_and_the_record_stands(
    bench: PromotionBench, new_mlflow: Callable[[], str]
) -> None:
    """`hpo champion` says the loss with its mend; finalize mends it; the row is not touched."""
    promoted(bench, "older", 0.1, 0.2)
    study = promoted(bench, "newer", 0.3, 0.6)
    before = promotions(bench.engine)
    lose(bench, new_mlflow)
    assert f"`hpo finalize --study {study.name}` makes it again" in difference(bench)
    assert bench.finalize(study).already  # a worker that comes by changes nothing
    assert bench.versions() == []
    dry = bench.finalize(study, open_ok=True, dry_run=True)
    assert ("would be made again" in dry.sentence(), bench.versions()) == (True, [])
    again = bench.finalize(study, open_ok=True)
    assert (again.outcome, again.already, again.version) == (Outcome.PROMOTED, True, 1)
    assert "recorded as version 2, made again as version 1" in again.sentence()
    assert (bench.versions(), bench.champion(), promotions(bench.engine)) == ([1], 1, before)
    assert "version 1, made again after a loss" in difference(bench)
    version = bench.client.get_model_version(bench.model, "1")
    files = [one.path for one in bench.client.list_artifacts(version.run_id)]
    assert "decision.md" in files
    assert "weights" in files
    assert bench.finalize(study, open_ok=True).sentence() == bench.finalize(study).sentence()
    assert bench.versions() == [1]


def test_an_earlier_version_is_made_again_without_the_alias(
    bench: PromotionBench, new_mlflow: Callable[[], str]
) -> None:
    """The record's last word has the alias, in whatever order they come back."""
    older = promoted(bench, "older", 0.1, 0.2)
    newer = promoted(bench, "newer", 0.3, 0.6)
    lose(bench, new_mlflow)
    bench.finalize(older, open_ok=True)
    assert (bench.versions(), bench.champion()) == ([1], None)
    bench.finalize(newer, open_ok=True)
    assert (bench.versions(), bench.champion()) == ([1, 2], 2)


def test_a_worse_trial_does_not_slip_past_a_lost_champion(
    bench: PromotionBench, new_mlflow: Callable[[], str]
) -> None:
    """The next study is refused with the command that mends it, and is weighed afterwards."""
    best = promoted(bench, "best", 0.3, 0.9)
    lose(bench, new_mlflow)
    worse = bench.study("worse")
    bench.told(worse, 0.1, 0.2)
    with pytest.raises(TrackingError, match="does not hold") as refused:
        bench.finalize(worse)
    assert f"`hpo finalize --study {best.name}`" in refused.value.hint
    assert (len(promotions(bench.engine)), bench.versions()) == (1, [])
    bench.finalize(best, open_ok=True)
    assert bench.finalize(worse).outcome is Outcome.KEPT


def test_a_lost_champion_that_nobody_can_make_again_holds_up_nobody(
    bench: PromotionBench, new_mlflow: Callable[[], str]
) -> None:
    """Of a deleted study, and of the study itself: promoted, and the reason tells the loss."""
    gone = promoted(bench, "gone", 0.3, 0.9)
    delete_study(bench.engine, gone)
    lose(bench, new_mlflow)
    study = bench.study("next", trials=3)
    bench.told(study, 0.1, 0.2)
    assert "MLflow lost the champion before it" in bench.finalize(study, open_ok=True).reason
    lose(bench, new_mlflow)
    bench.told(study, 0.5)
    decision = bench.finalize(study)
    assert (decision.trial, decision.version) == (2, 1)
    assert f"version 1 of '{study.name}'" in decision.reason

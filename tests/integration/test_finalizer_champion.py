"""A candidate against the present champion, on a real PostgreSQL and a real MLflow database."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.told import PromotionBench, Teller, promotions

from hpo.promotion.decision import Outcome
from hpo.spec import Objective
from hpo.study import extend, load_study

# MLflow's registry loads its rows in a way that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def bench(promotion_bench: PromotionBench) -> PromotionBench:
    """On the test's own database, and on the shared MLflow."""
    return promotion_bench


def test_a_better_champion_on_the_same_data_stays_and_the_record_says_so(
    bench: PromotionBench,
) -> None:
    """A second study on the same model is weighed; the alias does not move."""
    first, second = bench.study("first"), bench.study("second")
    bench.told(first, 0.4, 0.6)
    bench.told(second, 0.5, 0.6)  # a tie is not better
    bench.finalize(first)
    decision = bench.finalize(second)
    assert (decision.outcome, decision.version) == (Outcome.KEPT, 1)
    assert "not better than the 0.6000" in decision.reason
    assert (bench.versions(), bench.champion()) == ([1], 1)
    row = promotions(bench.engine)[1]
    assert (row.outcome, row.version, row.previous_version) == ("kept", 1, 1)
    assert "decision.md" in {
        item.path for item in bench.client.list_artifacts(row.evidence["run_id"])
    }
    assert bench.finalize(second).already
    assert len(promotions(bench.engine)) == 2


def test_a_better_trial_of_another_study_takes_the_place(bench: PromotionBench) -> None:
    """Two studies share a model: two versions, the alias at the better, the other remembered."""
    first, second = bench.study("first"), bench.study("second")
    bench.told(first, 0.4, 0.6)
    bench.told(second, 0.5, 0.7)
    bench.finalize(first)
    decision = bench.finalize(second)
    assert (decision.outcome, decision.version, decision.previous_version) == (
        Outcome.PROMOTED, 2, 1,
    )  # fmt: skip
    assert (bench.versions(), bench.champion()) == ([1, 2], 2)


def test_after_extend_a_better_trial_is_a_new_decision(bench: PromotionBench) -> None:
    """It is weighed against the study's own earlier champion."""
    study = bench.study()
    teller = bench.told(study, 0.3, 0.6)
    bench.finalize(study)
    extend(bench.engine, study, 3)
    teller.tell(0.8)
    decision = bench.finalize(load_study(bench.engine, study.name))
    assert (decision.outcome, decision.trial, decision.version) == (Outcome.PROMOTED, 2, 2)


def test_our_record_of_the_champion_counts_more_than_its_tags(bench: PromotionBench) -> None:
    """A figure typed over the tag in MLflow decides nothing."""
    first, second = bench.study("first"), bench.study("second")
    bench.told(first, 0.4, 0.6)
    bench.told(second, 0.1, 0.5)
    bench.finalize(first)
    bench.client.set_model_version_tag(bench.model, "1", "hpo.value", "0.01")
    assert bench.finalize(second).outcome is Outcome.KEPT


def test_a_champion_of_other_data_is_evaluated_on_this_study_s(bench: PromotionBench) -> None:
    """Its weights are fetched and evaluated by the trainer, and that figure is compared."""
    first = bench.study("first", fingerprint="0" * 64)
    second = bench.study("second")
    bench.told(first, 0.98, 0.99)
    bench.told(second, 0.97, 0.95)
    bench.finalize(first)
    decision = bench.finalize(second)
    assert decision.outcome is Outcome.PROMOTED  # no simulated model evaluates above 0.9
    assert decision.evidence["champion_evaluated"]
    assert decision.evidence["champion_value"] < 0.91


@pytest.mark.parametrize("kept_in_store", [True, False])
def test_a_champion_s_weights_are_found_in_the_store_or_in_the_version(
    bench: PromotionBench, kept_in_store: bool
) -> None:
    """The version's own files stand in for a store that was emptied."""
    first = bench.study("first", fingerprint="0" * 64)
    bench.told(first, 0.3, 0.4)
    sha256 = bench.finalize(first).evidence["weights_sha256"]
    if not kept_in_store:
        (bench.folder / ".hpo" / "artifacts" / "objects" / sha256[:2] / sha256).unlink()
    second = bench.study("second", seed=1)  # other weights than the first's
    bench.told(second, 0.97, 0.95)
    decision = bench.finalize(second)
    assert decision.evidence["champion_evaluated"]


def test_a_champion_that_cannot_be_evaluated_stays_until_someone_decides(
    bench: PromotionBench,
) -> None:
    """The record says how to go on; with the alias removed the same trial is promoted."""
    first = bench.study("first", fingerprint="0" * 64)
    bench.told(first, 0.3, 0.4)
    sha256 = bench.finalize(first).evidence["weights_sha256"]
    (bench.folder / ".hpo" / "artifacts" / "objects" / sha256[:2] / sha256).unlink()
    source = bench.client.get_model_version(bench.model, "1").source
    for file in _folder(source).rglob("weights.json"):
        file.write_text("{}", encoding="utf-8")
    second = bench.study("second", seed=1)  # other weights than the first's
    bench.told(second, 0.97, 0.95)
    decision = bench.finalize(second)
    assert decision.outcome is Outcome.KEPT
    assert "cannot be compared" in decision.reason
    assert "another promotion.model, or remove the alias" in decision.reason
    assert bench.champion() == 1
    bench.client.delete_registered_model_alias(bench.model, "champion")
    assert bench.finalize(second).outcome is Outcome.PROMOTED
    assert bench.champion() == 2


def _folder(source: str) -> Path:
    return Path(source.removeprefix("file://"))


def test_an_alias_that_another_hand_set_is_not_moved(bench: PromotionBench) -> None:
    """A model registered without this service keeps its champion."""
    bench.client.create_registered_model(bench.model)
    bench.client.create_model_version(bench.model, source=str(bench.folder), await_creation_for=0)
    bench.client.set_registered_model_alias(bench.model, "champion", "1")
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    decision = bench.finalize(study)
    assert (decision.outcome, bench.versions(), bench.champion()) == (Outcome.KEPT, [1], 1)
    assert "another hand" in decision.reason


def test_a_minimized_objective_promotes_the_lowest(bench: PromotionBench) -> None:
    """Direction decides, for the candidate and against the champion."""
    low = Objective("loss", "minimize")
    first = bench.study("first", objective=low)
    second = bench.study("second", objective=low)
    for study, values in ((first, (0.5, 0.4)), (second, (0.45, 0.6))):
        teller = Teller(bench.engine, bench.settings, study, bench.folder)
        for value in values:
            teller.tell(1 - value)
    assert bench.finalize(first).trial == 1
    assert bench.finalize(second).outcome is Outcome.KEPT

"""A candidate against the present champion, on a real PostgreSQL and a real MLflow database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.promotion import PromotionBench, Teller, promotions

from hpo.errors import ChampionError, TrackingError
from hpo.promotion.decision import Outcome
from hpo.promotion.request import Override
from hpo.studies.spec import Objective
from hpo.studies.store import extend, load_study
from hpo.tracking.registry import Registry

if TYPE_CHECKING:
    from support.mlflow_server import MlflowServer

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
    bench.told(second, 0.5, 0.6)  # the same weights: a tie is not better
    bench.finalize(first)
    decision = bench.finalize(second)
    assert (decision.outcome, decision.version) == (Outcome.KEPT, 1)
    assert "gain in mAP50 +0.0000 [+0.0000, +0.0000], wanted 95% lower bound" in decision.reason
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
    assert decision.evidence.champion is not None
    assert not decision.evidence.champion.evaluated  # its figures were of this very split
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
    first = bench.study("first", test_fingerprint="0" * 64)
    second = bench.study("second")
    bench.told(first, 0.3, 0.4)
    bench.told(second, 0.5, 0.7)
    bench.finalize(first)
    decision = bench.finalize(second)
    assert decision.outcome is Outcome.PROMOTED
    assert decision.evidence.champion is not None
    assert decision.evidence.champion.evaluated
    assert decision.evidence.champion.value == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize("kept_in_store", [True, False])
def test_a_champion_s_weights_are_found_in_the_store_or_in_the_version(
    bench: PromotionBench, kept_in_store: bool
) -> None:
    """The version's own files stand in for a store that was emptied."""
    first = bench.study("first", test_fingerprint="0" * 64)
    bench.told(first, 0.3, 0.4)
    sha256 = bench.finalize(first).evidence.weights_sha256
    if not kept_in_store:
        (bench.folder / ".hpo" / "artifacts" / "objects" / sha256[:2] / sha256).unlink()
    second = bench.study("second", seed=1)  # other weights than the first's
    bench.told(second, 0.97, 0.95)
    decision = bench.finalize(second)
    assert decision.evidence.champion is not None
    assert decision.evidence.champion.evaluated
    assert decision.outcome is Outcome.PROMOTED


def test_a_champion_that_cannot_be_evaluated_stays_until_someone_decides(
    bench: PromotionBench,
) -> None:
    """The record says how to go on; with the alias removed the same trial is promoted."""
    first = bench.study("first", test_fingerprint="0" * 64)
    bench.told(first, 0.3, 0.4)
    sha256 = bench.finalize(first).evidence.weights_sha256
    (bench.folder / ".hpo" / "artifacts" / "objects" / sha256[:2] / sha256).unlink()
    source = bench.client.get_model_version(bench.model, "1").source
    for file in _folder(source).rglob("weights.json"):
        file.write_text("{}", encoding="utf-8")
    second = bench.study("second", seed=1)  # other weights than the first's
    bench.told(second, 0.97, 0.95)
    decision = bench.finalize(second)
    assert decision.outcome is Outcome.INCONCLUSIVE
    assert "cannot be compared" in decision.reason
    assert f"`hpo promote 0 --study {second.name} --why TEXT`" in decision.reason
    assert bench.champion() == 1
    override = Override(0, "the old one is lost", "me@here")
    assert bench.finalize(second, override=override).outcome is Outcome.PROMOTED
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
    assert (decision.outcome, bench.versions(), bench.champion()) == (
        Outcome.INCONCLUSIVE, [1], 1,
    )  # fmt: skip
    assert "was moved to version 1 outside this service" in decision.reason
    assert bench.finalize(study).already
    with pytest.raises(ChampionError, match="outside this service"):
        bench.finalize(study, override=Override(1, "I want it", "me@here"))
    assert bench.champion() == 1


def test_a_model_name_that_is_taken_is_left_alone(bench: PromotionBench) -> None:
    """Versions that another program registered: said, and no version is added to them."""
    bench.client.create_registered_model(bench.model)
    bench.client.create_model_version(bench.model, source=str(bench.folder), await_creation_for=0)
    study = bench.study()
    bench.told(study, 0.3, 0.6)
    decision = bench.finalize(study)
    assert (decision.outcome, bench.versions(), bench.champion()) == (
        Outcome.INCONCLUSIVE, [1], None,
    )  # fmt: skip
    assert "is taken in MLflow by what is not of this service: version 1" in decision.reason


def test_a_champion_whose_version_was_deleted_is_made_again_first(bench: PromotionBench) -> None:
    """The next study is refused with the command that mends it, and is weighed afterwards."""
    first, second = bench.study("first"), bench.study("second", seed=1)
    bench.told(first, 0.4, 0.8)
    bench.told(second, 0.4, 0.5)
    bench.finalize(first)
    bench.client.delete_model_version(bench.model, "1")
    with pytest.raises(TrackingError, match="does not hold") as refused:
        bench.finalize(second)
    assert f"`hpo finalize --study {first.name}` makes it again" in refused.value.hint
    assert len(promotions(bench.engine)) == 1
    assert bench.finalize(first, open_ok=True).version == 2
    decision = bench.finalize(second)
    assert (decision.outcome, decision.version, bench.champion()) == (Outcome.KEPT, 2, 2)


def test_a_promotion_through_mlflows_http_server_is_the_same(
    bench: PromotionBench, mlflow_server: MlflowServer
) -> None:
    """Version, both aliases, files and record; the second study's champion takes the place."""
    bench.settings = replace(bench.settings, tracking_uri=mlflow_server.url)
    first, second = bench.study("first"), bench.study("second", seed=1)
    bench.told(first, 0.3, 0.4)
    bench.told(second, 0.4, 0.8)
    bench.finalize(first)
    decision = bench.finalize(second)
    assert (decision.outcome, decision.version) == (Outcome.PROMOTED, 2)
    registry = Registry(bench.client)
    assert registry.aliases(bench.model) == {"champion": 2, "previous": 1}
    names = ("decision.md", "decision.html", "metadata.json", "metrics.json")
    assert set(registry.read_texts(str(decision.evidence.run_id), names)) == set(names)


def test_a_metric_that_detections_do_not_tell_decides_nothing(bench: PromotionBench) -> None:
    """A first champion needs no comparison; after it the record says why there is none."""
    low = Objective("loss", "minimize")
    first = bench.study("first", objective=low)
    second = bench.study("second", objective=low)
    for study, values in ((first, (0.5, 0.4)), (second, (0.45, 0.3))):
        teller = Teller(bench.engine, bench.settings, study, bench.folder)
        for value in values:
            teller.tell(1 - value)
    decision = bench.finalize(first)
    assert (decision.trial, decision.outcome) == (1, Outcome.PROMOTED)
    decision = bench.finalize(second)
    assert decision.outcome is Outcome.INCONCLUSIVE
    assert "loss cannot be computed from detections" in decision.reason


def test_a_gain_that_may_be_luck_is_inconclusive(bench: PromotionBench) -> None:
    """The champion stays; the record says how many test images would decide."""
    first, second = bench.study("first"), bench.study("second", seed=1)
    bench.told(first, 0.4, 0.50)
    bench.told(second, 0.4, 0.51)
    bench.finalize(first)
    decision = bench.finalize(second)
    assert decision.evidence.gain is not None
    assert decision.evidence.gain.low <= 0 < decision.evidence.gain.value
    assert (decision.outcome, decision.version) == (Outcome.INCONCLUSIVE, 1)
    assert "may be luck: to be 95% sure takes" in decision.reason
    assert (bench.versions(), bench.champion()) == ([1], 1)


def test_an_override_promotes_past_the_gate_and_says_so(bench: PromotionBench) -> None:
    """Recorded with who and why, and with what the gate said; asked again, nothing changes."""
    first, second = bench.study("first"), bench.study("second", seed=1)
    bench.told(first, 0.4, 0.8)
    bench.told(second, 0.4, 0.5)
    bench.finalize(first)
    assert bench.finalize(second).outcome is Outcome.KEPT
    override = Override(0, "it is half the size", "me@here")
    decision = bench.finalize(second, override=override)
    assert (decision.outcome, decision.trial, decision.version) == (Outcome.PROMOTED, 0, 2)
    assert (decision.previous_version, decision.override) == (1, True)
    row = promotions(bench.engine)[-1]
    assert (row.outcome, row.override, row.why, row.actor) == (
        "promoted", True, "it is half the size", "me@here",
    )  # fmt: skip
    assert "the gate says: kept" in row.evidence["reason"]
    assert bench.champion() == 2
    count = len(promotions(bench.engine))
    bench.finalize(second, override=override)
    assert (len(promotions(bench.engine)), bench.versions()) == (count, [1, 2])
    again = bench.finalize(second)  # a worker that comes by leaves the choice of a person
    assert (again.outcome, again.already, again.version) == (Outcome.PROMOTED, True, 2)
    assert len(promotions(bench.engine)) == count
    third = bench.study("third", seed=2)
    bench.told(third, 0.4, 0.9)
    decision = bench.finalize(third)  # the champion past the gate is the one to beat
    assert (decision.outcome, decision.previous_version) == (Outcome.PROMOTED, 2)
    assert decision.evidence.champion is not None
    assert decision.evidence.champion.trial == 0


def test_a_model_that_finds_nothing_is_no_first_champion(bench: PromotionBench) -> None:
    """Without a champion the absolute rules decide."""
    study = bench.study()
    bench.told(study, 0.0, 0.0)
    decision = bench.finalize(study)
    assert (decision.outcome, bench.versions()) == (Outcome.KEPT, [])
    assert "gets no champion" in decision.sentence()
    assert "wanted above 0" in decision.reason

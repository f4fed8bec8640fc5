"""The best trials of a study looked at again, by real workers on a real PostgreSQL."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from hpo.evaluation.detections import Detections
from hpo.promotion.decision import Outcome
from hpo.storage.artifacts.opening import open_store
from hpo.studies.finals import finals_of
from hpo.studies.spec import Promotion
from hpo.studies.store import load_study
from workers.study_loop import Limits
from workers.worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from support.promotion import PromotionBench

    from hpo.studies.store import Study


@pytest.fixture
def bench(promotion_bench: PromotionBench) -> PromotionBench:
    """On the test's own database, and on the shared MLflow."""
    promotion_bench.settings.home.mkdir(exist_ok=True)
    open_store(promotion_bench.settings).require_writable()
    return promotion_bench


def final_rows(bench: PromotionBench, study: Study) -> list[tuple[int, int, bool, str]]:
    """(trial looked at, seed, whether trained, state) of each final, by number."""
    with bench.engine.connect() as connection:
        rows = connection.execute(
            text("select f.of_number, f.seed, f.trained, t.state::text from hpo.final f "
                 "join trials t on t.trial_id = f.trial_id "
                 "join hpo.study h on h.study_id = f.study_id "
                 "where h.parent_id = :parent order by t.number"),
            {"parent": study.study_id},
        )  # fmt: skip
        return [tuple(row) for row in rows]


def test_the_best_trials_are_evaluated_on_held_out_images(bench: PromotionBench) -> None:
    """By default three, with their own weights; detections are kept, so AP can be recomputed."""
    study = bench.study(trials=5)
    bench.told(study, 0.2, 0.6, 0.5, 0.1, 0.7)
    summary = bench.finals(study)
    assert summary is not None
    assert summary.why == "finished"
    assert final_rows(bench, study) == [
        (4, 0, False, "COMPLETE"), (1, 0, False, "COMPLETE"), (2, 0, False, "COMPLETE"),
    ]  # fmt: skip
    decision = bench.decide(study)
    evidence = decision.evidence
    assert [one.trial for one in evidence.finalists] == [4, 1, 2]
    evaluated = evidence.evaluation
    assert evaluated is not None
    assert evaluated.test_fingerprint == study.test_fingerprint
    assert evaluated.weights_sha256 == evidence.weights_sha256
    assert evaluated.metrics["mAP50"] == evidence.test_value == pytest.approx(0.7, abs=0.1)
    assert set(evaluated.latency_ms) == {"median", "p95"}
    assert evaluated.parameters
    assert evaluated.weights_bytes
    assert evaluated.per_class
    kept = open_store(bench.settings).fetch(
        str(evaluated.detections_sha256), bench.folder / "detections.npz"
    )
    assert len(Detections.load(kept).images) == evaluated.images


def test_finals_are_asked_for_once_however_often(bench: PromotionBench) -> None:
    """A second look finds the first one's results, and after `extend` only what is new is run."""
    study = bench.study(trials=4)
    bench.told(study, 0.2, 0.6, 0.5, 0.1)
    bench.finals(study)
    bench.finals(study)
    assert len(final_rows(bench, study)) == 3
    finals = finals_of(bench.engine, study)
    assert finals is not None
    assert (finals.name, finals.trials) == (f"{study.name}/finals", 3)


def test_several_seeds_train_each_finalist_again(bench: PromotionBench) -> None:
    """With seeds = 3 its own training counts as the first; the mean of all of them ranks it."""
    promotion = Promotion(model=bench.model, alias="champion", finalists=2, seeds=3)
    study = bench.study(promotion=promotion)
    bench.told(study, 0.5, 0.6)
    bench.finals(study)
    rows = final_rows(bench, study)
    assert [row[:3] for row in rows] == [
        (1, 0, False), (1, 1, True), (1, 2, True), (0, 0, False), (0, 1, True), (0, 2, True),
    ]  # fmt: skip
    decision = bench.decide(study)
    finalist = decision.evidence.finalists[0]
    values = [one.value for one in finalist.seeds]
    assert len(set(values)) == 3
    assert finalist.value == pytest.approx(sum(values) / 3)
    assert (finalist.spread or 0) > 0


def test_longer_finals_train_all_seeds_for_as_long_as_asked(bench: PromotionBench) -> None:
    """`full_epochs` above the trials' epochs: the short training of the trial does not count."""
    promotion = Promotion(model=bench.model, alias="champion", finalists=1, seeds=2, full_epochs=5)
    study = bench.study(promotion=promotion)
    bench.told(study, 0.5, 0.6)
    bench.finals(study)
    assert [row[:3] for row in final_rows(bench, study)] == [(1, 0, True), (1, 1, True)]
    with bench.engine.connect() as connection:
        epochs = connection.scalar(
            text("select count(*) from hpo.epoch e join hpo.final f using (trial_id)")
        )
    assert epochs == 10
    decision = bench.decide(study)
    assert decision.outcome is Outcome.PROMOTED
    run = bench.client.get_run(str(decision.evidence.run_id))
    assert run.data.tags["hpo.study"] == f"{study.name}/finals"


def test_a_worker_that_ends_a_study_runs_its_finals_and_promotes(bench: PromotionBench) -> None:
    """One command from the first trial to the champion, also where its limit is the last trial."""
    study = bench.study(trials=3)
    worker = Worker(bench.settings, study.name, limits=Limits(n_trials=3), device="cpu")
    summary = worker.run()
    assert (summary.why, summary.count) == ("limit", 3)
    assert "promoted" in summary.notes[-1]
    assert bench.champion() == 1


def test_the_test_split_does_not_choose_the_challenger(bench: PromotionBench) -> None:
    """The best by validation challenges, however much better another finds the test images."""
    study = bench.study()
    teller = bench.told(study)
    teller.tell(0.6, quality=0.3)
    teller.tell(0.5, quality=0.9)
    decision = bench.finalize(study)
    first, second = decision.evidence.finalists
    assert (first.trial, second.trial, decision.trial) == (0, 1, 0)
    tested = [one.test_value("mAP50") or 0.0 for one in (first, second)]
    assert tested[0] < tested[1]
    assert decision.evidence.test_value == tested[0]


def test_a_study_that_promotes_nothing_has_no_finals(bench: PromotionBench) -> None:
    """`promotion: none`: its workers leave when the trials are over."""
    study = bench.study(promotion=Promotion(model=bench.model, alias="champion", wanted=False))
    bench.told(study, 0.5, 0.6)
    assert bench.finals(study) is None
    decision = bench.decide(study)
    assert (decision.outcome, bench.versions()) == (Outcome.NONE, [])
    assert "promotion: none" in decision.reason


def test_nothing_is_decided_before_the_finals_are_over(bench: PromotionBench) -> None:
    """It is said how many are, and nothing is recorded."""
    study = bench.study()
    bench.told(study, 0.5, 0.6)
    decision = bench.decide(study)
    assert decision.outcome is Outcome.NONE
    assert "0 of 2 finals are over" in decision.reason
    assert bench.finalize(study).outcome is Outcome.PROMOTED


def stored(bench: PromotionBench, sha256: str) -> Path:
    """Where the store keeps a file."""
    return bench.folder / ".hpo" / "artifacts" / "objects" / sha256[:2] / sha256


def weights_of(bench: PromotionBench, study: Study, number: int) -> Path:
    """The stored weights of a trial."""
    with bench.engine.connect() as connection:
        sha256 = connection.execute(
            text("select a.sha256 from hpo.artifact a join trials t using (trial_id) "
                 "where t.study_id = :study and t.number = :number and a.name like 'weights/%'"),
            {"study": study.study_id, "number": number},
        ).scalar_one()  # fmt: skip
    return stored(bench, sha256)


@pytest.mark.parametrize("how", ["missing", "altered"])
def test_a_trial_whose_weights_are_gone_is_out_and_the_next_one_challenges(
    bench: PromotionBench, how: str
) -> None:
    """The record says why; nothing of the first one is promoted."""
    study = bench.study()
    bench.told(study, 0.5, 0.6)
    file = weights_of(bench, study, 1)
    file.unlink()
    if how == "altered":
        file.write_text(json.dumps({"quality": 0.9}))
    decision = bench.finalize(study)
    assert (decision.outcome, decision.trial) == (Outcome.PROMOTED, 0)
    out = {one.trial: one.out for one in decision.evidence.finalists}
    assert out[0] == ""
    assert "the weights of trial 1" in out[1]


def test_with_no_weights_left_nothing_is_promoted_and_that_is_recorded(
    bench: PromotionBench,
) -> None:
    """A clear outcome, once, and no version."""
    study = bench.study()
    bench.told(study, 0.5, 0.6)
    for number in (0, 1):
        weights_of(bench, study, number).unlink()
    decision = bench.finalize(study)
    assert (decision.outcome, bench.versions()) == (Outcome.NONE, [])
    assert "no finalist can be promoted" in decision.reason
    assert bench.decide(study).already


def test_a_test_split_that_changed_stops_the_finals_with_a_sentence(
    bench: PromotionBench,
) -> None:
    """A worker tells it and leaves; nothing is promoted."""
    study = bench.study(trials=1, test_fingerprint="0" * 64)
    summary = Worker(bench.settings, study.name, device="cpu").run()
    assert summary.why == "finished"
    assert "not promoted: the test split changed since the study began" in summary.notes[-1]
    assert bench.versions() == []


def test_a_finalist_over_the_latency_limit_is_out(bench: PromotionBench) -> None:
    """Limits that have nothing to do with luck choose among the finalists."""
    study = bench.study(
        promotion=Promotion(model=bench.model, alias="champion", max_latency_ms=1e-6)
    )
    bench.told(study, 0.5, 0.6)
    decision = bench.finalize(study)
    assert decision.outcome is Outcome.NONE
    assert "breaks the limit of 1e-06 ms" in decision.reason
    again = replace(load_study(bench.engine, study.name))
    assert bench.decide(again).already

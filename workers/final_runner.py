"""Run one final: train again where that is asked for, evaluate on the test split, tell both."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING

from hpo.claims.claims import LeaseStatus
from hpo.datasets.data_yaml import TEST_SPLIT
from hpo.errors import DatasetError, TrialError, WeightsError
from hpo.evaluation.record import EvaluationRecord
from hpo.studies.finals import load_final
from hpo.trainer import Directive, Epoch, Result
from workers.trial_runner import LostError, TrialRunner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hpo.claims.claims import Claim
    from hpo.storage.artifacts.store import Stored
    from hpo.trainer import Evaluation
    from workers.context import StudyContext
    from workers.events import Watch

EVALUATION, DETECTIONS = "evaluation.json", "detections.npz"


class FinalRunner(TrialRunner):
    """A claimed trial of a finals study."""

    def __init__(self, context: StudyContext, claim: Claim, watch: Watch) -> None:
        final = load_final(context.claims.database, claim.trial_id)
        if final is None:
            raise LostError  # deleted outside this service since the claim
        self._final = final
        super().__init__(context, claim, watch, seed=self._final.seed)

    def _train(self) -> Result:
        return super()._train() if self._final.trained else self._as_it_was()

    def _as_it_was(self) -> Result:
        """The trial's own weights and the figures of their epoch; nothing is trained."""
        final = self._final
        name, sha256, epoch = final.weights_name, final.weights_sha256, final.best_epoch
        if name is None or sha256 is None or epoch is None:
            raise TrialError("error", f"trial {final.of_number} kept no weights")
        target = self._job.run_dir / name.rpartition("/")[2]
        try:
            weights = self._when_reached(lambda: self._context.store.fetch(sha256, target))
        except WeightsError as error:
            text = f"the weights of trial {final.of_number}: {error}"
            raise TrialError("error", text) from error
        figures = {key: math.nan if v is None else v for key, v in final.metrics.items()}
        if self._context.claims.report(self._claim, Epoch(epoch, figures)) is LeaseStatus.LOST:
            raise LostError
        self._last = epoch
        return Result(best_epoch=epoch, weights=weights)

    def _examined(self, result: Result) -> tuple[dict[str, Stored], dict[str, float]]:
        """(what is kept of the evaluation on held-out images, its figures for people)."""
        if result.weights is None:
            raise TrialError("error", "the training left no weights to evaluate")
        weights = result.weights
        started = time.monotonic()
        evaluation = self._evaluated(weights)
        spent_s = time.monotonic() - started
        sha256 = self._kept(weights).sha256
        files = {}
        if evaluation.detections is not None:
            files[DETECTIONS] = self._kept(evaluation.detections)
        record = EvaluationRecord.of(
            evaluation,
            weights_sha256=sha256,
            test_fingerprint=self._context.test_fingerprint,
            detections_sha256=files[DETECTIONS].sha256 if files else None,
        )
        path = self._job.run_dir / EVALUATION
        path.write_text(json.dumps(record.to_dict(), sort_keys=True), encoding="utf-8")
        files[EVALUATION] = self._kept(path)
        figures = {name: value for name, value in record.metrics.items() if math.isfinite(value)}
        told = {f"test_{name}": value for name, value in figures.items()}
        return files, told | {"evaluate_s": round(spent_s, 3)}

    def _evaluated(self, weights: Path) -> Evaluation:
        ask: Callable[[], Directive | None] = self._poll
        try:
            found = self._context.worker.process.evaluate_unless(
                weights, self._job, TEST_SPLIT, ask
            )
        except (DatasetError, WeightsError) as error:
            raise TrialError("error", str(error)) from error
        if found is None:
            raise self._stopped()
        return found

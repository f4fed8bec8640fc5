"""Gather what a decision about one challenger rests on: figures, documents, pictures."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from hpo.datasets.data_yaml import TEST_SPLIT, load
from hpo.datasets.fingerprint import top_of
from hpo.errors import HpoError, WeightsError
from hpo.promotion.champion_evaluation import load_detections
from hpo.promotion.decision import Decision, Outcome, promotion_id
from hpo.promotion.evidence import (
    ABOUT_A_CHALLENGER,
    ChampionResult,
    ClassResult,
    Cost,
    Evidence,
)
from hpo.promotion.gate import class_differences, finalists_evidence
from hpo.promotion.report.context import ReportContext, figures
from hpo.promotion.report.files import documents
from hpo.studies.preflight import require_test_split
from hpo.studies.trials import training_cost, trial_epochs, trial_rows
from hpo.trainer import load_trainer

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from PIL.Image import Image

    from hpo.evaluation.detections import Detections
    from hpo.promotion.candidates import Finalist, StudyCompletion
    from hpo.promotion.champion_evaluation import EvaluatedChampion
    from hpo.promotion.gate import Comparison
    from hpo.promotion.report.context import Pictures
    from hpo.promotion.request import FinalizeRequest, Override
    from hpo.storage.artifacts.store import ArtifactStore
    from hpo.tracking.registry import Version


class EvidenceCollector:
    """Gathers the evidence about one challenger.

    Attributes:
        challenger: the finalist.
        run: its training whose weights stand for it.
        key: the name of its promotion.
    """

    def __init__(
        self,
        request: FinalizeRequest,
        completion: StudyCompletion,
        finalists: Sequence[Finalist],
        store: ArtifactStore,
    ) -> None:
        """Choose the challenger: the first finalist, by validation, that nothing speaks against."""
        self._request, self._study, self._completion, self._finalists = (
            request,
            request.study,
            completion,
            finalists,
        )
        self.challenger = next(one for one in finalists if not one.out)
        self.run = self.challenger.best(request.study)
        self.key = promotion_id(
            request.study, self.challenger.candidate.number, self.run.weights_sha256
        )
        self._store = store
        self._incumbent: EvaluatedChampion | None = None

    def decision(
        self,
        champion: Version | None,
        comparison: Comparison | None,
        incumbent: EvaluatedChampion | None,
        override: Override | None,
    ) -> Decision:
        """What follows from the comparison, or from a person's wish."""
        self._incumbent = incumbent
        target, study = self._study.spec.promotion, self._study
        outcome, reason = _outcome(comparison, override)
        evidence = self._own() if comparison is None else comparison.added_to(self._own())
        why = None if override is None else override.why
        actor = None if override is None else override.actor
        evidence = replace(
            evidence,
            reason=reason,
            champion=self._champion(champion, incumbent),
            classes=self._classes(incumbent),
            override=override is not None,
            why=why,
            actor=actor,
        )
        return Decision(
            outcome=outcome,
            study=study.name,
            model=target.model,
            alias=target.alias,
            reason=reason,
            trial=self.challenger.candidate.number,
            previous_version=None if champion is None else champion.number,
            # As it is read again: with None for NaN
            evidence=Evidence.from_json(evidence.to_json()),
            override=override is not None,
            why=why,
            actor=actor,
            dry_run=self._request.dry_run,
        )

    def _own(self) -> Evidence:
        spec, study, run = self._study.spec, self._study, self.run
        evaluated = run.evaluated
        metric = spec.objective.metric
        described = load_trainer(spec.trainer).describe()
        return Evidence(
            decision=str(self.key),
            metric=metric,
            direction=spec.objective.direction,
            value=self.challenger.value,
            test_value=None if evaluated is None else evaluated.metrics.get(metric),
            best_epoch=run.best_epoch,
            seed=run.seed,
            params=self.challenger.candidate.params,
            train=spec.train,
            weights_name=run.weights_name,
            weights_sha256=run.weights_sha256,
            spec_sha256=study.spec_sha256,
            dataset_fingerprint=study.fingerprint,
            test_fingerprint=None if evaluated is None else evaluated.test_fingerprint,
            trainer=spec.trainer,
            code_version=study.code_version,
            simulated=described.simulated,
            trials=self._completion.counts,
            evaluation=evaluated,
            finalists=finalists_evidence(study, self._finalists, self._stored),
            cost=self._cost(),
            stated=ABOUT_A_CHALLENGER,
        )

    def _champion(
        self, champion: Version | None, incumbent: EvaluatedChampion | None
    ) -> ChampionResult | None:
        if champion is None:
            return None
        if incumbent is None:
            return ChampionResult(version=champion.number)
        evaluated = incumbent.evaluated
        return ChampionResult(
            version=incumbent.version,
            trial=incumbent.trial,
            study=incumbent.study,
            evaluation=evaluated,
            evaluated=incumbent.again,
            value=evaluated.metrics.get(self._study.spec.objective.metric),
        )

    def _classes(self, incumbent: EvaluatedChampion | None) -> tuple[ClassResult, ...]:
        evaluated = self.run.evaluated
        return () if evaluated is None else class_differences(evaluated, incumbent)

    def _cost(self) -> Cost:
        """Seconds of training and validation by kind of device."""
        rows = training_cost(self._request.connection, self._study)
        of_trials: dict[str, float] = {}
        of_finals: dict[str, float] = {}
        for row in rows:
            kind = str(row.device or "unknown").partition(":")[0]
            part = of_finals if row.is_final else of_trials
            part[kind] = round(part.get(kind, 0.0) + float(row.seconds or 0.0), 3)
        return Cost(trials_s=of_trials, finals_s=of_finals)

    def _stored(self, sha256: str) -> Detections | None:
        try:
            return load_detections(self._store, sha256)
        except WeightsError:
            return None

    def files(self, decision: Decision, name: uuid.UUID) -> dict[str, str]:
        """Name -> text of each file that tells the decision to people and pipelines."""
        return documents(self.report_context(decision, name))

    def report_context(self, decision: Decision, name: uuid.UUID) -> ReportContext:
        """The decision of that name with everything that can be shown of it."""
        connection, study = self._request.connection, self._study
        params = {row.number: row.params for row in trial_rows(connection, study)}
        epochs = trial_epochs(connection, self.run.trial_id)
        evaluated = self.run.evaluated
        sha256 = None if evaluated is None else evaluated.detections_sha256
        return ReportContext(
            study=study,
            decision=decision,
            trials=figures(connection, study, params),
            curve=[{"epoch": row.epoch, "metrics": row.metrics} for row in epochs],
            challenger=None if sha256 is None else self._stored(sha256),
            champion=None if self._incumbent is None else self._incumbent.detections,
            pictures=self._pictures,
            decision_id=str(name),
            weights_loader=load_trainer(study.spec.trainer).describe().weights_loader,
        )

    @cached_property
    def _pictures(self) -> Pictures | None:
        """Opens test images by name, where this machine has the split as it was."""
        try:
            request = self._request
            data, _ = require_test_split(
                self._study, request.settings, request.database.engine, fetch=False
            )
        except HpoError:
            return None
        if data is None:
            return None
        top = top_of(load(data).splits[TEST_SPLIT])

        def opened(name: str) -> Image | None:
            from PIL import Image, ImageOps

            try:
                with Image.open(top / name) as image:
                    return ImageOps.exif_transpose(image).convert("RGB")
            except OSError:
                return None

        return opened


def _outcome(comparison: Comparison | None, override: Override | None) -> tuple[Outcome, str]:
    if override is not None:
        said = f"{override.actor} promoted it past the gate: {override.why}"
        if comparison is None:
            return Outcome.PROMOTED, f"{said}; it was never evaluated on the test split"
        gate = comparison.incomparable or f"{comparison.result.outcome}, {comparison.result.reason}"
        return Outcome.PROMOTED, f"{said}; the gate says: {gate}"
    if comparison is None:
        return Outcome.INCONCLUSIVE, "it was never evaluated on the test split"
    if comparison.incomparable:
        return Outcome.INCONCLUSIVE, comparison.incomparable
    return Outcome(comparison.result.outcome), comparison.result.reason

"""Register a challenger as a model version: its run, files, tags and description."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import TrackingError
from hpo.promotion.report.render import model_card
from hpo.studies.finals import finals_of
from hpo.studies.preflight import data_here
from hpo.tracking.mirror import open_mirror
from hpo.tracking.registry import DECISION
from hpo.tracking.runs import live_run
from hpo.trainer import Job

if TYPE_CHECKING:
    import uuid

    from hpo.promotion.collector import EvidenceCollector
    from hpo.promotion.decision import Decision
    from hpo.promotion.request import FinalizeRequest
    from hpo.settings import Settings
    from hpo.storage.postgres.engine import Database
    from hpo.studies.store import Study
    from hpo.tracking.registry import Registry, Version
    from hpo.trainer import Package

BUSY_S = 60.0  # how long to wait for another mirror that writes this trial
POLL_S = 0.5


def trial_run_id(database: Database, settings: Settings, study: Study, trial_id: int) -> str:
    """Id of the trial's run; made, and filled, where MLflow lacks it.

    Raises:
        TrackingError: MLflow cannot be reached, or another mirror never ends.
        WeightsError: a file of the trial is missing or was altered.
    """
    mirror = open_mirror(settings, study.study_id, database=database)
    try:
        until = time.monotonic() + BUSY_S
        while time.monotonic() < until:
            mirror.sync_trial(trial_id)
            run_id = mirror.sync_state.complete_run(trial_id)
            if run_id is not None and live_run(mirror.client(), run_id) is not None:
                return run_id
            if run_id is not None:
                mirror.reconcile()  # deleted in MLflow: it is built again
            else:
                time.sleep(POLL_S)  # another mirror is at it
    finally:
        mirror.close()
    raise TrackingError(
        f"the trial's run in MLflow was not complete after {BUSY_S:g} s",
        hint=f"`hpo mirror sync --study {study.name}` says what holds it; then try again.",
    )


# Evidence that is shown as tags `hpo.<name>`.
SHOWN = (
    "value", "test_value", "metric", "direction", "best_epoch", "seed", "weights_name",
    "weights_sha256", "spec_sha256", "dataset_fingerprint", "test_fingerprint", "trainer",
    "code_version",
)  # fmt: skip
LONGEST_PARAM = 250  # characters of a parameter shown with the logged model


@dataclass
class Registration:
    """What the registry is to hold of one challenger.

    Attributes:
        request: what was asked.
        evidence: about the challenger.
        registry: where to.
        key: the version's name: of the promotion that it was made for.
    """

    request: FinalizeRequest
    evidence: EvidenceCollector
    registry: Registry
    key: uuid.UUID

    @cached_property
    def run_id(self) -> str:
        """The MLflow run of the training whose weights it is, made where it is missing."""
        study, run = self.request.study, self.evidence.run
        database = self.request.database
        finals = None if run.own else finals_of(database.engine, study)
        return trial_run_id(database, self.request.settings, finals or study, run.trial_id)

    def version(self, weights: Path, decision: Decision) -> Version:
        """The version with these weights, made or found; no alias is moved yet.

        Raises:
            ExportError: an ONNX file was asked for, and it does not find what the weights find.
        """
        found = self.registry.find(str(self.key), decision.model)
        if found is not None:
            return found
        params = self.evidence.challenger.candidate.params
        tags = self._tags(decision)
        return self.registry.create(
            decision.model, self.run_id, self._package(weights, decision, tags), tags=tags,
            params={name: str(value)[:LONGEST_PARAM] for name, value in params.items()},
            description=self._description(decision),
        )  # fmt: skip

    def _package(self, weights: Path, decision: Decision, tags: dict[str, str]) -> Package:
        package = self.request.runtime.package(weights, self._job())
        artifacts = dict(package.artifacts)
        if self.request.onnx and self.request.study.spec.promotion.onnx:
            self.request.say("exporting to ONNX, and comparing what it detects")
            artifacts["onnx"] = self.request.runtime.export_onnx(weights, self._job())
        placed = replace(decision, evidence=replace(decision.evidence, run_id=self.run_id))
        context = replace(
            self.evidence.report_context(placed, self.key),
            licence=package.licence,
            licence_note=package.licence_note,
        )
        return replace(package, artifacts=artifacts, card=model_card(context), metadata=tags)

    def _tags(self, decision: Decision) -> dict[str, str]:
        evidence = decision.evidence
        shown = {name: getattr(evidence, name) for name in SHOWN}
        own = {"hpo.study": decision.study, "hpo.trial": str(decision.trial)}
        tags = {f"hpo.{name}": str(value) for name, value in shown.items() if value is not None}
        simulated = {"simulated": "true"} if decision.simulated else {}
        return {DECISION: str(self.key), **own, **tags, **simulated}

    def _description(self, decision: Decision) -> str:
        evidence = decision.evidence
        simulated = "SIMULATED, no real training. " if decision.simulated else ""
        test = evidence.test_value
        held_out = "" if test is None else f", {test:.5f} on the test split"
        return (
            f"{simulated}Trial {decision.trial} of the study {decision.study}: "
            f"{evidence.metric} {evidence.value:.5f} at epoch {evidence.best_epoch}"
            f"{held_out}. What it is and what it is not for: README.md, the model card. Why, and "
            "how to undo it: decision.html among the artifacts of its run."
        )

    def _job(self) -> Job:
        """The challenger's training, as the context of a packaging."""
        spec, candidate = self.request.study.spec, self.evidence.challenger.candidate
        params = candidate.params
        return Job(
            trial=candidate.number, model=spec.model, params=params, train=spec.train,
            epochs=spec.budget.epochs or int(params["epochs"]), seed=self.evidence.run.seed,
            metric=spec.objective.metric, direction=spec.objective.direction, data=self._data(),
            device=self.request.device, run_dir=Path(tempfile.mkdtemp(dir=self.request.scratch)),
        )  # fmt: skip

    def _data(self) -> Path | None:
        """The dataset on this machine; packaging does without it."""
        return data_here(self.request.study, self.request.settings)

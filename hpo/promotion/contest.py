"""A candidate against the present champion: compare, then promote or keep, and record; once.

Works while the lock of the model is held. Every step can be repeated: whoever was killed in between
left what the next caller completes.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.artifacts.opening import open_store
from hpo.database.engine import storage_url
from hpo.datasets.builtin import resolve
from hpo.errors import DatasetError, WeightsError
from hpo.promotion import record
from hpo.promotion.comparison import Comparison, Judge
from hpo.promotion.decision import Decision, Outcome, kept_id, promotion_id
from hpo.promotion.lock import require_held
from hpo.promotion.lost import recorded_champion, require_restored
from hpo.promotion.registration import Registration
from hpo.tracking.client import open_client
from hpo.tracking.registry import Registry
from hpo.trainer import Job, load_trainer
from hpo.trial_rows import trial_rows

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

    from hpo.promotion.candidate import Candidate, Standing
    from hpo.promotion.comparison import Workshop
    from hpo.settings import Settings
    from hpo.study import Study
    from hpo.tracking.registry import Version


@dataclass(frozen=True)
class Order:
    """What `finalize` was asked; its docstring explains each.

    Attributes:
        connection: holds the lock; what is read and recorded goes through it.
        scratch: a folder that is removed afterwards.
    """

    engine: Engine
    settings: Settings
    study: Study
    workshop: Workshop
    open_ok: bool
    dry_run: bool
    say: Callable[[str], None]
    device: str
    connection: Connection
    scratch: Path


class Contest:
    """One candidate's decision; `decide` is called once."""

    def __init__(self, order: Order, stands: Standing, candidate: Candidate) -> None:
        self._order, self._study = order, order.study
        self._stands, self._candidate = stands, candidate
        self._key = promotion_id(order.study, candidate)
        self._registry = Registry(open_client(order.settings, storage_url(order.settings)))

    def decide(self) -> Decision:
        """Compare with the champion, then act; see `finalize` for what is raised."""
        target = self._study.spec.promotion
        champion = self._registry.champion(target.model, target.alias)
        if champion is not None and champion.decision == str(self._key):
            return self._complete(champion)
        if champion is not None and (kept := self._kept_before(champion)) is not None:
            return kept
        comparison = self._compared(champion)
        if comparison.wins or champion is None:
            return self._promote(self._decision(Outcome.PROMOTED, comparison, champion))
        kept = self._decision(Outcome.KEPT, comparison, champion)
        return self._keep(replace(kept, version=champion.number), champion)

    def _compared(self, champion: Version | None) -> Comparison:
        target, order = self._study.spec.promotion, self._order
        if champion is None:
            lost = require_restored(order.connection, self._registry, self._study, target.model)
            if lost is not None:
                return Comparison(
                    wins=True,
                    reason=f"MLflow lost the champion before it, version {lost.version} of "
                    f"'{lost.study_name}'",
                )
        return self._judge().compare(self._candidate, champion)

    def restore(self, done: Decision) -> Decision:
        """Make the version of a recorded promotion again where MLflow lost it.

        The record stays as it is; the new version may have another number. The alias is set where
        nothing has it and the record's last word is this promotion.
        """
        if self._registry.find(str(self._key)) is not None:
            return done  # also where its alias was taken away: an undone promotion stays undone
        reason = f"{done.reason}; MLflow had lost it"
        if self._order.dry_run:
            return replace(done, reason=f"{reason}, it would be made again", dry_run=True)
        version = self._registration.version(self._weights(), done)
        last = recorded_champion(self._order.connection, done.model)
        champion = self._registry.champion(done.model, done.alias)
        if champion is None and last is not None and last.promotion_id == self._key:
            require_held(self._order.connection)
            self._registration.crown(version, done)
        self._store_text(done)
        return replace(
            done, version=version.number,
            reason=f"{reason}: recorded as version {done.version}, made again as "
            f"version {version.number}",
        )  # fmt: skip

    def _promote(self, decision: Decision) -> Decision:
        # Checked before anything is written, so that nothing is half-promoted.
        weights = self._weights()
        if decision.dry_run:
            return decision
        version = self._registration.version(weights, decision)
        require_held(self._order.connection)
        self._registration.crown(version, decision)
        return self._record(replace(decision, version=version.number), self._key)

    def _complete(self, version: Version) -> Decision:
        """The alias was moved, the row not written: someone was killed in between."""
        comparison, previous = self._registration.interrupted(version)
        decision = replace(
            self._decision(Outcome.PROMOTED, comparison, None),
            version=version.number, previous_version=previous,
        )  # fmt: skip
        return decision if decision.dry_run else self._record(decision, self._key)

    def _keep(self, decision: Decision, champion: Version) -> Decision:
        if decision.dry_run:
            return decision
        comparable = bool(decision.evidence["comparable"])
        name = kept_id(self._key, _identity(champion), comparable=comparable)
        before = record.recorded(self._order.connection, name)
        return before or self._record(decision, name)

    def _kept_before(self, champion: Version) -> Decision | None:
        """The recorded decision that this very champion stays before this very candidate."""
        # A person who asks again wants another try where the two could not be compared.
        for comparable in (True,) if self._order.open_ok else (True, False):
            name = kept_id(self._key, _identity(champion), comparable=comparable)
            if (kept := record.recorded(self._order.connection, name)) is not None:
                return kept
        return None

    def _record(self, decision: Decision, name: uuid.UUID) -> Decision:
        """decision.md, then the row."""
        decision = self._store_text(decision)
        record.insert(self._order.connection, self._study, name, decision)
        return decision

    def _store_text(self, decision: Decision) -> Decision:
        """decision.md in the trial's run; the decision with that run in its evidence."""
        connection, run_id = self._order.connection, self._registration.run_id
        decision = replace(decision, evidence={**decision.evidence, "run_id": run_id})
        params = {row.number: row.params for row in trial_rows(connection, self._study)}
        trials = record.figures(connection, self._study, params)
        text = record.as_markdown(self._study, decision, trials)
        self._registry.log_text(run_id, "decision.md", text)
        return decision

    def _decision(
        self, outcome: Outcome, comparison: Comparison, champion: Version | None
    ) -> Decision:
        target = self._study.spec.promotion
        return Decision(
            outcome, self._study.name, target.model, target.alias, comparison.reason,
            self._candidate.number,
            previous_version=None if champion is None else champion.number,
            evidence=self._evidence() | comparison.evidence(),
            dry_run=self._order.dry_run,
        )  # fmt: skip

    def _evidence(self) -> dict[str, Any]:
        spec, candidate = self._study.spec, self._candidate
        return {
            "value": candidate.value,
            "metric": spec.objective.metric,
            "direction": spec.objective.direction,
            "best_epoch": candidate.best_epoch,
            "params": candidate.params,
            "weights_name": candidate.weights_name,
            "weights_sha256": candidate.weights_sha256,
            "spec_sha256": self._study.spec_sha256,
            "dataset_fingerprint": self._study.fingerprint,
            "trainer": spec.trainer,
            "code_version": self._study.code_version,
            "simulated": load_trainer(spec.trainer).describe().simulated,
            "trials": self._stands.counts,
        }

    def _weights(self) -> Path:
        """The candidate's weights, their content checked."""
        name, sha256 = self._candidate.weights_name, self._candidate.weights_sha256
        if name is None or sha256 is None:
            raise WeightsError(
                f"trial {self._candidate.number} of '{self._study.name}' kept no weights",
                hint="Its artifacts were deleted, or its trainer keeps none.",
            )
        target = self._order.scratch / "weights" / name.rpartition("/")[2]
        return open_store(self._order.settings).fetch(sha256, target)

    @cached_property
    def _registration(self) -> Registration:
        order = self._order
        return Registration(
            order.settings, self._study, self._candidate, self._key,
            self._registry, lambda weights: order.workshop.package(weights, self._job()),
        )  # fmt: skip

    def _judge(self) -> Judge:
        order = self._order
        return Judge(
            order.connection, order.settings, self._study, self._registry,
            open_store(order.settings), order.workshop, self._job, order.say,
        )  # fmt: skip

    def _job(self) -> Job:
        """The candidate's training, as the context of an evaluation or a packaging."""
        spec, params = self._study.spec, self._candidate.params
        return Job(
            trial=self._candidate.number, model=spec.model, params=params, train=spec.train,
            epochs=spec.budget.epochs or int(params["epochs"]), seed=spec.seed,
            metric=spec.objective.metric, direction=spec.objective.direction, data=self._data(),
            device=self._order.device, run_dir=Path(tempfile.mkdtemp(dir=self._order.scratch)),
        )  # fmt: skip

    def _data(self) -> Path | None:
        """The dataset on this machine; packaging does without it."""
        home, data = self._order.settings.home, self._study.spec.data
        try:
            return None if data is None else resolve(data, home=home, base=home.parent)
        except DatasetError:
            return None


def _identity(champion: Version) -> str:
    """A champion's version, told apart from one of the same number in another registry."""
    return f"{champion.number} {champion.decision} {champion.source}"

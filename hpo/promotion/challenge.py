"""Let a challenger meet the present champion: compare, then promote or keep, and record.

All of it happens while the lock of the model is held. Every step can be repeated: whoever was
killed in between left what the next caller completes.
"""

from __future__ import annotations

import tempfile
import uuid
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import ChampionError, HpoError, ServiceError, WeightsError
from hpo.promotion import ledger
from hpo.promotion.alias import (
    Move,
    command,
    complete_pending_move,
    move,
    put_back,
    read_alias_state,
)
from hpo.promotion.champion_evaluation import ChampionEvaluator, TestSplit, load_detections
from hpo.promotion.collector import EvidenceCollector
from hpo.promotion.decision import Decision, Outcome, kept_id, override_id
from hpo.promotion.gate import compare
from hpo.promotion.ledger import recorded_champion, require_restored
from hpo.promotion.lock import require_held
from hpo.promotion.registration import Registration
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres.engine import storage_url
from hpo.studies.preflight import require_test_split
from hpo.tracking.client import open_client
from hpo.tracking.registry import Registry

if TYPE_CHECKING:
    from hpo.evaluation.detections import Detections
    from hpo.promotion.alias import AliasState
    from hpo.promotion.candidates import Finalist, SeedRun, StudyCompletion
    from hpo.promotion.champion_evaluation import EvaluatedChampion
    from hpo.promotion.gate import Comparison
    from hpo.promotion.request import FinalizeRequest
    from hpo.tracking.registry import Version


class ChampionChallenge:
    """The decision about the first finalist that nothing speaks against.

    Attributes:
        key: the name of its promotion.
    """

    def __init__(
        self, request: FinalizeRequest, completion: StudyCompletion, finalists: list[Finalist]
    ) -> None:
        """`finalists`: best by validation first; one of them at least can challenge."""
        self._request, self._study = request, request.study
        self._store = open_store(request.settings)
        self._evidence = EvidenceCollector(request, completion, finalists, self._store)
        self._trial: int = self._evidence.challenger.candidate.number
        self._run: SeedRun = self._evidence.run
        self.key = self._evidence.key
        self._registry = Registry(
            open_client(
                request.settings, storage_url(request.settings), through=request.database.engine
            )
        )

    def decide(self) -> Decision:
        """Compare with the champion, then act; see `finalize` for what is raised."""
        target, request = self._study.spec.promotion, self._request
        state = self._alias_state(target.model, target.alias)
        champion = state.champion
        if in_the_way := self._in_the_way(state):
            return self._stand_aside(state, in_the_way)
        if champion is not None and champion.decision == str(self.key):
            return self._already_there(champion)  # also by one who was killed: completed just now
        before = None if request.override is not None else self._before(state)
        if before is not None:
            return before
        lost = self._lost() if champion is None else ""
        incumbent, incomparable = self._incumbent(champion)
        return self._act(state, self._compared(incumbent, incomparable), incumbent, lost)

    def _before(self, state: AliasState) -> Decision | None:
        """What was decided earlier about this challenger and this champion."""
        record = state.record
        if (
            record is not None
            and record.override
            and record.study_id == self._study.study_id
            # A person chose another trial of this study, knowing of this one
            and ledger.is_known(self._request.connection, self._study, self._trial, record.seq)
        ):
            return Decision.from_row(record)
        return self._kept_before(state.champion)

    def _alias_state(self, model: str, alias: str) -> AliasState:
        """How alias and record stand; an interrupted move is completed, but for a dry run."""
        if self._request.dry_run:
            return read_alias_state(self._request.connection, self._registry, model, alias)
        return complete_pending_move(self._request.connection, self._registry, model, alias)

    def _name(self, state: AliasState) -> uuid.UUID:
        """The name of the row that records the move of the alias."""
        if self._request.override is None:
            return self.key
        return override_id(self.key, 0 if state.record is None else state.record.seq)

    def _lost(self) -> str:
        """Say that MLflow lost the champion before; "" where it did not."""
        target, request = self._study.spec.promotion, self._request
        lost = require_restored(
            request.connection, self._registry, self._study, target.model, target.alias
        )
        if lost is None:
            return ""
        return f"MLflow lost the champion before it, version {lost.version} of '{lost.study_name}'"

    def _incumbent(self, champion: Version | None) -> tuple[EvaluatedChampion | None, str]:
        """The champion with its figures, or why it has none here."""
        request = self._request
        if champion is None:
            return None, ""
        evaluator = ChampionEvaluator(
            connection=request.connection,
            study=self._study,
            registry=self._registry,
            store=self._store,
            runtime=request.runtime,
            test_split=self._test_split,
            progress=request.say,
            keep=not request.dry_run,
        )
        try:
            return evaluator.evaluated(champion), ""
        except ServiceError:
            raise
        except HpoError as error:
            return None, f"version {champion.number} cannot be evaluated here ({error})"

    def _compared(
        self, incumbent: EvaluatedChampion | None, incomparable: str
    ) -> Comparison | None:
        """What the test split says; None where the challenger was never evaluated on it."""
        evaluated = self._run.evaluated
        if evaluated is None:
            return None
        comparison = compare(self._study, evaluated, self._detections(), incumbent)
        if incomparable or comparison.incomparable:
            number, name = self._trial, self._study.name
            text = (
                f"the two cannot be compared: {incomparable or comparison.incomparable}. "
                f"`hpo promote {number} --study {name} --why TEXT` promotes it all the same; or "
                "create the study with another promotion.model than "
                f"'{self._study.spec.promotion.model}'"
            )
            return replace(comparison, incomparable=text)
        return comparison

    def _act(
        self,
        state: AliasState,
        comparison: Comparison | None,
        incumbent: EvaluatedChampion | None,
        lost: str,
    ) -> Decision:
        request, champion = self._request, state.champion
        decision = self._evidence.decision(champion, comparison, incumbent, request.override)
        if lost and decision.outcome is Outcome.PROMOTED:
            reason = f"{lost}; {decision.reason}"
            evidence = replace(decision.evidence, reason=reason)
            decision = replace(decision, reason=reason, evidence=evidence)
        if decision.outcome is Outcome.PROMOTED:
            return self._promote(decision, state)
        if champion is None:  # a first champion that breaks an absolute rule
            return self._keep(decision, "none")
        return self._keep(replace(decision, version=champion.number), _identity(champion))

    def _promote(self, decision: Decision, state: AliasState) -> Decision:
        # Checked before anything is written, so that nothing is half-promoted.
        weights = self._weights()
        if decision.dry_run:
            return decision
        version = self._registration.version(weights, decision)
        before = None if state.champion is None else state.champion.number
        name, connection = self._name(state), self._request.connection
        decision = self._publish(replace(decision, version=version.number), name)
        row = ledger.row_of(self._study, name, decision)
        require_held(connection)
        step = Move(
            model=decision.model,
            alias=decision.alias,
            to=version.number,
            before=before,
            decision_id=name,
            row=row,
        )
        move(connection, self._registry, step)
        ledger.write(connection, row)
        return decision

    def _already_there(self, champion: Version) -> Decision:
        row = ledger.promotion_of(self._request.connection, str(self.key))
        if row is None:
            raise WeightsError(f"version {champion.number} is not on record as a promotion")
        return replace(Decision.from_row(row), version=champion.number)

    def _in_the_way(self, state: AliasState) -> str:
        """What was done outside this service that a person must settle first; "" for nothing."""
        if state.external_change:
            # A version that was deleted can be made again, or is the study's own to replace
            return "" if state.gone else state.external_change
        model, alias = self._study.spec.promotion.model, self._study.spec.promotion.alias
        if state.champion is not None or state.record is not None:
            return ""
        foreign = ", ".join(str(number) for number in self._registry.foreign(model))
        if not foreign:
            return ""
        return (
            f"the model name '{model}' is taken in MLflow by what is not of this service: version "
            f"{foreign}. Create the study with another promotion.model; or "
            f"{command(model, alias, 'VERSION')} takes one of them for the champion to beat"
        )

    def _stand_aside(self, state: AliasState, reason: str) -> Decision:
        """Record that the alias was moved outside this service, and overwrite nothing."""
        stays = None if state.record is None else state.record.version
        if self._request.override is not None:
            raise ChampionError(reason, hint="Settle that first; then promote the trial again.")
        decision = replace(
            self._evidence.decision(state.champion, None, None, None),
            outcome=Outcome.INCONCLUSIVE, reason=reason, version=stays, previous_version=stays,
        )  # fmt: skip
        evidence = replace(decision.evidence, reason=decision.reason, comparable=False)
        decision = replace(decision, evidence=evidence)
        if decision.dry_run:
            return decision
        name = uuid.uuid5(self.key, f"stood aside {decision.reason}")
        before = ledger.recorded(self._request.connection, name)
        return before or self._record(decision, name)

    def restore(self, done: Decision) -> Decision:
        """Make the version of a recorded promotion again where MLflow lost it.

        The record stays as it is; the new version may have another number. The alias is set where
        nothing has it and the record's last word is this promotion.
        """
        if self._registry.find(str(self.key), done.model) is not None:
            return done  # also where its alias was taken away: an undone promotion stays undone
        reason = f"{done.reason}; MLflow had lost it"
        if self._request.dry_run:
            return replace(done, reason=f"{reason}, it would be made again", dry_run=True)
        version = self._registration.version(self._weights(), done)
        last = recorded_champion(self._request.connection, done.model, done.alias)
        champion = self._registry.champion(done.model, done.alias)
        if champion is None and last is not None and ledger.made_by(last) == str(self.key):
            put_back(self._request.connection, self._registry, version, done.alias)
        self._publish(replace(done, version=version.number), self.key)
        return replace(
            done, version=version.number,
            reason=f"{reason}: recorded as version {done.version}, made again as "
            f"version {version.number}",
        )  # fmt: skip

    def _keep(self, decision: Decision, champion: str) -> Decision:
        if decision.dry_run:
            return decision
        comparable = decision.evidence.comparable
        name = kept_id(self.key, champion, comparable=comparable)
        before = ledger.recorded(self._request.connection, name)
        return before or self._record(decision, name)

    def _kept_before(self, champion: Version | None) -> Decision | None:
        """The recorded decision that this very champion stays before this very challenger."""
        if champion is None:
            return None
        # A person who asks again wants another try where the two could not be compared.
        for comparable in (True,) if self._request.open_ok else (True, False):
            name = kept_id(self.key, _identity(champion), comparable=comparable)
            if (kept := ledger.recorded(self._request.connection, name)) is not None:
                return kept
        return None

    def _record(self, decision: Decision, name: uuid.UUID) -> Decision:
        """The decision's files, then the row."""
        decision = self._publish(decision, name)
        ledger.insert(self._request.connection, self._study, name, decision)
        return decision

    def _publish(self, decision: Decision, name: uuid.UUID) -> Decision:
        """The decision's files in the run; the decision with that run in its evidence."""
        run_id = self._registration.run_id
        decision = replace(decision, evidence=replace(decision.evidence, run_id=run_id))
        for file, text in self._evidence.files(decision, name).items():
            self._registry.log_text(run_id, file, text)
        return decision

    def _weights(self) -> Path:
        """The challenger's weights, their content checked."""
        name, sha256 = self._run.weights_name, self._run.weights_sha256
        return self._store.fetch(
            sha256, self._request.scratch / "weights" / name.rpartition("/")[2]
        )

    def _detections(self) -> Detections | None:
        evaluated = self._run.evaluated
        sha256 = None if evaluated is None else evaluated.detections_sha256
        return None if sha256 is None else load_detections(self._store, sha256)

    def _test_split(self) -> TestSplit:
        request = self._request
        data, fingerprint = require_test_split(
            self._study, request.settings, request.database.engine, say=request.say
        )
        folder = Path(tempfile.mkdtemp(dir=self._request.scratch))
        return TestSplit(data, fingerprint, self._request.device, folder)

    @cached_property
    def _registration(self) -> Registration:
        return Registration(self._request, self._evidence, self._registry, self.key)


def _identity(champion: Version) -> str:
    """A champion's version, told apart from one of the same number in another registry."""
    return f"{champion.number} {champion.decision} {champion.source}"

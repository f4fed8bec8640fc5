"""Move a champion's alias by hand: back, to a named version, or away; recorded like the rest.

A rollback works under the lock of the registered model. MLflow's alias moves first and the row is
written last; what is left by whoever was killed in between, the next call completes.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from hpo.errors import ChampionError, TrackingError, UsageError
from hpo.promotion import ledger
from hpo.promotion.alias import Move, command, complete, is_same, move, read_alias_state
from hpo.promotion.decision import Decision, Outcome
from hpo.promotion.evidence import Evidence
from hpo.promotion.ledger import history, succession
from hpo.promotion.lock import promotion_lock
from hpo.storage.postgres.engine import storage_url
from hpo.tracking.client import error_code, open_client
from hpo.tracking.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from hpo.promotion.alias import AliasState
    from hpo.settings import Settings
    from hpo.storage.postgres.engine import Database
    from hpo.tracking.registry import Version

Goal = int | Literal["before", "none"]  # a version, the champion before the present one, or none
# Of the evidence that the version was promoted on
KEPT = (
    "metric", "direction", "value", "best_epoch", "test_value", "params", "weights_name",
    "weights_sha256", "spec_sha256", "dataset_fingerprint", "test_fingerprint", "trainer",
    "code_version", "simulated", "run_id",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks for.

    Attributes:
        model: the registered model.
        alias: of its champion.
        to: where it is to point.
        why: what the person says.
        actor: who it is, as user@host.
    """

    model: str
    alias: str
    to: Goal
    why: str
    actor: str


def roll_back(
    database: Database,
    settings: Settings,
    request: Request,
    progress: Callable[[str], None] | None = None,
) -> Decision:
    """Move the alias as asked and record it; `already` when that completed an interrupted call.

    Args:
        database: the database.
        settings: where MLflow is.
        request: what is asked.
        progress: told when another holds the model's lock.

    Raises:
        UsageError: no reason is given, the version does not exist, or it is champion already.
        ChampionError: there is no champion, or the alias was moved outside this service and `to`
            leaves open what to do about that.
        TrackingError: MLflow cannot be reached, or refuses; nothing is recorded.
    """
    if not request.why.strip():
        raise UsageError("--why is empty", hint="Say in a few words why; it is recorded.")
    say = progress or (lambda _: None)
    wait = f"another promotion of '{request.model}' is under way; waiting for it"
    with promotion_lock(database, request.model, lambda: say(wait)) as connection:
        registry = Registry(open_client(settings, storage_url(settings), through=database.engine))
        try:
            return _Rollback(connection, registry, request).done()
        except Exception as error:
            if not error_code(error):
                raise
            raise TrackingError(
                f"MLflow refused to move the alias '{request.alias}' of '{request.model}': {error}",
                hint="Nothing was recorded; mend it and run `hpo rollback` again.",
            ) from error


class _Rollback:
    """One request; `done` is called once."""

    def __init__(self, connection: Connection, registry: Registry, request: Request) -> None:
        self._connection, self._registry, self._request = connection, registry, request

    def done(self) -> Decision:
        """Move the alias as requested and record the rollback."""
        request = self._request
        state = read_alias_state(self._connection, self._registry, request.model, request.alias)
        if state.pending is not None:
            earlier = state.pending
            complete(self._connection, self._registry, earlier)
            goal = "none" if earlier.to is None else earlier.to
            rolled_back = earlier.row["outcome"] == Outcome.ROLLED_BACK.value
            if rolled_back and request.to in ("before", goal):
                # Most likely the same person, who saw the first call die
                return self._recorded(earlier)
            state = read_alias_state(self._connection, self._registry, request.model, request.alias)
        target = self._target(state)
        self._refuse_nothing(state, target)
        return self._move(state, target)

    def _target(self, state: AliasState) -> Version | None:
        """The version that becomes champion; None: none does."""
        request = self._request
        if request.to == "before":
            return self._before(state)
        if request.to == "none":
            return None
        found = self._registry.get(request.model, request.to)
        if found is None:
            raise UsageError(
                f"MLflow has no version {request.to} of {request.model}",
                hint=f"`hpo champion --model {request.model} --history` lists them.",
            )
        return found

    def _before(self, state: AliasState) -> Version | None:
        request = self._request
        if state.lost:
            self._refuse_lost(state)
        if state.external_change and not state.gone:
            raise ChampionError(state.external_change, hint="Say with --to which of them you want.")
        line = succession(history(self._connection, request.model, request.alias))
        if not line:
            raise ChampionError(
                f"{request.model} has no champion with the alias '{request.alias}'",
                hint="`hpo finalize` makes one of a study's best trial.",
            )
        if state.record is None or state.record.version is not None:
            line = line[:-1]  # of which the last one is champion now
        if not line:
            return None
        earlier = line[-1]
        if earlier.decision is None:
            found = self._registry.get(request.model, earlier.version)
        else:
            found = self._registry.find(earlier.decision, request.model)
        if found is None:
            raise ChampionError(
                f"version {earlier.version} of {request.model}, the champion before, is not in "
                "MLflow any more",
                hint=f"{command(request.model, request.alias, 'VERSION')} goes to another, "
                "`--to none` to none.",
            )
        return found

    def _refuse_lost(self, state: AliasState) -> None:
        record, model = state.record, self._request.model
        if record is None:
            return
        raise ChampionError(
            f"MLflow holds nothing of {model}, of which version {record.version} is champion on "
            "record: its records were lost, or this is another MLflow",
            hint=f"`hpo finalize --study {record.study_name}` makes the champion again.",
        )

    def _refuse_nothing(self, state: AliasState, target: Version | None) -> None:
        """A request that changes neither the alias nor the record."""
        request, record = self._request, state.record
        if state.external_change or state.lost or not is_same(record, target):
            return
        what = f"{request.model} has no champion"
        if target is not None:
            what = f"version {target.number} of {request.model} is champion already"
        raise UsageError(
            f"{what} (alias '{request.alias}'): nothing was changed",
            hint=f"`hpo champion --model {request.model} --history` tells since when.",
        )

    def _move(self, state: AliasState, target: Version | None) -> Decision:
        request, decision_id = self._request, uuid.uuid4()
        to = None if target is None else target.number
        before = self._number_before(state)
        promoted = self._promotion(target)
        study_id, study = self._study(state, promoted)
        reason = _reason(state, target, before)
        known = {} if promoted is None else promoted.evidence
        evidence = replace(
            Evidence.from_json({name: known[name] for name in KEPT if name in known}),
            reason=reason,
            decision=None if target is None else target.decision,
            external_change=state.external_change,
        )
        stated = (evidence.stated or frozenset()) | {"decision"}
        decision = Decision(
            outcome=Outcome.ROLLED_BACK,
            study=study,
            model=request.model,
            alias=request.alias,
            reason=reason,
            trial=None if promoted is None else promoted.trial_number,
            version=to,
            previous_version=before,
            evidence=replace(evidence, stated=stated),
            why=request.why,
            actor=request.actor,
        )
        row = ledger.row_of_study(study_id, decision_id, decision)
        step = Move(
            model=request.model,
            alias=request.alias,
            to=to,
            before=before,
            decision_id=decision_id,
            row=row,
        )
        move(self._connection, self._registry, step)
        ledger.write(self._connection, row)
        return decision

    @staticmethod
    def _number_before(state: AliasState) -> int | None:
        """The number of the champion on record, today's where MLflow holds it."""
        if state.shown is not None:
            return state.shown.number
        return None if state.record is None else state.record.version

    def _promotion(self, target: Version | None) -> Any:
        """The row that a version was promoted by; None where it was not, or is not known here."""
        if target is None or target.decision is None:
            return None
        return ledger.promotion_of(self._connection, target.decision)

    def _study(self, state: AliasState, promoted: Any) -> tuple[int, str]:
        """Id and name of the study that the row belongs to."""
        row = promoted or state.record
        if row is not None:
            return row.study_id, row.study_name
        model = self._request.model
        found = ledger.promoting_study(self._connection, model)
        if found is None:
            raise ChampionError(
                f"nothing is recorded of {model}, and no study here promotes to it",
                hint="`hpo list` shows the studies; is this the database meant?",
            )
        return found.study_id, found.name

    def _recorded(self, earlier: Move) -> Decision:
        found = ledger.recorded(self._connection, earlier.decision_id)
        if found is None:
            raise ChampionError(f"the row {earlier.decision_id} was not written")
        return replace(found, already=True)


def _reason(state: AliasState, target: Version | None, before: int | None) -> str:
    here, there = (None if one is None else one.number for one in (state.champion, target))
    if state.external_change and not state.gone:
        if here == there:
            return f"set so outside this service; accepted, in place of {_version(before)}"
        if there is not None and there == before:
            return f"put back: it was set to {_version(here)} outside this service"
    return f"in place of {_version(before)}"


def _version(number: int | None) -> str:
    return "none" if number is None else f"version {number}"

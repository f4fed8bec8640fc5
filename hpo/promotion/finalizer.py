"""Make one of a study's best trials the champion of a registered model, once, whoever asks.

The steps, in the order that makes each of them repeatable: the finals are read, the challenger is
compared, its weights are checked, the version is made (or found by the decision it is for), the
aliases are moved, the decision record is stored, and the row of hpo.promotion is written last.
Whoever is killed in between leaves what the next caller completes.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import TrackingError
from hpo.promotion import ledger
from hpo.promotion.candidates import (
    candidate_of,
    finalists_of,
    finals_missing,
    ranked_candidates,
    study_completion,
    unexamined,
)
from hpo.promotion.decision import Decision, Outcome, none_id
from hpo.promotion.evidence import Evidence
from hpo.promotion.lock import promotion_lock
from hpo.promotion.request import FinalizeRequest
from hpo.tracking.client import error_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.promotion.candidates import Candidate, Finalist, StudyCompletion
    from hpo.promotion.champion_evaluation import TrainerRuntime
    from hpo.promotion.request import Override
    from hpo.settings import Settings
    from hpo.storage.postgres.engine import Database
    from hpo.studies.store import Study


def finalize(
    database: Database,
    settings: Settings,
    study: Study,
    runtime: TrainerRuntime,
    *,
    open_ok: bool = False,
    dry_run: bool = False,
    override: Override | None = None,
    onnx: bool = True,
    progress: Callable[[str], None] | None = None,
    device: str = "cpu",
) -> Decision:
    """Promote the study's challenger, or say why not; safe to call again, and by many at once.

    Args:
        database: the database; mirrors of it wait meanwhile.
        settings: where the artifacts, the data and MLflow are.
        study: the study.
        runtime: the trainer's heavy verbs.
        open_ok: whether to decide by what is complete where the study is not finished, to try
            again where the champion could not be evaluated earlier, and to make a version again
            that MLflow lost; a person who asks wants all three.
        dry_run: whether to write nothing and say what would be done.
        override: a person's wish to promote a certain trial, past the gate.
        onnx: False leaves out the ONNX file that the study asks for.
        progress: told what takes long.
        device: what the champion is evaluated on, where that is needed.

    Raises:
        UsageError: the trial of an override is not complete.
        WeightsError: the challenger's weights are missing or not those that were stored.
        MismatchError: the test split is not as it was, and the champion must be evaluated on it.
        TrackingError: MLflow cannot be reached, or refuses; nothing is recorded.
        DatabaseError: PostgreSQL went away; a later call completes.
    """
    say = progress or (lambda _: None)
    model = study.spec.promotion.model
    wait = f"another promotion of '{model}' is under way; waiting for it"
    with (
        promotion_lock(database, model, lambda: say(wait)) as connection,
        tempfile.TemporaryDirectory(prefix="hpo-finalize-") as scratch,
    ):
        request = FinalizeRequest(
            database=database,
            settings=settings,
            study=study,
            runtime=runtime,
            open_ok=open_ok,
            dry_run=dry_run,
            override=override,
            onnx=onnx,
            say=say,
            device=device,
            connection=connection,
            scratch=Path(scratch),
        )
        return _decided(request)


def _decided(request: FinalizeRequest) -> Decision:
    """The decision; what MLflow refuses is told in our words."""
    try:
        return _decide(request)
    except Exception as error:
        if not error_code(error):
            raise
        model = request.study.spec.promotion.model
        raise TrackingError(
            f"MLflow refused to go on with the promotion to '{model}': {error}",
            hint="Nothing was recorded; mend it and run `hpo finalize` again.",
        ) from error


def _decide(request: FinalizeRequest) -> Decision:
    """Whether there is anything to decide; what needs MLflow comes after that."""
    connection, study = request.connection, request.study
    completion = study_completion(connection, study)
    if completion is None:
        return _nothing(request, "the study was deleted")
    if request.override is not None:
        return _challenged(request, completion, [_overriding(request, request.override)])
    if reason := _too_early(request, completion):
        return _nothing(request, reason)
    candidates = ranked_candidates(connection, study, study.spec.promotion.finalists)
    if missing := finals_missing(connection, study, candidates):
        return _waiting(request, candidates, missing)
    finalists = finalists_of(connection, request.settings, study, candidates)
    if all(one.out for one in finalists):
        return _record_nothing(request, completion, finalists)
    return _challenged(request, completion, finalists)


def _too_early(request: FinalizeRequest, completion: StudyCompletion) -> str:
    """Why there is nothing to decide yet, or ever; "" where there is."""
    if not request.study.spec.promotion.wanted:
        return "the study promotes nothing (promotion: none)"
    if completion.open_because and not request.open_ok:
        return f"the study is not finished: {completion.open_because}"
    return ""


def _overriding(request: FinalizeRequest, override: Override) -> Finalist:
    """The trial that a person wants, with what its finals say where they are over."""
    connection, study = request.connection, request.study
    candidate = candidate_of(connection, study, override.trial)
    if finals_missing(connection, study, [candidate]):
        return unexamined(study, candidate)
    (found,) = finalists_of(connection, request.settings, study, [candidate])
    return replace(found, out="") if found.runs else unexamined(study, candidate)


def _waiting(request: FinalizeRequest, candidates: list[Candidate], missing: str) -> Decision:
    numbers = ", ".join(str(one.number) for one in candidates)
    name = request.study.name
    return _nothing(
        request,
        f"trials {numbers} are to be looked at again first, {missing}; "
        f"`hpo finalize --study {name}` runs what is left",
    )


def _challenged(
    request: FinalizeRequest, completion: StudyCompletion, finalists: list[Finalist]
) -> Decision:
    """The decision about the first finalist that nothing speaks against."""
    from hpo.promotion.challenge import ChampionChallenge

    challenge = ChampionChallenge(request, completion, finalists)
    done = None if request.override else ledger.recorded(request.connection, challenge.key)
    if done is None:
        return challenge.decide()
    if not request.open_ok:
        return done
    # A person who asks again may do so because MLflow lost the version.
    try:
        return challenge.restore(done)
    except TrackingError as error:
        request.say(f"whether MLflow still holds it is not known: {error}")
        return done


def _nothing(request: FinalizeRequest, reason: str) -> Decision:
    target = request.study.spec.promotion
    return Decision(
        outcome=Outcome.NONE,
        study=request.study.name,
        model=target.model,
        alias=target.alias,
        reason=reason,
        evidence=Evidence(reason=reason),
        dry_run=request.dry_run,
    )


def _record_nothing(
    request: FinalizeRequest, completion: StudyCompletion, finalists: list[Finalist]
) -> Decision:
    """A finished study without a challenger is recorded, once for each state of its trials."""
    faults = "; ".join(f"trial {one.candidate.number}: {one.out}" for one in finalists)
    of_finals = f"no finalist can be promoted: {faults}" if finalists else ""
    decision = _nothing(request, of_finals or completion.no_candidate())
    if completion.open_because or request.dry_run:
        return decision
    name = none_id(request.study, completion.counts, of_finals)
    before = ledger.recorded(request.connection, name)
    decision = replace(decision, evidence=replace(decision.evidence, trials=completion.counts))
    if before is None:
        ledger.insert(request.connection, request.study, name, decision)
    return before or decision

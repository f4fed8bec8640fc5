"""Finals: the best trials of a study trained and evaluated again, as trials of their own study.

A finals study is a stored study like any other, so that claims, leases, takeover, checkpoints and
the mirror serve it unchanged. Beside the usual rows it has a row of hpo.final for each trial.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hpo.errors import UnknownStudyError, UsageError
from hpo.storage.postgres.queries import Queries
from hpo.studies.spec import Budget, Choice, StudySpec
from hpo.studies.store import (
    Origin,
    Study,
    finals_id,
    forget_deleted,
    insert_study,
    insert_waiting,
    load_study,
    locked_budget,
    optuna_id,
    set_budget,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine, Row

    from hpo.storage.postgres.engine import Database
    from hpo.studies.store import Study

SQL = Queries(__name__)

SUFFIX = "/finals"  # no name that a user gives holds a slash
SEEDS = 2**32  # seeds are below this


@dataclass(frozen=True)
class FinalistRef:
    """A trial that is to be looked at again.

    Attributes:
        trial_id: Optuna's id.
        number: its number within its study.
        params: every parameter of its search space that was searched.
    """

    trial_id: int
    number: int
    params: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Final:
    """What one trial of a finals study is to do.

    Attributes:
        of_trial_id: the parent's trial.
        of_number: its number.
        seed: of the training.
        trained: False where the trial's own weights are evaluated, and nothing is trained.
        weights_name: of the trial's weights; None when none were kept.
        weights_sha256: of their content.
        best_epoch: whose weights they are, counted from 1.
        metrics: every figure of that epoch; null stands for NaN.
    """

    of_trial_id: int
    of_number: int
    seed: int
    trained: bool
    weights_name: str | None
    weights_sha256: str | None
    best_epoch: int | None
    metrics: dict[str, float | None]


def finals_spec(study: Study, count: int) -> StudySpec:
    """The spec of a study's finals: the same training, nothing searched and nothing pruned."""
    spec = study.spec
    budget = Budget(count, spec.promotion.full_epochs or spec.budget.epochs, None)
    return replace(
        spec, study=study.name + SUFFIX, budget=budget, sampler=Choice("random", {}),
        pruner=Choice("none", {}), baselines=(), promotion=replace(spec.promotion, wanted=False),
    )  # fmt: skip


def asked(spec: StudySpec) -> list[tuple[int, bool]]:
    """(seed, whether it is trained) of each training that a finalist is judged by.

    The trial's own training is the first of them, unless it is shorter or longer than asked.
    """
    promotion = spec.promotion
    own = promotion.full_epochs in (None, spec.budget.epochs)
    seeds = [(spec.seed + index) % SEEDS for index in range(promotion.seeds)]
    return [(seed, not (own and index == 0)) for index, seed in enumerate(seeds)]


def ensure_finals(engine: Engine, study: Study, finalists: Sequence[FinalistRef]) -> Study:
    """Create the finals of at least one finalist where they are missing; safe to repeat.

    Raises:
        UnknownStudyError: the study was deleted.
    """
    name = study.name + SUFFIX
    trainings = asked(study.spec)
    with engine.begin() as connection:
        locked_budget(connection, study.study_id, study.name)
        forget_deleted(connection)  # finals that went in optuna-dashboard are in nobody's way
        count = len(finalists) * len(trainings)
        origin = Origin(
            fingerprint=study.fingerprint,
            code_version=study.code_version,
            test_fingerprint=study.test_fingerprint,
            parent_id=study.study_id,
            model_sha256=study.model_sha256,
        )
        made = insert_study(connection, finals_spec(study, count), origin)
        found = optuna_id(connection, name) if made is None else made
        if found is None:
            raise UnknownStudyError(f"the study '{name}' was deleted")
        budget = locked_budget(connection, found, name)
        added = _fill(connection, found, finalists, trainings)
        if added and made is None:
            set_budget(connection, found, budget + added)
    return load_study(engine, name)


def _fill(
    connection: Connection,
    finals: int,
    finalists: Sequence[FinalistRef],
    trainings: Sequence[tuple[int, bool]],
) -> int:
    """Put what was not asked for before in the queue; how many trials."""
    key = {"study_id": finals}
    before = {(row.of_trial_id, row.seed) for row in connection.execute(SQL["finals_asked"], key)}
    added = 0
    for finalist in finalists:
        for seed, trained in trainings:
            if (finalist.trial_id, seed) in before:
                continue
            number = insert_waiting(connection, finals, finalist.params)
            row = {"of_trial_id": finalist.trial_id, "of_number": finalist.number,
                   "seed": seed, "trained": trained, "number": number}  # fmt: skip
            connection.execute(SQL["insert_final"], key | row)
            added += 1
    return added


def finals_of(engine: Engine, study: Study) -> Study | None:
    """The study's finals; None while there are none."""
    with engine.connect() as connection:
        name = connection.scalar(SQL["finals_study"], {"study_id": study.study_id})
    return None if name is None else load_study(engine, name)


def parent_of(engine: Engine, finals: Study) -> Study:
    """The study whose finals these are.

    Raises:
        UnknownStudyError: it was deleted.
    """
    with engine.connect() as connection:
        name = connection.scalar(SQL["parent_study"], {"parent_id": finals.parent_id})
    if name is None:
        raise UnknownStudyError(f"the study of '{finals.name}' was deleted")
    return load_study(engine, name)


def final_results(connection: Connection, study: Study) -> Sequence[Row[Any]]:
    """Every final of a study with its state, by number, and what is kept of complete ones."""
    finals = finals_id(connection, study.study_id)
    return connection.execute(SQL["final_results"], {"study_id": finals}).all()


def final_of_number(connection: Connection, finals: Study, number: int) -> Row[Any] | None:
    """What a trial of finals was asked to do; None where it was tried again as another one."""
    key = {"study_id": finals.study_id, "number": number}
    return connection.execute(SQL["final_of_number"], key).one_or_none()


def load_final(database: Database, trial_id: int) -> Final | None:
    """What one trial of finals is to do; None when it was deleted."""
    for row in database.fetch_all(SQL["final"], trial=trial_id):
        return _final(row)
    return None


def _final(row: Row[Any]) -> Final:
    return Final(
        of_trial_id=row.of_trial_id,
        of_number=row.of_number,
        seed=row.seed,
        trained=row.trained,
        weights_name=row.weights_name,
        weights_sha256=row.sha256,
        best_epoch=row.best_epoch,
        metrics=row.metrics or {},
    )


def retry_final(engine: Engine, finals: Study, number: int) -> int:
    """Queue what a failed final was asked to do again, beside the budget; the new trial's number.

    The new trial takes the failed one's place among the finals: nobody waits for that any more.

    Raises:
        UsageError: there is no such trial, it did not fail, or it was tried again already.
        UnknownStudyError: the finals were deleted.
    """
    key = {"study_id": finals.study_id}
    with engine.begin() as connection:
        # Two at once: the second one finds the place taken.
        budget = locked_budget(connection, finals.study_id, finals.name)
        row = connection.execute(SQL["final_to_retry"], key | {"number": number}).one_or_none()
        if row is None:
            raise UsageError(
                f"the study '{finals.name}' has no trial {number}",
                hint=f"`hpo trials --study {finals.name}` lists them.",
            )
        if row.state != "FAIL":
            raise UsageError(
                f"trial {number} of '{finals.name}' is {row.state.lower()}; "
                "of finals only a failed one is tried again",
                hint=f"`hpo trials --study {finals.name}` lists them.",
            )
        if not row.asked:
            raise UsageError(
                f"trial {number} of '{finals.name}' was tried again already",
                hint=f"`hpo trials --study {finals.name}` shows the trial in its place.",
            )
        made = insert_waiting(connection, finals.study_id, json.loads(row.params or "{}"))
        connection.execute(SQL["move_final"], key | {"trial_id": row.trial_id, "number": made})
        set_budget(connection, finals.study_id, budget + 1)
    return made

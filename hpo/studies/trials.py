"""List a study's trials, tell everything about one, and try one again.

Rows are read from PostgreSQL without loading Optuna, whose import takes most of a second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.errors import UsageError
from hpo.storage.postgres.queries import Queries
from hpo.studies.finals import retry_final
from hpo.studies.store import enqueue
from hpo.trainer import load_trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine, Row

    from hpo.studies.store import Study

SQL = Queries(__name__)


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One trial, with the keys of `hpo trials --json`.

    Attributes:
        state: `complete`, `pruned`, `failed`, `running` or `waiting`.
        value: of the best epoch, told under a lease; None while there is none.
        epochs: how many are recorded.
        worker: `host:pid` of the worker that ran it last.
        takeovers: how often it changed hands.
        run_id: its MLflow run.
        reason: why it failed.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    epochs: int
    worker: str | None
    takeovers: int
    run_id: str | None
    best_epoch: int | None
    reason: str | None


STATES = {"FAIL": "failed"}  # the others are Optuna's names in small letters


def trial_rows(
    connection: Connection, study: Study, number: int | None = None
) -> list[TrialSummary]:
    """The trials by number, or the one of that number."""
    rows = connection.execute(
        SQL["trial_rows"], {"study_id": study.study_id, "number": number}
    ).all()
    return [_row(row, study) for row in rows]


def trial_details(connection: Connection, study: Study, number: int) -> dict[str, Any]:
    """One trial with its epochs, attempts, checkpoints, files and attributes, JSON-able.

    Raises:
        UsageError: there is no such trial.
    """
    found = connection.execute(
        SQL["trial_rows"], {"study_id": study.study_id, "number": number}
    ).one_or_none()
    if found is None:
        raise _unknown(study, number)
    key = {"trial_id": found.trial_id}
    attrs = connection.execute(SQL["trial_attrs"], key).all()
    return vars(_row(found, study)) | {
        "started": found.datetime_start,
        "ended": found.datetime_complete,
        "history": [
            {"epoch": row.epoch, "at": row.recorded_at, **row.metrics}
            for row in trial_epochs(connection, found.trial_id)
        ],
        "attempts": _dicts(connection, "trial_attempts", key),
        "checkpoints": _dicts(connection, "trial_checkpoints", key),
        "files": _dicts(connection, "trial_files", key),
        "attributes": {row.key: json.loads(row.value_json) for row in attrs},
    }


def _unknown(study: Study, number: int) -> UsageError:
    return UsageError(
        f"the study '{study.name}' has no trial {number}",
        hint=f"`hpo trials --study {study.name}` lists them.",
    )


def retry_trial(engine: Engine, study: Study, number: int) -> int:
    """Queue the parameters of an ended trial again, within the budget; the new trial's number.

    Of finals a failed trial is queued again, whatever the budget.

    Raises:
        UsageError: there is no such trial, or it is none that can be tried again.
        StudyClosedError: the budget has no room for it, or its time is over.
        UnknownStudyError: the study was deleted.
    """
    if study.parent_id is not None:
        return retry_final(engine, study, number)
    with engine.connect() as connection:
        rows = trial_rows(connection, study, number)
    if not rows:
        raise _unknown(study, number)
    if rows[0].state in ("running", "waiting"):
        raise UsageError(
            f"trial {number} is {rows[0].state}; only an ended one can be tried again",
            hint=f"`hpo show {number} --study {study.name}` shows where it stands.",
        )
    return enqueue(engine, study, rows[0].params, trainer_defaults(study))


def trainer_defaults(study: Study) -> dict[str, Any]:
    """The trainer's default of each argument, under what the study fixes."""
    arguments = load_trainer(study.spec.trainer).describe().arguments
    return {name: argument.default for name, argument in arguments.items()} | study.spec.train


def trial_epochs(connection: Connection, trial_id: int) -> Sequence[Row[Any]]:
    """A trial's recorded epochs with their metrics, by number."""
    return connection.execute(SQL["trial_epochs"], {"trial_id": trial_id}).all()


def best_trials(connection: Connection, study: Study, limit: int) -> Sequence[Row[Any]]:
    """The complete trials told under a lease, best first, the earlier first on a tie."""
    maximize = study.spec.objective.sign > 0
    key = {"study_id": study.study_id, "maximize": maximize, "limit": limit}
    return connection.execute(SQL["best_trials"], key).all()


def trial_figures(connection: Connection, study: Study) -> Sequence[Row[Any]]:
    """Every ended trial with the figures of its best epoch, and what it cost, by number."""
    return connection.execute(SQL["trial_figures"], {"study_id": study.study_id}).all()


def training_cost(connection: Connection, study: Study) -> Sequence[Row[Any]]:
    """Seconds that a study's trials and its finals took, by device."""
    return connection.execute(SQL["training_cost"], {"study_id": study.study_id}).all()


def _dicts(connection: Connection, name: str, key: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(SQL[name], key).mappings()]


def _row(row: Row[Any], study: Study) -> TrialSummary:
    stored = {name: _external(*pair) for name, pair in row.params.items()}
    # A waiting trial has no parameters yet, only those that it was enqueued with.
    params = stored or (json.loads(row.fixed) if row.fixed else {})
    order = [item.name for item in study.spec.space.parameters]
    told = row.told_state is not None
    return TrialSummary(
        number=row.number,
        state=STATES.get(row.state, row.state.lower()),
        value=row.value if told and row.told_state != "FAIL" else None,
        params={name: params[name] for name in sorted(params, key=lambda n: _place(order, n))},
        epochs=row.epochs,
        worker=f"{row.host}:{row.pid}" if row.host else None,
        takeovers=row.takeovers,
        run_id=row.run_id,
        best_epoch=row.best_epoch,
        reason=row.reason,
    )


def _place(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _external(value: float, distribution_json: str) -> Any:
    """A stored parameter as its user knows it, by Optuna's JSON of its distribution."""
    kind = json.loads(distribution_json)
    if kind["name"] == "CategoricalDistribution":
        return kind["attributes"]["choices"][int(value)]
    return int(value) if kind["name"].startswith("Int") else float(value)

"""Tell where a study stands: counts, best trial, finals, champion, workers, mirror.

Everything is read from PostgreSQL. Neither Optuna, MLflow nor Ray is loaded, so that `hpo status`
answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.errors import UnknownStudyError
from hpo.storage.postgres.queries import Queries
from hpo.studies.store import finals_id, study_rows, study_state
from hpo.studies.trials import trial_rows
from hpo.trainer import load_trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine, Row

    from hpo.studies.store import Study
    from hpo.studies.trials import TrialSummary

SQL = Queries(__name__)


def status(engine: Engine, study: Study) -> dict[str, Any]:
    """The document of `hpo status --json`: JSON-able.

    Raises:
        UnknownStudyError: the study was deleted meanwhile.
    """
    key = {"study_id": study.study_id}
    maximize = study.spec.objective.sign > 0
    with engine.connect() as connection:
        rows = study_rows(connection)
        listed = next((row for row in rows if row.study_id == study.study_id), None)
        if listed is None:
            raise UnknownStudyError(f"the study '{study.name}' was deleted")
        counts = connection.execute(SQL["status_counts"], key).one()
        best = connection.execute(SQL["status_best"], key | {"maximize": maximize}).one_or_none()
        workers = connection.execute(SQL["status_workers"], key).all()
        finals = connection.execute(SQL["status_finals"], key).one_or_none()
        others = connection.execute(
            SQL["status_workers"], {"study_id": finals and finals.study_id}
        ).all()
        mirror = _mirror(connection, study)
        target = study.spec.promotion
        champion = champion_row(connection, target.model, target.alias)
        decision = connection.execute(SQL["last_decision"], key).one_or_none()
        best_row = trial_rows(connection, study, best.number)[0] if best else None
    return {
        "study": study.name,
        "finals_of": study.parent,
        "state": study_state(listed),
        "simulated": is_simulated(study),
        "metric": study.spec.objective.metric,
        "direction": study.spec.objective.direction,
        "budget": {
            "trials": listed.trials,
            "claimed": listed.claimed,
            "epochs": study.spec.budget.epochs,
        },
        "counts": {
            name: getattr(counts, name)
            for name in ("complete", "pruned", "failed", "running", "waiting")
        },
        "best": best_row and _best(best_row),
        "workers": [_worker(row) for row in workers],
        # What people should know while it lasts
        "warnings": [
            f"{row.host}:{row.pid}: {row.warning}" for row in (*workers, *others) if row.warning
        ],
        "eta_s": _eta_s(counts, listed, len(workers)),
        # The best trials once more, on the test split; the study is finished before they begin
        "finals": finals and _finals(finals, others),
        "mirror": mirror,
        # A last word without a version is a rollback to no champion
        "champion": _champion(champion) if champion and champion.version else None,
        # Whether nothing is left for the finalizer to decide about the best trial as it is now
        "decided": not study.spec.promotion.wanted
        or bool(decision and decision.trial_number == (best and best.number)),
    }


def _mirror(connection: Connection, study: Study) -> dict[str, Any]:
    """How many runs of the study and its finals MLflow is behind, and what is in the way."""
    behind, error = 0, None
    for study_id in (study.study_id, finals_id(connection, study.study_id)):
        row = None if study_id is None else mirror_lag(connection, study_id)
        if row is not None and row.behind:
            behind += row.behind
            error = error or connection.scalar(SQL["mirror_error"], {"study_id": study_id})
    return {"behind": behind, "error": error}


def mirror_lag(connection: Connection, study_id: int) -> Row[Any] | None:
    """What of a study is not in MLflow yet; None when the study does not exist."""
    return connection.execute(SQL["mirror_behind"], {"study_id": study_id}).one_or_none()


def champion_row(connection: Connection, model: str, alias: str | None) -> Row[Any] | None:
    """The last word of our record about a model's champion; `alias` None: of whichever."""
    return connection.execute(SQL["champion"], {"model": model, "alias": alias}).one_or_none()


def completion_row(connection: Connection, study: Study) -> Row[Any] | None:
    """Whether a study is over and what its trials came to; None when it was deleted."""
    return connection.execute(SQL["completion"], {"study_id": study.study_id}).one_or_none()


def training_now(engine: Engine) -> Sequence[str]:
    """The workers that train at this moment, as `host:pid`, of all studies."""
    with engine.connect() as connection:
        return connection.execute(SQL["training_now"]).scalars().all()


def _finals(row: Row[Any], workers: Sequence[Row[Any]]) -> dict[str, Any]:
    return {
        "study": row.name,
        "trials": row.trials,
        "done": row.done,
        "running": row.running,
        "failed": row.trials - row.done - row.running - row.waiting,
        "waiting": row.waiting,
        "workers": [_worker(worker) for worker in workers],
    }


def is_simulated(study: Study) -> bool:
    """Whether a study's figures are of no real training, which is said wherever they show."""
    return load_trainer(study.spec.trainer).describe().simulated


def _best(row: TrialSummary) -> dict[str, Any]:
    return {
        "number": row.number,
        "value": row.value,
        "epoch": row.best_epoch,
        "params": row.params,
    }


def _champion(row: Row[Any]) -> dict[str, Any]:
    return {
        "model": row.model,
        "version": row.version,
        "trial": row.trial_number,
        "study": row.study_name,
    }


def _worker(row: Row[Any]) -> dict[str, Any]:
    return {
        "worker": f"{row.host}:{row.pid}",
        "device": row.device,
        "trial": row.trial,
        "epoch": row.epoch,
        "value": row.value,
        "lease_s": None if row.lease_s is None else round(float(row.lease_s), 1),
    }


def _eta_s(counts: Row[Any], listed: Row[Any], workers: int) -> float | None:
    """Seconds to go by the mean duration of the trials so far; None while nothing is known."""
    left: int = listed.trials - counts.complete - counts.pruned - counts.failed
    if not workers or counts.mean_trial_s is None or left <= 0:
        return None
    return round(float(counts.mean_trial_s) * left / workers, 1)

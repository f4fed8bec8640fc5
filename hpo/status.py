"""Where a study stands, from PostgreSQL alone; loads no optuna, mlflow or ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.database.queries import query
from hpo.errors import UnknownStudyError
from hpo.study import study_state
from hpo.trainer import load_trainer
from hpo.trial_rows import trial_rows

if TYPE_CHECKING:
    from sqlalchemy import Engine, Row

    from hpo.study import Study
    from hpo.trial_rows import TrialRow


def status(engine: Engine, study: Study) -> dict[str, Any]:
    """The document of `hpo status --json`: JSON-able.

    Raises:
        UnknownStudyError: the study was deleted meanwhile.
    """
    key = {"study_id": study.study_id}
    maximize = study.spec.objective.direction == "maximize"
    with engine.connect() as connection:
        rows = connection.execute(query("study_names")).all()
        listed = next((row for row in rows if row.study_id == study.study_id), None)
        if listed is None:
            raise UnknownStudyError(f"the study '{study.name}' was deleted")
        counts = connection.execute(query("status_counts"), key).one()
        best = connection.execute(query("status_best"), key | {"maximize": maximize}).one_or_none()
        workers = connection.execute(query("status_workers"), key).all()
        mirror = connection.execute(query("mirror_behind"), key).one_or_none()
        mirror_error = connection.scalar(query("mirror_error"), key)
        champion = connection.execute(
            query("champion"), {"model": study.spec.promotion.model}
        ).one_or_none()
        decision = connection.execute(query("last_decision"), key).one_or_none()
        best_row = trial_rows(connection, study, best.number)[0] if best else None
    return {
        "study": study.name,
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
        "warnings": [f"{row.host}:{row.pid}: {row.warning}" for row in workers if row.warning],
        "eta_s": _eta_s(counts, listed, len(workers)),
        "mirror": {
            "behind": mirror.behind if mirror else 0,
            "error": mirror_error if mirror and mirror.behind else None,
        },
        "champion": champion and _champion(champion),
        # Whether the finalizer has decided about the best trial as it is now
        "decided": bool(decision and decision.trial_number == (best and best.number)),
    }


def is_simulated(study: Study) -> bool:
    """Whether its figures are of no real training, which must be said wherever they show."""
    return load_trainer(study.spec.trainer).describe().simulated


def _best(row: TrialRow) -> dict[str, Any]:
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

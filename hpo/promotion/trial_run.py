"""The MLflow run of one trial, brought up to date by the mirror before a version is tied to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hpo.errors import TrackingError
from hpo.storage.postgres.queries import query
from hpo.tracking.mirror import open_mirror
from hpo.tracking.runs import live_run

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.settings import Settings
    from hpo.studies.store import Study
    from hpo.tracking.mirror import Mirror

BUSY_S = 60.0  # how long to wait for another mirror that writes this trial
POLL_S = 0.5


def trial_run_id(engine: Engine, settings: Settings, study: Study, trial_id: int) -> str:
    """Id of the trial's run; made, and filled, where MLflow lacks it.

    Raises:
        TrackingError: MLflow cannot be reached, or another mirror never ends.
        WeightsError: a file of the trial is missing or was altered.
    """
    mirror = open_mirror(settings, study.study_id, engine=engine)
    try:
        until = time.monotonic() + BUSY_S
        while time.monotonic() < until:
            mirror.sync_trial(trial_id)
            run_id = _complete(mirror, trial_id)
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


def _complete(mirror: Mirror, trial_id: int) -> str | None:
    """The run's id when our own record says that it shows the whole trial."""
    with mirror.engine.connect() as connection:
        found = connection.scalar(query("promotion_run"), {"trial_id": trial_id})
    return None if found is None else str(found)

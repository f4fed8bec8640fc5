"""The MLflow run of one trial, brought up to date by the mirror before a version is tied to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hpo.database.queries import query
from hpo.errors import TrackingError
from hpo.tracking.mirror import open_mirror

if TYPE_CHECKING:
    from hpo.settings import Settings
    from hpo.study import Study

BUSY_S = 60.0  # how long to wait for another mirror that writes this trial
POLL_S = 0.5


def trial_run_id(settings: Settings, study: Study, trial_id: int) -> str:
    """Id of the trial's run; made, and filled, where MLflow lacks it.

    Raises:
        TrackingError: MLflow cannot be reached, or another mirror never ends.
        WeightsError: a file of the trial is missing or was altered.
    """
    mirror = open_mirror(settings, study.study_id)
    try:
        until = time.monotonic() + BUSY_S
        while not mirror.sync_trial(trial_id):
            if time.monotonic() > until:
                raise TrackingError(
                    f"another mirror has been writing the trial for {BUSY_S:g} s",
                    hint=f"Try again; `hpo mirror sync --study {study.name}` says what holds it.",
                )
            time.sleep(POLL_S)
        with mirror.engine.connect() as connection:
            return str(connection.scalar(query("promotion_run"), {"trial_id": trial_id}))
    finally:
        mirror.close()

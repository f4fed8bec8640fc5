"""Show pictures of trials, and notes that link to MLflow, in optuna-dashboard.

Rows are written as `optuna.artifacts` and `optuna_dashboard.save_note` write them, but by SQL:
their calls refuse trials that have ended, give every call a new id, and take a statement for each
piece. The files lie in a folder of the dashboard's own, so that a study deleted there takes its
pictures along and nothing of our artifact store.
"""

from __future__ import annotations

import json
import mimetypes
import os
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from hpo.errors import WeightsError
from hpo.tracking.sync_state import (
    add_artifact,
    add_note_text,
    dashboard_pending,
    lock_for_dashboard,
    read_study,
    read_trial,
    set_on_dashboard,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from hpo.settings import Settings
    from hpo.storage.artifacts.store import ArtifactStore
    from hpo.tracking.mirror import Mirror
    from hpo.tracking.projection import StudyRow, TrialProjection

PICTURES = "pictures/"  # files under this name are shown
_IDS = uuid.UUID("6b0c62f5-4f0e-5d0e-9b1e-6a6d0c1f7a57")  # of our artifacts, whatever it is
_LONGEST_NOTE = 2045  # characters a note's row holds


def show_pictures(
    connection: Connection,
    trial_id: int,
    files: Mapping[str, tuple[str, int]],
    store: ArtifactStore,
    folder: Path,
) -> None:
    """Show a trial's pictures; the same ones again change nothing.

    Args:
        connection: an open transaction.
        trial_id: Optuna's id of an ended trial.
        files: name -> (sha256, bytes).
        store: where their content is.
        folder: optuna-dashboard's artifacts.

    Raises:
        WeightsError: a picture is missing from the store, or was altered there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (sha256, _) in sorted(files.items()):
        if not name.startswith(PICTURES):
            continue
        artifact_id = str(uuid.uuid5(_IDS, f"{trial_id}/{name}/{sha256}"))
        place = folder / artifact_id
        if not place.exists():
            incoming = folder / f".{artifact_id}.{os.getpid()}"
            store.fetch(sha256, incoming).replace(place)
        mimetype, encoding = mimetypes.guess_type(name)
        meta = {
            "artifact_id": artifact_id, "filename": PurePosixPath(name).name,
            "mimetype": mimetype or "application/octet-stream", "encoding": encoding,
        }  # fmt: skip
        # Optuna stores the JSON text as a JSON string.
        value = json.dumps(json.dumps(meta))
        add_artifact(connection, trial_id, f"artifacts:{artifact_id}", value)


def add_note(connection: Connection, study_id: int, trial_id: int | None, body: str) -> None:
    """Add a note (Markdown) to a trial, or to the study where `trial_id` is None.

    A note that is there already stays, as a person may have changed it.
    """
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    add_note_text(
        connection, study_id, version_key=f"{prefix}note_ver", text_key=f"{prefix}note_str:0",
        body=json.dumps(body[:_LONGEST_NOTE]),
    )  # fmt: skip


# Where `hpo up` serves MLflow's pages unless the port is taken or another one is asked for.
LOCAL = "http://127.0.0.1:5000"


def experiment_page(uri: str, experiment_id: str) -> str:
    """Address of an experiment's page, without any password."""
    return f"{_pages(uri)}/#/experiments/{experiment_id}"


def run_page(uri: str, experiment_id: str, run_id: str) -> str:
    """Address of a run's page, without any password."""
    return f"{experiment_page(uri, experiment_id)}/runs/{run_id}"


def _pages(uri: str) -> str:
    if not uri.startswith(("http://", "https://")):
        return LOCAL
    parts = urlsplit(uri)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))


SIMULATED = "**Simulated**: these figures are not of a real training."


def show_pending(mirror: Mirror, settings: Settings) -> int:
    """Show the mirrored trials that optuna-dashboard does not show yet; how many were shown.

    Raises:
        DBAPIError: PostgreSQL cannot be reached.
    """
    folder = None if "://" in settings.artifacts else Path(settings.artifacts) / "dashboard"
    uri = mirror.client().uri  # before a connection is taken: one is enough
    with mirror.database.transaction() as connection:
        pending = dashboard_pending(connection, mirror.study_id)
        study = read_study(connection, mirror.study_id)
        if study is None or study.experiment_id is None or study.run_id is None:
            return 0
        add_note(connection, study.study_id, None, _study_note(study, uri))
    return sum(_show(mirror, study, trial_id, uri, folder) for trial_id in pending)


def _show(mirror: Mirror, study: StudyRow, trial_id: int, uri: str, folder: Path | None) -> bool:
    # Pictures are copied inside: of the mirrors of one pool, one at a time
    with mirror.database.long_transaction() as connection:
        mark = lock_for_dashboard(connection, trial_id)
        trial = read_trial(connection, study, trial_id)
        if mark is None or trial is None:
            return False
        page = run_page(uri, mark.experiment_id, mark.run_id)
        add_note(connection, study.study_id, trial_id, _trial_note(trial, mark.run_id, page))
        if folder is not None:
            _pictures(connection, mirror, trial, folder)
        set_on_dashboard(connection, trial_id)
    return True


def _pictures(connection: Connection, mirror: Mirror, trial: TrialProjection, folder: Path) -> None:
    try:
        show_pictures(connection, trial.trial_id, trial.files, mirror.store, folder)
    except WeightsError:
        # The mirror has stored the same complaint with the trial; the note is still of use.
        return


def _study_note(study: StudyRow, uri: str) -> str:
    lines = [f"# {study.name}"]
    if study.simulated:
        lines.append(SIMULATED)
    if study.spec is not None:
        spec = study.spec
        lines.append(
            f"Trainer {spec.trainer}, model {spec.model}, data {spec.data or 'none'}, "
            f"search space {spec.space.name}; {spec.objective.direction} {spec.objective.metric}."
        )
        if study.parent_id is None:
            said = "Only trials that a worker told can be promoted: no value typed in here is."
        else:
            said = f"The best trials of {study.experiment} once more, evaluated on the test split."
        lines.append(said)
    page = experiment_page(uri, str(study.experiment_id))
    lines.append(f"In MLflow: [experiment {study.experiment_id}]({page})")
    return "\n\n".join(lines)


def _trial_note(trial: TrialProjection, run_id: str, page: str) -> str:
    lines = [f"In MLflow: [run {run_id}]({page})"]
    if trial.study.simulated:
        lines.insert(0, SIMULATED)
    if trial.row.final is not None:
        number, seed, trained = trial.row.final
        how = f"trained with the seed {seed}" if trained else "its own weights"
        lines.append(f"Final of trial {number} of {trial.study.experiment}, {how}.")
    if trial.row.reason:
        lines.append(f"Failed: {trial.row.reason}")
    return "\n\n".join(lines)

"""What optuna-dashboard shows beside Optuna's own: pictures of ended trials, and notes.

Written as `optuna.artifacts` and `optuna_dashboard.save_note` write it, but by SQL: their calls
refuse trials that have ended, give every call a new id, and take a statement for each piece. The
files lie in a folder of the dashboard's own, so that a study deleted there takes its pictures
along and nothing of our artifact store. Knows no MLflow, only the address it is given.
"""

from __future__ import annotations

import json
import mimetypes
import os
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hpo.storage.postgres.queries import query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from hpo.storage.artifacts.store import ArtifactStore

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
        row = {"trial_id": trial_id, "key": f"artifacts:{artifact_id}", "value": value}
        connection.execute(query("dashboard_artifact"), row)


def add_note(connection: Connection, study_id: int, trial_id: int | None, body: str) -> None:
    """Add a note (Markdown) to a trial, or to the study where `trial_id` is None.

    A note that is there already stays, as a person may have changed it.
    """
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    connection.execute(
        query("dashboard_note"),
        {
            "study_id": study_id, "version_key": f"{prefix}note_ver",
            "text_key": f"{prefix}note_str:0", "text": json.dumps(body[:_LONGEST_NOTE]),
        },
    )  # fmt: skip

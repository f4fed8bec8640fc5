"""Write a study's document into PostgreSQL as a study, in one transaction."""

from __future__ import annotations

import logging
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from hpo.datasets.remote import record_as_told
from hpo.errors import FaultsError, StoreError, StudyExistsError, WeightsError
from hpo.storage.postgres.queries import Queries
from hpo.studies.backup.document import SECTIONS, compact
from hpo.studies.names import area_of
from hpo.studies.store import forget_deleted, insert_optuna_study, optuna_id

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from hpo.storage.artifacts.store import ArtifactStore
    from hpo.studies.backup.document import Row, StudyDocument

SQL = Queries(__name__)

log = logging.getLogger(__name__)

CHUNK = 10_000  # rows a statement
_BAD_VALUE = ("22", "23")  # SQLSTATE classes: a value of a wrong kind, a broken constraint


@dataclass(frozen=True)
class Imported:
    """What became of a document.

    Attributes:
        study_id: Optuna's id of the new study.
        checkpoints: how many of its checkpoints were found in the artifact store.
        lost: how many were not; their trials go on from an earlier one, or start over.
    """

    study_id: int
    checkpoints: int
    lost: int


def require_free(engine: Engine, name: str) -> None:
    """Refuse a study's name that is taken.

    Raises:
        StudyExistsError: it is.
    """
    with engine.connect() as connection:
        if optuna_id(connection, name) is not None:
            raise _taken(name)


def import_study(engine: Engine, document: StudyDocument, store: ArtifactStore) -> Imported:
    """Write a checked document as a new study; all of it or nothing.

    Its trials that were running can be taken over at once. Their checkpoints are copied, as the
    exported study may live on and removes its own: the new study has attempts, and so areas in the
    artifact store, of its own.

    Raises:
        StudyExistsError: the name is taken.
        FaultsError: PostgreSQL refuses a value.
    """
    finals = document.finals
    writers = [_Writer(one, store) for one in (document, finals) if one is not None]
    try:
        with engine.begin() as connection:
            forget_deleted(connection)
            study_id = writers[0].write(connection, None)
            for writer in writers[1:]:
                writer.write(connection, study_id)
            _remember_dataset(connection, document)
            found = [one for writer in writers for one in writer.copied()]
            return Imported(study_id, sum(found), len(found) - sum(found))
    except BaseException as error:
        for writer in writers:
            writer.clear()
        if isinstance(error, DBAPIError):
            state, cause = getattr(error.orig, "pgcode", None) or "", str(error.orig)
            if state.startswith(_BAD_VALUE):
                raise FaultsError(document.name, [cause.strip().partition("\n")[0]]) from error
        raise


def _remember_dataset(connection: Connection, document: StudyDocument) -> None:
    """Record where the study's dataset lies in the store, if that is unknown here.

    What the file says of it is not checked: an archive that is fetched must have the content that
    the study was created with.
    """
    row = document.made.get("dataset")
    own = document.content["study"]["dataset_fingerprint"]
    if isinstance(row, dict) and own is not None and row.get("fingerprint") == own:
        try:
            with connection.begin_nested():
                record_as_told(connection, compact(row))
        except DBAPIError as error:
            log.warning("the file does not say well where its dataset is: %s", error.orig)


def _taken(name: str) -> StudyExistsError:
    return StudyExistsError(
        f"a study '{name}' exists",
        hint="Import it under another name: `hpo import FILE --name NEW`.",
    )


class _Writer:
    """The import of one study."""

    def __init__(self, document: StudyDocument, store: ArtifactStore) -> None:
        self._document, self._content, self._store = document, document.content, store
        self._attempts = {
            (row["trial"], row["attempt"]): uuid.uuid4() for row in self._content["attempts"]
        }
        self._areas: set[str] = set()  # written to in the store

    def write(self, connection: Connection, parent_id: int | None) -> int:
        """Insert all rows on an open transaction; returns Optuna's id of the study.

        Args:
            connection: the transaction.
            parent_id: of finals, the study whose they are.
        """
        name = self._document.name
        # Optuna's unique index makes a second one of this name wait here for the first.
        study_id = insert_optuna_study(connection, name)
        if study_id is None:
            raise _taken(name)
        key = {"study_id": study_id, "name": name, "parent_id": parent_id}
        self._insert(connection, "study", key, [self._content["study"]])
        self._insert(connection, "trials", key, self._content["trials"])
        rows = self._with_ids(connection, key)
        for section in SECTIONS:
            if section not in ("trials", "notes"):
                self._insert(connection, section, key, rows[section])
        return study_id

    def copied(self) -> list[bool]:
        """Copy the study's checkpoints; returns for each whether it was found."""
        return [self._copy(row) for row in self._content["checkpoints"]]

    @staticmethod
    def _insert(connection: Connection, section: str, key: dict[str, Any], rows: list[Row]) -> None:
        for start in range(0, len(rows), CHUNK):
            chunk = compact(rows[start : start + CHUNK])
            connection.execute(SQL[f"import_{section}"], key | {"rows": chunk})

    def _with_ids(self, connection: Connection, key: dict[str, Any]) -> dict[str, list[Row]]:
        """The sections with this database's ids of trials, workers and attempts."""
        found = connection.execute(SQL["import_trial_ids"], key)
        trials: dict[int, int] = {row.number: row.trial_id for row in found}
        places = [row["worker"] for row in self._content["workers"]]
        ids = connection.scalars(SQL["import_worker_ids"], {"count": len(places)})
        workers: dict[int | None, int | None] = {None: None}
        workers |= zip(places, ids.all(), strict=True)

        def own(row: Row) -> Row:
            ids = {"trial": trials[row["trial"]]} if "trial" in row else {}
            return row | ids | ({"worker": workers[row["worker"]]} if "worker" in row else {})

        rows = {
            section: [own(row) for row in self._with_tokens(section)]
            for section in SECTIONS
            if section not in ("trials", "notes")
        }
        rows["study_system_attrs"] += [
            {
                "key": f"{row['before']}{trials[row['trial']]}{row['after']}",
                "value_json": row["value_json"],
            }
            for row in self._content["notes"]
        ]
        return rows

    def _with_tokens(self, section: str) -> list[Row]:
        """A section's rows, with the token of the attempt that they belong to."""
        rows: list[Row] = self._content[section]
        if section == "leases":  # a lease is that of its trial's last attempt
            last = {trial: token for (trial, _), token in sorted(self._attempts.items())}
            return [row | {"token": str(last.get(row["trial"], uuid.uuid4()))} for row in rows]
        if section in ("attempts", "checkpoints"):
            return [row | {"token": str(self._token(row))} for row in rows]
        return rows

    def _token(self, row: Row) -> uuid.UUID:
        return self._attempts[row["trial"], row["attempt"]]

    def _copy(self, row: Row) -> bool:
        """Copy a checkpoint to the new attempt's area; False when it is not in this store."""
        made, trial = self._document.made, row["trial"]
        try:
            token = uuid.UUID(made["tokens"][f"{trial}/{row['epoch']}"])
            source = area_of(uuid.UUID(made["uid"]), trial, token)
        except (AttributeError, KeyError, TypeError, ValueError):
            return False  # nobody checks who made it, and where
        target = area_of(uuid.UUID(self._content["study"]["uid"]), trial, self._token(row))
        self._areas.add(target)
        try:
            with tempfile.TemporaryDirectory(prefix="hpo-import-") as folder:
                for sha256 in (row["sha256"], row["best_sha256"]):
                    if sha256 is not None:
                        file = self._store.fetch(sha256, Path(folder) / "file", source)
                        self._store.put(file, target)
        except (WeightsError, StoreError):
            return False
        return True

    def clear(self) -> None:
        """Remove the files that were copied: the study did not come to be."""
        try:
            for area in self._areas:
                self._store.keep_only(area, ())
        except StoreError as error:  # what ended the import is told, not this
            log.warning("copied checkpoints stay in %s: %s", self._store.place, error)

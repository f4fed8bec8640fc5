"""Read a study from PostgreSQL into its document, as of one moment."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hpo import __version__
from hpo.datasets.remote import recorded
from hpo.errors import UnknownStudyError, UsageError
from hpo.storage.postgres.queries import Queries
from hpo.studies.backup.document import SECTIONS, Row, StudyDocument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Engine

    from hpo.studies.store import Study

SQL = Queries(__name__)

# optuna-dashboard's keys that hold a trial's id
_OF_TRIAL = re.compile(
    r"(dashboard:artifacts:|dashboard:|preference:skip_trial:)(\d+)(|:.*)", re.DOTALL
)
_NOTE_VERSION, _NOTE_TEXT = "note_ver", "note_str:0"
_FIRST = "1"  # version of a note that nobody changed


def export_study(engine: Engine, study: Study, *, artifacts: str) -> StudyDocument:
    """The study as it stands now, while workers go on with it.

    Args:
        engine: the database.
        study: the study.
        artifacts: place of the artifact store, for the record.

    Raises:
        UnknownStudyError: the study was deleted.
        UsageError: it holds finals, which are exported with their study.
    """
    if study.parent is not None:
        raise UsageError(
            f"'{study.name}' holds finals, which are exported with their study",
            hint=f"`hpo export FILE --study {study.parent}`",
        )
    # One snapshot for all statements, which waits for nobody.
    at_once = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    made: dict[str, Any] = {"by": f"hpo-service {__version__}", "artifacts": artifacts}
    key = {"study_id": study.study_id}
    with engine.connect().execution_options(**at_once) as connection, connection.begin():
        connection.execute(SQL["export_exactly"])
        found = _content(connection, study.study_id)
        if found is None:
            raise UnknownStudyError(f"the study '{study.name}' was deleted")
        finals_id = connection.scalar(SQL["export_finals_id"], key)
        finals = None if finals_id is None else _content(connection, finals_id)
        pushed = recorded(connection, study.fingerprint)
    content, where = found
    if pushed is not None:  # the archive stays in the store, as weights do
        made["dataset"] = {column: _plain(value) for column, value in pushed.items()}
    if finals is not None:
        where |= {"finals": finals[1]}
    return StudyDocument(content | {"finals": finals and finals[0]}, made | where)


def _content(connection: Connection, study_id: int) -> tuple[dict[str, Any], Row] | None:
    """(a study's rows, where its checkpoints are); None when it was deleted."""
    key = {"study_id": study_id}
    rows = _rows(connection, "study", key)
    if not rows:
        return None
    content: dict[str, Any] = {"study": rows[0]}
    for name in SECTIONS:
        content[name] = [] if name == "notes" else _rows(connection, name, key)
    _part_notes(connection, key, content)
    _number_workers(content)
    for name, section in SECTIONS.items():
        content[name] = section.sorted(content[name])
    areas = connection.execute(SQL["export_areas"], key).all()
    tokens = {f"{row.trial}/{row.epoch}": str(row.token) for row in areas}
    return content, {"uid": content["study"]["uid"], "tokens": tokens}


def _rows(connection: Connection, name: str, key: dict[str, int]) -> list[Row]:
    found = connection.execute(SQL[f"export_{name}"], key).mappings()
    return [{column: _plain(value) for column, value in row.items()} for row in found]


def _plain(value: Any) -> Any:
    """A column's value as JSON has it; PostgreSQL reads each of them back as it was."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC)
        return moment.isoformat(timespec="microseconds")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _number_workers(content: dict[str, Any]) -> None:
    """Call workers by their place instead of their id, which is the database's own."""
    places = {row["worker"]: place for place, row in enumerate(content["workers"], 1)}
    for name in ("workers", "leases", "attempts"):
        content[name] = [row | {"worker": places.get(row["worker"])} for row in content[name]]


def _part_notes(connection: Connection, key: dict[str, int], content: dict[str, Any]) -> None:
    """Tell what the study's attributes say of single trials from what they say of the study.

    Left out are the mirror's own notes, whose links lead into the exporter's MLflow, and what
    speaks of another study's trials, as a copied study's attributes do.
    """
    trials = connection.execute(SQL["export_trial_ids"], key).all()
    numbers = {row.trial_id: row.number for row in trials}
    experiment = connection.scalar(SQL["export_experiment"], key)
    attrs = {row["key"]: row["value_json"] for row in content["study_system_attrs"]}
    runs = [(f"dashboard:{row.trial_id}:", f"[run {row.run_id}](") for row in trials if row.run_id]
    shown = _shown(attrs, [("dashboard:", f"[experiment {experiment}]("), *runs])
    content["study_system_attrs"] = []
    for name, value in attrs.items():
        match = _OF_TRIAL.fullmatch(name)
        if name in shown:
            continue
        if match is None:
            content["study_system_attrs"].append({"key": name, "value_json": value})
        elif (trial_id := int(match[2])) in numbers:
            row = {"before": match[1], "after": match[3], "value_json": value}
            content["notes"].append({"trial": numbers[trial_id], **row})


def _shown(attrs: dict[str, str], notes: Iterable[tuple[str, str]]) -> set[str]:
    """Keys of the mirror's notes that nobody changed, by (prefix of the keys, the note's link)."""
    found: set[str] = set()
    for prefix, link in notes:
        version, text = prefix + _NOTE_VERSION, prefix + _NOTE_TEXT
        if attrs.get(version) == _FIRST and link in json.loads(attrs.get(text, '""')):
            found |= {version, text}
    return found

"""What must be there once and what must be gone after a run: in MLflow, the store, the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from hpo.storage.artifacts.store import DRAFT, DRAFTS_LAST_S, OBJECTS, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.record import Record

ENDING_S = 15.0  # for the training processes of killed workers to notice


def mlflow_equals_postgres(record: Record) -> Iterator[str]:
    """Once `hpo mirror sync` has copied what is missing, `hpo mirror verify` finds no difference.

    The sync is a quick one: a whole one would mend what differs before anybody sees it.
    """
    for words in (("sync", "--quick"), ("verify",)):
        code, said = record.world.run("mirror", *words, "--study", record.study.name)
        if code != 0:
            yield f"hpo mirror {words[0]}: exit code {code}\n{said}"
    found = _mlflow(
        record, "select count(*) from runs r join experiments e on e.experiment_id = "
        "r.experiment_id where r.lifecycle_stage = 'active' and e.name = :name",
    )  # fmt: skip
    with record.world.engine.connect() as connection:
        finals = connection.execute(
            text("select count(*) from hpo.final f join hpo.study h on h.study_id = f.study_id "
                 "where h.parent_id = :study"),
            {"study": record.study.study_id},
        ).scalar_one()  # fmt: skip
    runs = len(record.leases) + 1 + (finals + 1 if finals else 0)
    if found != [(runs,)]:
        yield (f"MLflow has {found} runs for {len(record.leases)} trials, {finals} finals and "
               "their studies")  # fmt: skip


def promotion_is_one(record: Record) -> Iterator[str]:
    """One decision is recorded, one version was made, and the alias is on it."""
    name = {"name": record.study.name}
    with record.world.engine.connect() as connection:
        rows = connection.execute(
            text("select outcome, version from hpo.promotion where study_name = :name"), name
        ).all()
    versions = _mlflow(record, "select version from model_versions where name = :name")
    aliases = _mlflow(record, "select version from registered_model_aliases where name = :name")
    if len(rows) != 1 or rows[0].outcome != "promoted":
        yield f"recorded decisions: {rows}"
    if versions != [(1,)] or aliases != [(1,)]:
        yield f"versions of the model: {versions}, its alias points to {aliases}"


def _mlflow(record: Record, sql: str) -> list[Any]:
    engine = create_engine(record.world.mlflow_url, poolclass=NullPool)
    with engine.connect() as connection:
        found = connection.execute(text(sql), {"name": record.study.name})
        return [tuple(row) for row in found]


def nothing_is_held(record: Record) -> Iterator[str]:
    """No lease is held and no checkpoint is kept once the study is finished."""
    held = [row.number for row in record.leases if row.told_at is None]
    if held:
        yield f"leases are held of the trials {held}"
    with record.world.engine.connect() as connection:
        rows = connection.execute(
            text("select c.trial_id, c.epoch from hpo.checkpoint c join public.trials t "
                 "on t.trial_id = c.trial_id where t.study_id = :study"),
            {"study": record.study.study_id},
        ).all()  # fmt: skip
    if rows:
        yield f"checkpoints are recorded of ended trials: {rows}"


def store_is_tidy(record: Record) -> Iterator[str]:
    """No checkpoint is left, every object is what its name says, and drafts go after a day."""
    store = record.world.disk.seen
    left = [file for file in (store / "checkpoints").rglob("*") if file.is_file()]
    if left:
        yield f"left in the store: {', '.join(str(file.relative_to(store)) for file in left)}"
    day_ago = time.time() - 2 * DRAFTS_LAST_S
    for file in (store / OBJECTS).rglob("*"):
        if file.name.startswith(DRAFT):  # of a killed writer, which may have been a slow one
            os.utime(file, (day_ago, day_ago))
        elif file.is_file() and sha256_of(file) != file.name:
            yield f"{file.name} in the store has another content"
    record.world.python(
        "from hpo.storage.artifacts.opening import open_store; from hpo.settings import Settings; "
        "open_store(Settings.read()).require_writable()"
    )
    if drafts := [file.name for file in store.rglob(f"{DRAFT}*")]:
        yield f"unfinished files stay in the store: {drafts}"


def no_process_is_left(record: Record) -> Iterator[str]:
    """Every worker and every training process is gone."""
    mark = f"HPO_HOME={record.world.home}".encode()
    until = time.monotonic() + ENDING_S
    while (left := _processes(mark)) and time.monotonic() < until:
        time.sleep(0.5)
    for pid, words in left.items():
        yield f"process {pid} is left: {words}"


def _processes(mark: bytes) -> dict[int, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = words.decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found


CHECKS = (
    mlflow_equals_postgres,
    promotion_is_one,
    nothing_is_held,
    store_is_tidy,
    no_process_is_left,
)

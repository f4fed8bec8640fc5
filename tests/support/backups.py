"""A study that has everything, where it is restored, and what it looks like from outside."""

from __future__ import annotations

import math
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from support.studies import HYPERBAND, TPE, claimed, expire, simulated_spec, simulated_study

from hpo.claims.checkpoints import Checkpoints
from hpo.claims.claims import Claims, End, register_worker
from hpo.promotion import ledger
from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.postgres import schema
from hpo.storage.postgres.engine import Database
from hpo.studies.backup.export import export_study
from hpo.studies.backup.file import from_bytes, to_bytes
from hpo.studies.status import status
from hpo.studies.store import enqueue, extend, load_study, store_study
from hpo.studies.trials import trial_details, trial_rows
from hpo.trainer import Checkpoint, Epoch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import optuna
    from sqlalchemy import Engine

    from hpo.claims.claims import Claim
    from hpo.settings import Settings
    from hpo.storage.artifacts.store import ArtifactStore
    from hpo.studies.backup.document import StudyDocument
    from hpo.studies.store import Study

NAME = "Größe 数 ✓"
BASELINES = ({"x": 0.5, "y": 0.1, "kind": "b", "depth": 3}, {"x": 0.25, "y": 0.01, "kind": "a"})
AWKWARD = (0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, 1e16, 123456789.123456789)


def worker_on(engine: Engine, study: Study, host: str = "host-ä") -> Claims:
    """Claims of a registered worker."""
    database = Database(engine, patience_s=30.0)
    worker_id, _ = register_worker(
        database, study, host=host, pid=7, device="cpu", slot="actor-1",
        environment={"device": "cpu", "packages": {"torch": "2.15.0"}},
    )  # fmt: skip
    return Claims(database, study, worker_id, lease_s=60.0)


def storage_of(engine: Engine) -> optuna.storages.RDBStorage:
    """Plain Optuna on the same database."""
    url = engine.url.render_as_string(hide_password=False)
    import optuna

    return optuna.storages.RDBStorage(url, skip_table_creation=True)


def rich_study(engine: Engine, store: ArtifactStore, folder: Path) -> Study:
    """A stored study of nine trials, of which 0 to 6 are there.

    They are complete twice, pruned, failed, diverging, running after a takeover with two
    checkpoints, and waiting.
    """
    store.require_writable()
    folder.mkdir(parents=True, exist_ok=True)
    spec = simulated_spec(
        study=NAME, trials=7, epochs=4, sampler=TPE, pruner=HYPERBAND, baselines=BASELINES
    )
    study = store_study(engine, spec, fingerprint="f" * 64, code_version="simulated 1")[0]
    claims = worker_on(engine, study)
    for _ in range(2):
        told(claims, store, folder, End.COMPLETE, 0.25, 0.5)
    told(claims, store, folder, End.PRUNED, *AWKWARD)
    told(claims, store, folder, End.FAIL, 0.125)
    told(claims, store, folder, End.COMPLETE, math.nan, 0.1, math.inf, -math.inf)
    promoted(engine, study)
    extend(engine, study, 9)
    running(engine, claims, store, folder)
    enqueue(engine, study, {"x": 0.75}, {"y": 0.5, "kind": "b", "depth": 8})
    with engine.begin() as connection:
        connection.execute(
            text(
                "update hpo.study set timeout_s = 86400.125, state = 'stopped' where study_id = :id"
            ),
            {"id": study.study_id},
        )
    annotated(engine, folder)
    return load_study(engine, NAME)


def told(claims: Claims, store: ArtifactStore, folder: Path, end: End, *values: float) -> Claim:
    """A whole trial with an epoch for each value."""
    claim = claimed(claims)
    for number, value in enumerate(values, 1):
        claims.report(claim, Epoch(number, {"mAP50": value, "loss/Ω": value / 3, "seconds": 0.1}))
    files: dict[str, Any] = {}
    if end is not End.FAIL:
        file = folder / "file"
        file.write_text(f"weights of {claim.number}")
        files = {"weights/weights.json": store.put(file), "pictures/ü.png": store.put(file)}
    reason = "error: «told»\nso" if end is End.FAIL else ""
    assert claims.tell(claim, end, reason=reason, attrs={"batch": 16, "ключ": [1.5]}, files=files)
    return claim


def running(engine: Engine, claims: Claims, store: ArtifactStore, folder: Path) -> Claim:
    """A trial that a second worker runs after the first one fell silent."""
    first = claimed(claims)
    checkpointed(claims, first, store, folder, 1)
    expire(engine, first)
    other = worker_on(engine, claims.study, "host-2")
    claim = claimed(other)
    assert claim.number == first.number
    assert other.resume(claim, 1, "the newest one was damaged")
    checkpointed(other, claim, store, folder, 2)
    return claim


def checkpointed(
    claims: Claims, claim: Claim, store: ArtifactStore, folder: Path, epoch: int
) -> None:
    """An epoch with its checkpoint in the store and recorded."""
    claims.report(claim, Epoch(epoch, {"mAP50": epoch / 8, "seconds": 0.5}))
    state, weights = folder / f"state-{epoch}", folder / "best"
    state.write_text(f"state of {claim.number} after {epoch}")
    weights.write_text(f"weights of {claim.number} after {epoch}")
    Checkpoints(claims, claim, store).keep(Checkpoint(epoch, state, epoch, weights))


def promoted(engine: Engine, study: Study) -> None:
    """The decision of a person that the first trial is champion."""
    evidence = {"reason": "first", "metric": "mAP50", "value": 0.5, "spec": [1 / 3]}
    row = {
        "promotion_id": str(uuid.uuid4()), "study_id": study.study_id, "study_name": study.name,
        "outcome": "promoted", "model": study.spec.promotion.model, "alias": "champion",
        "trial_number": 0, "version": 1, "previous_version": None,
        "evidence": evidence, "override": True, "why": "«so»", "actor": "me@here",
    }  # fmt: skip
    with engine.begin() as connection:
        ledger.write(connection, row)


def annotated(engine: Engine, folder: Path) -> None:
    """What people write into it with Optuna and optuna-dashboard."""
    import optuna
    from optuna.artifacts import FileSystemArtifactStore, upload_artifact
    from optuna_dashboard import save_note

    storage = storage_of(engine)
    study = optuna.load_study(study_name=NAME, storage=storage)
    study.set_user_attr("заметка", {"a": [1, None, "✓\u0000"]})
    save_note(study, "# The study\n" + "long " * 1000)
    trial = optuna.trial.Trial(study, study.trials[5]._trial_id)
    trial.set_user_attr("who", "me")
    save_note(trial, "a note on a trial")
    file = folder / "upload.txt"
    file.write_text("by hand")
    upload_artifact(
        artifact_store=FileSystemArtifactStore(folder), file_path=str(file), study_or_trial=trial
    )
    storage.engine.dispose()


@pytest.fixture
def elsewhere(empty_database_url: str) -> Iterator[Engine]:
    """Another database, whose ids have counted on so that none is the same."""
    engine = create_engine(empty_database_url, poolclass=NullPool)
    schema.upgrade(engine)
    other = simulated_study(engine, study="another one")
    told_by_hand = worker_on(engine, other)
    for _ in range(3):
        claimed(told_by_hand)
    yield engine
    engine.dispose()


@pytest.fixture
def there(settings: Settings, mlflow_url: str, elsewhere: Engine) -> Settings:
    """Settings of a worker on the other database."""
    url = elsewhere.url.render_as_string(hide_password=False)
    return replace(settings, storage=url, tracking_uri=mlflow_url)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """The artifact store that both databases' workers reach."""
    return FolderStore(tmp_path / ".hpo" / "artifacts")


@pytest.fixture
def rich(engine: Engine, store: FolderStore, tmp_path: Path) -> Study:
    """A study that has everything."""
    return rich_study(engine, store, tmp_path / "work")


def exported(engine: Engine, name: str = NAME) -> StudyDocument:
    """Its document, as a file has it."""
    document = export_study(engine, load_study(engine, name), artifacts="a folder")
    return from_bytes(to_bytes(document), "the file")


def seen_by_optuna(engine: Engine, name: str = NAME) -> dict[str, Any]:
    """Everything that plain Optuna and optuna-dashboard say of a study, without ids."""
    import optuna
    from optuna_dashboard import get_note

    storage = storage_of(engine)
    study = optuna.load_study(study_name=name, storage=storage)
    trials = [
        {key: unordered(value) for key, value in vars(trial).items() if key != "_trial_id"}
        for trial in study.trials
    ]
    handles = [optuna.trial.Trial(study, trial._trial_id) for trial in study.trials]
    notes = [get_note(one) for one in (study, *handles)]
    found = {
        "trials": trials, "notes": notes, "user": study.user_attrs,
        "directions": study.directions, "metrics": study.metric_names,
    }  # fmt: skip
    storage.engine.dispose()
    return found


def unordered(value: Any) -> str:
    """Text in which NaN equals NaN and -0.0 differs from 0.0; mappings have no order."""
    return repr(sorted(value.items()) if isinstance(value, dict) else value)


def seen_by_people(engine: Engine, name: str = NAME) -> list[Any]:
    """What `hpo status`, `hpo trials` and `hpo show` say."""
    study = load_study(engine, name)
    with engine.connect() as connection:
        rows = trial_rows(connection, study)
        shown = [trial_details(connection, study, row.number) for row in rows]
    # Who works on it now is the one thing that differs
    for attempt in (one for trial in shown for one in trial["attempts"]):
        if attempt["how"] in (None, "released"):
            attempt.update(how="under way", ended=None)
    now = {"workers": [], "state": "", "eta_s": None, "mirror": None}
    return [status(engine, study) | now, rows, shown]

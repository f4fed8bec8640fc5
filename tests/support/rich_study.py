"""A study that has everything a study can have: what a backup must carry."""

from __future__ import annotations

import math
import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from support.claiming import claimed, expire
from support.studies import HYPERBAND, TPE, simulated_spec

from hpo.claims.checkpoints import Checkpoints
from hpo.claims.claims import Claims, End, register_worker
from hpo.promotion import ledger
from hpo.storage.postgres.engine import Database
from hpo.studies.store import enqueue, extend, load_study, store_study
from hpo.trainer import Checkpoint, Epoch

if TYPE_CHECKING:
    from pathlib import Path

    import optuna
    from sqlalchemy import Engine

    from hpo.claims.claims import Claim
    from hpo.storage.artifacts.store import ArtifactStore
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

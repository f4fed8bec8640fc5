"""Checkpoints in a real store and a real table: what is kept, by whom, and what a loser can do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from support.studies import claimed, claims_of, epoch, expire, simulated_study
from support.training import wait_until

from hpo.claims.checkpoints import (
    Checkpoints,
    checkpoint_areas,
    clear_ended,
    delete_with_checkpoints,
)
from hpo.claims.claims import Claims, End, LeaseStatus
from hpo.errors import StoreError, UnknownStudyError, WeightsError
from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.postgres.engine import Database
from hpo.trainer import Checkpoint
from workers import checkpoints
from workers.checkpoints import CheckpointUploader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.claims.claims import Claim, StoredCheckpoint
    from hpo.studies.store import Study


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "artifacts")
    store.require_writable()
    return store


@pytest.fixture
def study(engine: Engine) -> Study:
    return simulated_study(engine, trials=2, epochs=20)


def made(folder: Path, number: int, best: int | None = None) -> Checkpoint:
    """A checkpoint as a trainer hands it out; its content names the epochs."""
    folder.mkdir(exist_ok=True)
    state = folder / f"state-{number}"
    state.write_text(f"state of epoch {number}")
    weights = None
    if best is not None:
        weights = folder / f"weights-{best}"
        weights.write_text(f"weights of epoch {best}")
    return Checkpoint(number, state, best, weights)


def files(store: FolderStore) -> set[str]:
    """The texts of all files in checkpoint areas."""
    areas = store.root / "checkpoints"
    return {file.read_text() for file in areas.rglob("*") if file.is_file()}


class Run:
    """One attempt at a trial, as far as its checkpoints go."""

    def __init__(self, claims: Claims, store: FolderStore, folder: Path) -> None:
        self.claims, self.folder = claims, folder
        self.claim: Claim = claimed(claims)
        self.checkpoints = Checkpoints(claims, self.claim, store)

    def train(self, *numbers: int, best: int | None = None) -> None:
        for number in numbers:
            self.claims.report(self.claim, epoch(number, number / 100))
            assert self.keep(number, best) is LeaseStatus.GO

    def keep(self, number: int, best: int | None = None) -> LeaseStatus:
        return self.checkpoints.keep(made(self.folder, number, best))

    def fetched(self) -> list[str]:
        """The states that it could go on from, the newest first, as they come from the store."""
        return [
            self.checkpoints.fetch(one, self.folder / f"fetched-{one.epoch}").state.read_text()
            for one in self.checkpoints.found()
        ]


def test_the_two_newest_are_kept_and_nothing_else(
    engine: Engine, study: Study, store: FolderStore, tmp_path: Path
) -> None:
    """In the table and in the store alike, with the best epoch's weights of both."""
    run = Run(claims_of(engine, study), store, tmp_path / "run")
    run.train(1, best=1)
    run.train(2, 3, 4, best=2)
    assert run.fetched() == ["state of epoch 4", "state of epoch 3"]
    assert files(store) == {"state of epoch 4", "state of epoch 3", "weights of epoch 2"}
    newest = run.checkpoints.fetch(run.checkpoints.found()[0], tmp_path / "again")
    assert newest.weights is not None
    assert (newest.epoch, newest.best_epoch) == (4, 2)
    assert newest.weights.read_text() == "weights of epoch 2"


def test_a_takeover_goes_on_from_another_attempts_checkpoint(
    engine: Engine, study: Study, store: FolderStore, tmp_path: Path
) -> None:
    """The old attempt's files stay until the new one has two of its own."""
    first = Run(claims_of(engine, study, 1), store, tmp_path / "one")
    first.train(1, 2, 3)
    expire(engine, first.claim)
    second = Run(claims_of(engine, study, 2), store, tmp_path / "two")
    assert second.fetched() == ["state of epoch 3", "state of epoch 2"]
    assert second.claims.resume(second.claim, 3, "")
    second.train(4)
    assert files(store) == {"state of epoch 4", "state of epoch 3"}
    second.train(5)
    assert files(store) == {"state of epoch 5", "state of epoch 4"}


def test_a_loser_records_nothing_and_removes_nothing_that_is_needed(
    engine: Engine, study: Study, store: FolderStore, tmp_path: Path
) -> None:
    """An upload that comes after a takeover leaves all that the new holder can go on from."""
    loser = Run(claims_of(engine, study, 1), store, tmp_path / "one")
    loser.train(1, 2, best=1)
    expire(engine, loser.claim)
    holder = Run(claims_of(engine, study, 2), store, tmp_path / "two")
    assert loser.keep(3, best=3) is LeaseStatus.LOST
    assert holder.fetched() == ["state of epoch 2", "state of epoch 1"]
    assert files(store) == {"state of epoch 2", "state of epoch 1", "weights of epoch 1"}
    holder.claims.resume(holder.claim, 2, "")
    holder.train(3, 4)
    assert loser.keep(9) is LeaseStatus.LOST
    assert holder.fetched() == ["state of epoch 4", "state of epoch 3"]
    assert files(store) == {"state of epoch 4", "state of epoch 3"}


class PausedClaims(Claims):
    """A worker held up after it has recorded a checkpoint, before it removes older ones."""

    meanwhile: Callable[[], None] | None = None

    def checkpoints(self, trial_id: int) -> list[StoredCheckpoint]:
        found = super().checkpoints(trial_id)
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()
        return found


def test_a_worker_paused_before_its_sweep_removes_nothing_of_the_next_one(
    engine: Engine, study: Study, store: FolderStore, tmp_path: Path
) -> None:
    """What the new holder has put into the store and not recorded yet is still there."""
    slow = PausedClaims(Database(engine, patience_s=60.0), study, 1, lease_s=30.0)
    loser = Run(slow, store, tmp_path / "one")
    holders: list[Run] = []

    def take_over() -> None:
        expire(engine, loser.claim)
        holder = Run(claims_of(engine, study, 2), store, tmp_path / "two")
        holder.claims.resume(holder.claim, 1, "")
        store.put(made(tmp_path / "two", 2).state, holder.checkpoints._area(holder.claim.token))
        holders.append(holder)

    slow.meanwhile = take_over
    loser.train(1)
    assert files(store) == {"state of epoch 1", "state of epoch 2"}
    holders[0].train(2)
    assert holders[0].fetched() == ["state of epoch 2", "state of epoch 1"]


def test_a_damaged_or_missing_one_is_said(
    engine: Engine, study: Study, store: FolderStore, tmp_path: Path
) -> None:
    """Altered content and a lost file are told from a store that is away; older ones still do."""
    run = Run(claims_of(engine, study), store, tmp_path / "run")
    run.train(1, 2)
    newest, older = run.checkpoints.found()
    place = next(store.root.rglob(newest.state.sha256))
    place.write_text("something else")
    with pytest.raises(WeightsError):
        run.checkpoints.fetch(newest, tmp_path / "altered")
    place.unlink()
    with pytest.raises(WeightsError):
        run.checkpoints.fetch(newest, tmp_path / "missing")
    assert run.checkpoints.fetch(older, tmp_path / "older").state.read_text() == "state of epoch 1"


@pytest.mark.parametrize("how", ["told", "outside", "given up"])
def test_nothing_is_left_of_an_ended_trial(
    engine: Engine, study: Study, store: FolderStore, tmp_path: Path, how: str
) -> None:
    """Whoever ended it: told, in optuna-dashboard, or after three dead workers."""
    claims = claims_of(engine, study)
    run = Run(claims, store, tmp_path / "run")
    run.train(1, 2, best=1)
    assert checkpoint_areas(engine, study)
    if how == "told":
        assert claims.tell(run.claim, End.COMPLETE)
        run.checkpoints.clear()
    elif how == "outside":
        url = engine.url.render_as_string(hide_password=False)
        optuna.load_study(study_name=study.name, storage=url).tell(0, 0.5)
    else:
        for worker in (2, 3):
            expire(engine, run.claim)
            assert claimed(claims_of(engine, study, worker)).number == 0
        expire(engine, run.claim)
        assert claimed(claims_of(engine, study, 4)).number == 1, "trial 0 is over"
    clear_ended(claims, store)
    assert files(store) == set()
    assert run.checkpoints.found() == []
    assert clear_ended(claims, store) is None, "there is nothing to clear twice"


@pytest.mark.parametrize("gone", [False, True], ids=["store-here", "store-gone"])
def test_nothing_is_left_of_a_deleted_study(
    engine: Engine,
    study: Study,
    store: FolderStore,
    monkeypatch: pytest.MonkeyPatch,
    gone: bool,
) -> None:
    """Its running trial's checkpoints go too; what stays in a store that is away is said."""
    run = Run(claims_of(engine, study), store, store.root.parent / "run")
    run.train(1, best=1)

    def keep_only(*_: object) -> None:
        raise StoreError("it is away")

    if gone:
        monkeypatch.setattr(store, "keep_only", keep_only)
    stays = delete_with_checkpoints(engine, store, study)
    assert str(stays or "") == ("it is away" if gone else "")
    assert bool(files(store)) is gone
    with pytest.raises(UnknownStudyError, match="was deleted"):
        delete_with_checkpoints(engine, store, study)


# The uploader


class Uploads:
    """An uploader of a claimed trial, with what it says."""

    def __init__(self, run: Run) -> None:
        self.run, self.said = run, list[str]()
        self.uploader = CheckpointUploader(run.checkpoints, self.said.append)

    def submit(self, number: int) -> Path:
        checkpoint = made(self.run.folder, number)
        self.uploader.submit(checkpoint)
        return checkpoint.state


@pytest.fixture
def uploads(engine: Engine, study: Study, store: FolderStore, tmp_path: Path) -> Iterator[Uploads]:
    one = Uploads(Run(claims_of(engine, study), store, tmp_path / "run"))
    with one.uploader:
        yield one


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(checkpoints, "LONGEST_WAIT_S", 0.1)


def test_what_was_handed_over_is_stored_and_its_file_removed(uploads: Uploads) -> None:
    """After a flush it can be continued from; the trainer's own file is gone."""
    state = uploads.submit(1)
    assert uploads.uploader.flush(30)
    assert uploads.run.fetched() == ["state of epoch 1"]
    wait_until(lambda: not state.exists(), "the file is removed")
    assert uploads.said == []


@pytest.mark.usefixtures("quick")
def test_a_store_that_is_away_delays_and_is_said(uploads: Uploads, store: FolderStore) -> None:
    """The newest waits for it, the older ones are dropped, and the warning is taken back."""
    away = store.root.with_name("away")
    store.root.rename(away)
    dropped = uploads.submit(1)
    wait_until(lambda: bool(uploads.said), "people are told")
    assert "checkpoints are not stored, training goes on" in uploads.said[0]
    assert not uploads.uploader.flush(0.2), "it is not stored"
    uploads.submit(2)
    wait_until(lambda: not dropped.exists(), "the older one is dropped")
    away.rename(store.root)
    assert uploads.uploader.flush(30)
    assert uploads.run.fetched() == ["state of epoch 2"]
    wait_until(lambda: uploads.said[-1] == "", "the warning is taken back")


@pytest.mark.usefixtures("quick")
def test_a_trials_warning_ends_with_it(uploads: Uploads, store: FolderStore) -> None:
    """The next trial of the worker does not inherit what was wrong with this one."""
    store.root.rename(store.root.with_name("away"))
    uploads.submit(1)
    wait_until(lambda: bool(uploads.said), "people are told")
    uploads.uploader.close(30)
    assert uploads.said[-1] == ""


def test_an_upload_that_hangs_does_not_hold_up_the_end(
    engine: Engine, study: Study, store: FolderStore, tmp_path: Path
) -> None:
    """Closing waits for so long and no longer; what comes after the end is not recorded."""
    begun, go_on = threading.Event(), threading.Event()

    class HangingStore(FolderStore):
        def put(self, file: Path, area: str = "objects") -> Any:
            stored = super().put(file, area)
            begun.set()
            assert go_on.wait(60)
            return stored

    run = Run(claims_of(engine, study), HangingStore(store.root), tmp_path / "run")
    uploads = Uploads(run)
    run.claims.report(run.claim, epoch(1, 0.1))
    with uploads.uploader:
        uploads.submit(1)
        assert begun.wait(60)
        assert not uploads.uploader.flush(0.1)
        uploads.uploader.close(0.1)
        assert run.claims.tell(run.claim, End.COMPLETE)
        run.checkpoints.clear()
        go_on.set()
    assert run.checkpoints.found() == []
    assert files(store) == set(), "what was uploaded after the end is removed by its uploader"


def test_an_unforeseen_error_costs_a_checkpoint_and_no_trial(
    engine: Engine, study: Study, store: FolderStore, tmp_path: Path
) -> None:
    """The thread goes on with the next one."""

    class BrokenOnce(FolderStore):
        broken = True

        def put(self, file: Path, area: str = "objects") -> Any:
            if self.broken:
                self.broken = False
                raise RuntimeError("nobody foresaw it")
            return super().put(file, area)

    uploads = Uploads(Run(claims_of(engine, study), BrokenOnce(store.root), tmp_path / "run"))
    with uploads.uploader:
        uploads.submit(1)
        assert uploads.uploader.flush(30)
        assert uploads.said == ["the checkpoint of epoch 1 is lost; the log says why"]
        uploads.submit(2)
        assert uploads.uploader.flush(30)
    assert uploads.run.fetched() == ["state of epoch 2"]

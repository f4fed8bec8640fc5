"""Datasets fetched from the store: once a machine, checked, whole or absent, and evicted."""

from __future__ import annotations

import errno
import multiprocessing
import shutil
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from support.stores import elsewhere, fetched_and_ended, fetcher, pushed_set, shapes

from hpo.datasets.cache import GB, DatasetCache
from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.held_out import held_out
from hpo.datasets.remote import Pushed, keeping, pushed, size_text
from hpo.errors import StorageFullError, UsageError, WeightsError
from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.artifacts.opening import open_store

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.settings import Settings

AT_ONCE = 4


def fetched(settings: Settings, wanted: Pushed) -> tuple[Path, list[str]]:
    said: list[str] = []
    return DatasetCache(settings).fetched(wanted, open_store(settings), said.append), said


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Of a machine that has it."""
    return shapes(tmp_path / "set")


@pytest.fixture
def one(settings: Settings, engine: Engine, data: Path) -> Pushed:
    """The pushed set."""
    return pushed_set(settings, engine, data)


@pytest.fixture
def there(settings: Settings, tmp_path: Path) -> Settings:
    """Another machine."""
    return elsewhere(settings, tmp_path / "there")


def test_a_machine_without_it_gets_the_same(
    there: Settings, settings: Settings, one: Pushed, data: Path
) -> None:
    """The fingerprint and the test split are those of the original, which may be gone by then."""
    held = held_out(data, home=settings.home)
    shutil.rmtree(data.parent)
    copy, said = fetched(there, one)
    assert copy == there.dataset_cache / one.fingerprint / "data.yaml"
    assert fingerprint(copy, home=there.home) == one.fingerprint
    assert held_out(copy, home=there.home) == held
    assert [line.split()[0] for line in said] == ["fetching"]
    assert fetched(there, one) == (copy, [])
    assert sorted(file.name for file in there.dataset_cache.iterdir()) == sorted(
        [one.fingerprint, f"{one.fingerprint}.use", f"{one.fingerprint}.fetch", "lock"]
    )


def _fetch_often(start: Barrier, times: int, wanted: Pushed, folder: Path, told: Any) -> None:
    from hpo.settings import Settings

    root = folder.parent / ".hpo/artifacts"
    for time_ in range(times):
        settings = Settings.read({"HPO_HOME": str(folder / f"{time_}/.hpo")}, cwd=folder)
        start.wait(60)
        said: list[str] = []
        found = DatasetCache(settings).fetched(wanted, FolderStore(root), said.append)
        assert fingerprint(found, home=settings.home) == wanted.fingerprint
        told.put((time_, sum(line.startswith("fetching") for line in said)))


@pytest.mark.parametrize("times", [6, pytest.param(60, marks=pytest.mark.cluster)])
def test_workers_that_start_at_once_fetch_once(one: Pushed, tmp_path: Path, times: int) -> None:
    """Four processes, each time an empty cache: one fetches, all get it whole."""
    spawn = multiprocessing.get_context("spawn")
    start, told = spawn.Barrier(AT_ONCE), spawn.SimpleQueue()
    given = (start, times, one, tmp_path / "many", told)
    processes = [spawn.Process(target=_fetch_often, args=given) for _ in range(AT_ONCE)]
    for process in processes:
        process.start()
    answers = [told.get() for _ in range(AT_ONCE * times)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    fetches = [sum(count for time_, count in answers if time_ == asked) for asked in range(times)]
    assert fetches == [1] * times


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: next(folder.glob("labels/train/*")).write_text("0 .1 .1 .1 .1\n"),
        lambda folder: next(folder.glob("images/val/*")).unlink(),
        lambda folder: (folder / "data.yaml").write_text("names: [a"),
        lambda folder: (folder / "data.yaml").unlink(),
    ],
    ids=["a label", "an image", "the YAML", "no YAML"],
)
def test_a_damaged_copy_is_fetched_again(there: Settings, one: Pushed, damage: Any) -> None:
    """Noticed by the files' stamps, at every start."""
    copy, _ = fetched(there, one)
    damage(copy.parent)
    assert DatasetCache(there).found(one.fingerprint) is None
    again, said = fetched(there, one)
    assert (again, len(said)) == (copy, 1)
    assert fingerprint(copy, home=there.home) == one.fingerprint


def test_an_altered_archive_is_not_used(
    there: Settings, one: Pushed, settings: Settings, tmp_path: Path, engine: Engine
) -> None:
    """Neither another content under its name, nor another dataset in its place in the record."""
    archive = next((tmp_path / ".hpo/artifacts").rglob(one.sha256))
    content = archive.read_bytes()
    archive.write_bytes(content[:-1] + b"x")
    with pytest.raises(WeightsError, match="was altered"):
        fetched(there, one)
    archive.write_bytes(content)
    other = pushed_set(settings, engine, shapes(tmp_path / "other", seed=9))
    with pytest.raises(WeightsError, match="holds the dataset " + other.fingerprint[:12]):
        fetched(there, replace(one, sha256=other.sha256))
    archive.unlink()
    with pytest.raises(WeightsError, match="is not in"):
        fetched(there, one)
    assert DatasetCache(there).entries() == {}
    assert [f.name for f in there.dataset_cache.glob(".*")] == []


def test_a_fetch_that_was_killed_leaves_nothing(there: Settings, one: Pushed) -> None:
    """It dies with an archive and half of its files; the next one clears up and has it whole."""
    die = (
        "import os, shutil, signal\n"
        "shutil.copyfileobj = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert "has" not in fetched_and_ended(there, one.fingerprint, die)
    left = there.dataset_cache / f".{one.fingerprint}.part"
    assert (left / "archive.tar").is_file()
    assert (left / "copy").is_dir()
    assert not (there.dataset_cache / one.fingerprint).exists()
    fetched(there, one)
    assert not left.exists()


def test_the_longest_unused_goes_first_and_none_in_use(
    there: Settings, settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    """Use is a lock: that of a process that died, even killed, keeps nothing."""
    sets = [
        pushed_set(settings, engine, shapes(tmp_path / f"set{seed}", seed=seed))
        for seed in range(4)
    ]
    # What is unpacked takes about half of such a small archive: two fit, and a third does not
    small = replace(there, dataset_cache_gb=1.9 * sets[0].bytes / GB)
    names = [one.fingerprint for one in sets]
    with fetcher(small, names[0]) as living:
        assert living.stdout is not None
        while not (line := living.stdout.readline()).startswith("has"):
            assert line
        fetched_and_ended(small, names[1])
        assert set(DatasetCache(small).entries()) == {names[0], names[1]}
        time.sleep(0.01)
        fetched_and_ended(small, names[2])
        assert set(DatasetCache(small).entries()) == {names[0], names[2]}
        living.send_signal(signal.SIGKILL)
        living.wait()
    fetched_and_ended(small, names[3])
    assert set(DatasetCache(small).entries()) == {names[2], names[3]}
    tiny = replace(there, dataset_cache_gb=0.0)
    fetched_and_ended(tiny, names[0])
    assert set(DatasetCache(tiny).entries()) == {names[0]}


def test_no_room_is_said_before_anything_is_fetched(
    there: Settings, one: Pushed, engine: Engine
) -> None:
    """With what is wanted, what is free, and where to say otherwise."""
    with engine.begin() as connection:
        connection.execute(text("update hpo.dataset set bytes = 1e15"))
    huge = pushed(engine, one.fingerprint)
    assert huge is not None
    with pytest.raises(StorageFullError, match=r"no space left in .*2000000\.00 GB wanted") as why:
        fetched(there, huge)
    assert "HPO_DATASET_CACHE" in why.value.hint
    assert DatasetCache(there).entries() == {}


@pytest.mark.parametrize("place", ["file", "file/cache", "/proc/none/cache", "dangling", "x" * 256])
def test_a_cache_that_cannot_be_made_is_wrong_input(
    there: Settings, one: Pushed, tmp_path: Path, data: Path, place: str
) -> None:
    """With the variable that says where else; to fetch one and to pack one."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("/proc/none")
    odd = replace(there, dataset_cache=tmp_path / place)
    for attempt in (lambda: fetched(odd, one), lambda: packed(odd, data)):
        with pytest.raises(UsageError, match="datasets cannot be kept in") as why:
            attempt()
        assert "HPO_DATASET_CACHE" in why.value.hint


def packed(settings: Settings, data: Path) -> None:
    from hpo.datasets.remote import _draft

    with _draft(settings.dataset_cache, data.stat().st_size):
        pass


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EROFS, UsageError), (errno.EACCES, UsageError), (errno.ENOSPC, StorageFullError),
        (errno.EDQUOT, StorageFullError), (errno.EIO, OSError),
    ],
)  # fmt: skip
def test_what_the_system_says_of_the_cache(
    number: int, kind: type[Exception], tmp_path: Path
) -> None:
    """A place that nobody can write, a full one, and trouble that is not the cache's own."""
    with pytest.raises(kind) as why, keeping(tmp_path):
        raise OSError(number, "said")
    assert isinstance(why.value, OSError) or "HPO_DATASET_CACHE" in why.value.hint  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("size", "text"),
    [(500, "0.5 kB"), (30_720, "30.7 kB"), (2_500_000, "2.5 MB"), (1_250_000_000, "1.25 GB")],
)
def test_no_size_reads_as_nothing(size: int, text: str) -> None:
    """Small sets are no 0.00 GB."""
    assert size_text(size) == text

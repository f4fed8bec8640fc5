"""A folder as artifact store: what only a folder can meet."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from hpo.errors import StoreError, UsageError, WeightsError
from hpo.storage.artifacts.folder import FolderStore

if TYPE_CHECKING:
    from pathlib import Path

ON_A_SMALL_DEVICE = """
import sys
from pathlib import Path
from hpo.storage.artifacts.folder import FolderStore
from hpo.errors import StoreError

device, elsewhere = map(Path, sys.argv[1:])
small, large = elsewhere / "small", elsewhere / "large"
small.write_bytes(b"s" * 1000)
large.write_bytes(b"l" * (3 << 20))
store = FolderStore(device / "store")
store.require_writable()
try:
    store.put(large, "area")
except StoreError as error:
    print("full:", error, "|", error.hint)
print("drafts:", [one.name for one in device.rglob(".*")])
print("small:", store.put(small, "area").size)

roomy = FolderStore(elsewhere / "roomy")
roomy.require_writable()
try:
    roomy.fetch(roomy.put(large).sha256, device / "copy")
except StoreError:
    print("the store is blamed")
except OSError as error:
    print("target:", error.strerror)
print("left:", sorted(one.name for one in device.iterdir()))
try:
    with (device / "filler").open("wb", buffering=0) as filler:
        while filler.write(b"f" * 4096):
            pass
except OSError:
    pass
try:
    store.require_writable()
except StoreError as error:
    print("asked:", error)
"""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """A folder that was made."""
    store = FolderStore(tmp_path / "mount" / "store")
    store.require_writable()
    return store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file."""
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    return path


def test_a_mount_that_is_gone_is_not_written_below(
    store: FolderStore, file: Path, tmp_path: Path
) -> None:
    """Where the root or what `require_writable` made in it is away, nothing is made in its place.

    An unmounted disk leaves an empty folder: files written there would be hidden when it is back.
    """
    store.root.rename(tmp_path / "away")
    with pytest.raises(StoreError, match="it is not there"):
        store.put(file, "area")
    assert not store.root.exists()
    store.root.mkdir()
    with pytest.raises(StoreError, match="it is not there"):
        store.put(file, "area")
    with pytest.raises(StoreError, match="it is not there"):
        store.fetch("0" * 64, tmp_path / "copy")
    assert list(store.root.iterdir()) == []


def test_a_worker_makes_no_store_of_its_own(tmp_path: Path) -> None:
    """A mount that is missing at its start is told, and nothing is written in its place."""
    store = FolderStore(tmp_path / "not-mounted")
    with pytest.raises(UsageError, match="there is no artifact store in") as error:
        store.require_writable(make=False)
    assert "the same for all workers" in error.value.hint
    assert not store.root.exists()


def test_a_full_device_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """Neither in the store nor at a target; the one is StoreError, the other the system's own."""
    device = tmp_path / "device"
    device.mkdir()
    mount = f'mount -t tmpfs -o size=2m none "{device}"'
    own = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    if subprocess.run([*own, mount], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small file system of their own")
    words = f'{mount} && exec "$0" -c "$@"'
    done = subprocess.run(
        [*own, words, sys.executable, ON_A_SMALL_DEVICE, str(device), str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    root = device / "store"
    mend = f"Free some space (`df -h {root}` shows it), or set HPO_ARTIFACTS elsewhere."
    assert done.stdout.splitlines() == [
        f"full: no space left for artifacts in {root} | {mend}",
        "drafts: []",
        "small: 1000",
        "target: No space left on device",
        "left: ['store']",
        f"asked: no space left for artifacts in {root}",
    ]


def test_stored_files_can_be_read_by_other_users(
    store: FolderStore, file: Path, tmp_path: Path
) -> None:
    """They get the rights that this user's files have, not those of a private temporary file."""
    stored = store.put(file)
    held = store.root / "objects" / stored.sha256[:2] / stored.sha256
    plain = tmp_path / "plain"
    plain.touch()
    assert held.stat().st_mode == plain.stat().st_mode


def test_a_file_replaced_by_a_folder_is_missing(
    store: FolderStore, file: Path, tmp_path: Path
) -> None:
    """Waiting does not bring it back, so it is not an outage."""
    stored = store.put(file, "area")
    held = store.root / "area" / stored.sha256
    held.unlink()
    held.mkdir()
    with pytest.raises(WeightsError, match="is not in"):
        store.fetch(stored.sha256, tmp_path / "copy", "area")
    assert store.keep_only("area", ()) == 0
    assert held.is_dir()


def test_a_cleared_area_leaves_no_folder(store: FolderStore, file: Path) -> None:
    """A study of a thousand trials does not leave a thousand empty folders."""
    store.put(file, "checkpoints/study/7")
    store.keep_only("checkpoints/study/7", ())
    assert not (store.root / "checkpoints" / "study" / "7").exists()


def test_what_killed_writers_left_in_objects_goes_after_a_day(store: FolderStore) -> None:
    """A draft of today may be somebody's at work."""
    objects = store.root / "objects"
    old, young = objects / ".incoming-old", objects / ".incoming-young"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    store.require_writable()
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_made_is_wrong_input(file: Path, below: str) -> None:
    """The message names the folder, the hint the variable."""
    store = FolderStore(file.parent / below)
    with pytest.raises(UsageError, match=f"cannot be written to {store.root}") as caught:
        store.require_writable()
    assert "HPO_ARTIFACTS" in caught.value.hint

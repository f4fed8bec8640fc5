"""What every artifact store promises; a folder and an S3 bucket pass the same tests.

The S3 server is a stand-in in memory (tests/support/s3_server.py says what it cannot show).
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from hpo.errors import StoreError, WeightsError
from hpo.storage.artifacts.s3 import PART_BYTES
from hpo.storage.artifacts.store import OBJECTS, Stored, sha256_of

if TYPE_CHECKING:
    from pathlib import Path

    from support.stores import Backing

AREA = "checkpoints/2f1c/0"
OTHER = "checkpoints/2f1c/1"
AREAS = (OBJECTS, AREA)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file."""
    return written(tmp_path / "file.pt", b"weights")


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file that S3 takes in three parts."""
    return written(tmp_path / "big.pt", os.urandom(2 * PART_BYTES + 1))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def holds(backing: Backing, sha256: str, area: str, folder: Path) -> bool:
    """Whether another process can fetch that content."""
    try:
        backing.another().fetch(sha256, folder / "held", area)
    except WeightsError:
        return False
    return True


@pytest.mark.parametrize("area", AREAS)
class TestContent:
    """What was put in comes out, or nothing."""

    def test_is_known_by_its_size(self, backing: Backing, file: Path, area: str) -> None:
        """Without reading it; what is not there has none, and a store that is gone knows none."""
        stored = backing.store.put(file, area)
        assert backing.another().size_of(stored.sha256, area) == stored.size
        assert backing.store.size_of("0" * 64, area) is None
        assert backing.store.size_of(stored.sha256, "other") is None

    def test_comes_back(self, backing: Backing, file: Path, tmp_path: Path, area: str) -> None:
        """Under its sha256, in a folder that is made; the source stays as it was."""
        stored = backing.store.put(file, area)
        assert stored == Stored(sha256_of(file), 7)
        target = tmp_path / "new" / "folder" / "copy.pt"
        assert backing.another().fetch(stored.sha256, target, area) == target
        assert target.read_bytes() == file.read_bytes() == b"weights"
        assert [one.name for one in target.parent.iterdir()] == ["copy.pt"]

    def test_comes_back_large(self, backing: Backing, big: Path, tmp_path: Path, area: str) -> None:
        """Files larger than one part are as whole as small ones."""
        stored = backing.store.put(big, area)
        assert stored.size == 2 * PART_BYTES + 1
        copy = backing.store.fetch(stored.sha256, tmp_path / "copy", area)
        assert copy.read_bytes() == big.read_bytes()
        assert backing.unfinished() == []

    def test_empty_files_too(self, backing: Backing, tmp_path: Path, area: str) -> None:
        """An empty file is a file."""
        stored = backing.store.put(written(tmp_path / "empty", b""), area)
        assert backing.store.fetch(stored.sha256, tmp_path / "copy", area).read_bytes() == b""

    def test_altered_is_refused(
        self, backing: Backing, file: Path, tmp_path: Path, area: str
    ) -> None:
        """The error says so, and an earlier target is not touched."""
        stored = backing.store.put(file, area)
        backing.alter(stored.sha256, area)
        target = written(tmp_path / "copy", b"before")
        with pytest.raises(WeightsError, match="was altered: its sha256 is now") as caught:
            backing.store.fetch(stored.sha256, target, area)
        assert "Restore" in caught.value.hint
        assert target.read_bytes() == b"before"
        assert sorted(tmp_path.glob(".*")) == []

    def test_altered_is_mended_by_putting_it_again(
        self, backing: Backing, file: Path, tmp_path: Path, area: str
    ) -> None:
        """A file of the right name and size is not taken for the right content."""
        stored = backing.store.put(file, area)
        backing.alter(stored.sha256, area)
        assert backing.store.put(file, area) == stored
        assert holds(backing, stored.sha256, area, tmp_path)

    def test_missing_is_told(self, backing: Backing, tmp_path: Path, area: str) -> None:
        """It is another error than a store that cannot be reached."""
        with pytest.raises(WeightsError, match="the artifact 000000000000 is not in"):
            backing.store.fetch("0" * 64, tmp_path / "copy", area)
        assert not (tmp_path / "copy").exists()

    def test_two_writers_of_the_same_content_do_no_harm(
        self, backing: Backing, big: Path, tmp_path: Path, area: str
    ) -> None:
        """All of them succeed, threads on one store and others, and nothing unfinished stays."""
        stores = [backing.store, backing.store, backing.another(), backing.another()]
        with ThreadPoolExecutor(len(stores)) as pool:
            results = set(pool.map(lambda store: store.put(big, area), stores))
        assert results == {Stored(sha256_of(big), big.stat().st_size)}
        assert holds(backing, sha256_of(big), area, tmp_path)
        assert backing.unfinished() == []

    def test_a_killed_writer_leaves_nothing_to_see(
        self, backing: Backing, file: Path, big: Path, tmp_path: Path, area: str
    ) -> None:
        """What it had begun is not there for readers, and putting it again works."""
        backing.store.put(file, area)
        assert backing.kill_writer(big, area) == -signal.SIGKILL
        assert len(backing.unfinished()) == 1, "it was not killed in the middle"
        assert not holds(backing, sha256_of(big), area, tmp_path)
        backing.store.put(big, area)
        assert holds(backing, sha256_of(big), area, tmp_path)

    def test_a_source_that_is_gone_is_not_the_stores_fault(
        self, backing: Backing, tmp_path: Path, area: str
    ) -> None:
        """Waiting for the store would never end: it is another error than StoreError."""
        with pytest.raises(FileNotFoundError):
            backing.store.put(tmp_path / "gone", area)
        assert backing.unfinished() == []

    def test_a_target_that_cannot_be_written_is_not_the_stores_fault(
        self, backing: Backing, file: Path, tmp_path: Path, area: str
    ) -> None:
        """The error is the system's own."""
        stored = backing.store.put(file, area)
        blocked = written(tmp_path / "blocked", b"a file, not a folder")
        with pytest.raises(OSError, match=r"blocked"):
            backing.store.fetch(stored.sha256, blocked / "copy", area)


class TestAreas:
    """An area has one owner; `objects` is everybody's and for good."""

    def test_are_separate(self, backing: Backing, file: Path, tmp_path: Path) -> None:
        """Content of one area is not in another, nor lost when another is cleared."""
        stored = backing.store.put(file, AREA)
        assert not holds(backing, stored.sha256, OBJECTS, tmp_path)
        assert not holds(backing, stored.sha256, OTHER, tmp_path)
        backing.store.put(file, OTHER)
        backing.store.put(file)
        assert backing.store.keep_only(AREA, ()) == 1
        assert not holds(backing, stored.sha256, AREA, tmp_path)
        assert holds(backing, stored.sha256, OTHER, tmp_path)
        assert holds(backing, stored.sha256, OBJECTS, tmp_path)

    def test_whose_names_begin_alike_are_separate(
        self, backing: Backing, file: Path, tmp_path: Path
    ) -> None:
        """Clearing trial 1 leaves trial 10 alone."""
        stored = backing.store.put(file, f"{OTHER}0")
        assert backing.store.keep_only(OTHER, ()) == 0
        assert holds(backing, stored.sha256, f"{OTHER}0", tmp_path)

    def test_keep_what_is_named(self, backing: Backing, tmp_path: Path) -> None:
        """Everything else goes, and a name that is not there does no harm."""
        files = [written(tmp_path / f"{number}", b"%d" % number) for number in range(4)]
        stored = [backing.store.put(file, AREA).sha256 for file in files]
        assert backing.store.keep_only(AREA, {stored[1], stored[3], "0" * 64}) == 2
        assert [holds(backing, sha256, AREA, tmp_path) for sha256 in stored] == [
            False, True, False, True,
        ]  # fmt: skip
        assert backing.store.keep_only(AREA, {stored[1], stored[3]}) == 0

    def test_are_cleared_of_what_killed_writers_left(
        self, backing: Backing, file: Path, big: Path, tmp_path: Path
    ) -> None:
        """Unfinished writes are counted and removed with the rest."""
        stored = backing.store.put(file, AREA)
        backing.kill_writer(big, AREA)
        assert len(backing.unfinished()) == 1
        assert backing.store.keep_only(AREA, {stored.sha256}) == 1
        assert backing.unfinished() == []
        assert holds(backing, stored.sha256, AREA, tmp_path)

    def test_may_be_cleared_before_they_are_used_and_used_again(
        self, backing: Backing, file: Path, tmp_path: Path
    ) -> None:
        """An area needs no making."""
        assert backing.store.keep_only(AREA, ()) == 0
        stored = backing.store.put(file, AREA)
        assert backing.store.keep_only(AREA, ()) == 1
        backing.store.put(file, AREA)
        assert holds(backing, stored.sha256, AREA, tmp_path)

    def test_objects_is_for_good(self, backing: Backing, file: Path, tmp_path: Path) -> None:
        """Nothing can be removed from it by mistake."""
        stored = backing.store.put(file)
        with pytest.raises(ValueError, match="nothing is ever removed from objects"):
            backing.store.keep_only(OBJECTS, ())
        assert holds(backing, stored.sha256, OBJECTS, tmp_path)


class TestOutage:
    """A store that is away says so, and works when it is back."""

    def test_every_call_tells_and_works_again(
        self, backing: Backing, file: Path, tmp_path: Path
    ) -> None:
        """StoreError while it is away; afterwards the same store object goes on."""
        stored = backing.store.put(file, AREA)
        backing.take_away()
        calls = [
            lambda: backing.store.put(file, AREA),
            lambda: backing.store.put(file),
            lambda: backing.store.fetch(stored.sha256, tmp_path / "copy", AREA),
            lambda: backing.store.keep_only(AREA, ()),
        ]
        for call in calls:
            with pytest.raises(StoreError, match="cannot be reached") as caught:
                call()
            assert backing.store.place in str(caught.value)
            assert caught.value.hint
        assert not (tmp_path / "copy").exists()
        backing.bring_back()
        assert backing.store.put(file, AREA) == stored
        assert holds(backing, stored.sha256, AREA, tmp_path)
        assert backing.store.keep_only(AREA, ()) == 1

    def test_asking_whether_it_can_be_written_changes_nothing(
        self, backing: Backing, file: Path, tmp_path: Path
    ) -> None:
        """Every worker asks at its start, on a store in daily use."""
        stored = backing.store.put(file)
        backing.store.put(file, AREA)
        before = backing.names()
        backing.another().require_writable()
        assert backing.names() == before
        assert len(before) == 2
        assert holds(backing, stored.sha256, OBJECTS, tmp_path)

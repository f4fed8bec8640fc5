"""A fingerprint follows a dataset's content, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from hpo.datasets import fingerprint as module
from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.generated import make_shapes
from hpo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data YAML of four, two and one drawn images."""
    return make_shapes(tmp_path / "set", imgsz=32, train=4, val=2, test=1)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's `.hpo`; files just written count as settled, so that they are cached."""
    monkeypatch.setattr(module, "SETTLED_S", -1.0)
    folder = tmp_path / ".hpo"
    folder.mkdir()
    return folder


def cached(home: Path) -> list[Path]:
    return sorted((home / "cache/fingerprints").glob("*"))


def test_a_copy_elsewhere_has_the_same(data: Path, tmp_path: Path) -> None:
    """Neither the place nor the files' times count."""
    shutil.copytree(data.parent, tmp_path / "far/away")
    nowhere = tmp_path / "nowhere"
    first = fingerprint(data, home=nowhere)
    assert fingerprint(tmp_path / "far/away/data.yaml", home=nowhere) == first
    assert len(bytes.fromhex(first)) == 32


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("val: images/val", "val: ./images/../images/val/"),
        ("val: images/val", "val: [images/val]"),
        ("val: images/val", "val: val.txt"),
        ("val: images/val", "validation: images/val"),
        ("names:\n  0: circle\n  1: square\n  2: triangle", "names: [circle, square, triangle]"),
        ("train:", "author: me\npath: .\ntrain:"),
    ],
)
def test_other_spellings_have_the_same(data: Path, tmp_path: Path, old: str, new: str) -> None:
    """The same images in the same splits with the same names are the same data."""
    images = sorted((data.parent / "images/val").iterdir())
    (data.parent / "val.txt").write_text("\n".join(str(image) for image in images))
    first = fingerprint(data, home=tmp_path / "nowhere")
    assert old in data.read_text()
    data.write_text(data.read_text().replace(old, new))
    assert fingerprint(data, home=tmp_path / "nowhere") == first


def another_image(root: Path) -> None:
    file = root / "images/train/00002.bmp"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")


def another_test_image(root: Path) -> None:
    (root / "images/test/00000.bmp").write_bytes(b"other")


def another_label(root: Path) -> None:
    (root / "labels/val/00001.txt").write_text("0 .5 .5 .1 .1\n")


def no_label(root: Path) -> None:
    (root / "labels/val/00001.txt").unlink()


def empty_label(root: Path) -> None:
    (root / "images/val/new.bmp").write_bytes(b"")


def other_split(root: Path) -> None:
    shutil.move(root / "images/train/00003.bmp", root / "images/val/00003.bmp")
    shutil.move(root / "labels/train/00003.txt", root / "labels/val/00003.txt")


def other_name(root: Path) -> None:
    (root / "images/val/00001.bmp").rename(root / "images/val/1.bmp")
    (root / "labels/val/00001.txt").rename(root / "labels/val/1.txt")


def other_class(root: Path) -> None:
    file = root / "data.yaml"
    file.write_text(file.read_text().replace("circle", "disc"))


def no_test(root: Path) -> None:
    file = root / "data.yaml"
    file.write_text(file.read_text().replace("test: images/test\n", ""))


CHANGES = [
    *(another_image, another_test_image, another_label, no_label, empty_label),
    *(other_split, other_name, other_class, no_test),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_noticed_through_the_cache(
    data: Path, home: Path, change: Callable[[Path], None]
) -> None:
    """Image, label, name, split or class: another fingerprint, cached or not."""
    first = fingerprint(data, home=home)
    assert fingerprint(data, home=home) == first
    assert len(cached(home)) == 1
    change(data.parent)
    second = fingerprint(data, home=home)
    assert second != first
    assert second == fingerprint(data, home=home / "none")


def test_a_second_look_reads_no_file(data: Path, home: Path) -> None:
    """Progress is told only while files are read."""
    reads: list[int] = []
    for _ in range(2):
        fingerprint(data, home=home, progress=lambda done, total: reads.append(total - done))
    assert reads == list(range(13, -1, -1))


def test_a_change_that_sets_the_time_back_is_noticed(data: Path, home: Path) -> None:
    """Same size, same inode, same modification time: `cp -p` and rsync do that."""
    first = fingerprint(data, home=home)
    file = data.parent / "images/train/00002.bmp"
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last[0] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_ino) == (before.st_size, before.st_ino)
    assert fingerprint(data, home=home) != first


def test_files_written_just_now_are_not_cached(
    data: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could change again within the same tick of the file system's clock."""
    monkeypatch.setattr(module, "SETTLED_S", 3600.0)
    fingerprint(data, home=home)
    assert cached(home) == []


def test_a_damaged_cache_is_no_cache(data: Path, home: Path) -> None:
    """It is made again."""
    first = fingerprint(data, home=home)
    (file,) = cached(home)
    good = json.loads(file.read_text())
    for text in ("{", "[]", json.dumps({**good, "fingerprint": 3})):
        file.write_text(text)
        assert fingerprint(data, home=home) == first
        assert json.loads(file.read_text()) == good
        assert cached(home) == [file]


def test_without_a_home_none_is_made(data: Path, tmp_path: Path) -> None:
    """Looking leaves no traces."""
    fingerprint(data, home=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_data_that_is_not_there_has_none(data: Path, home: Path) -> None:
    """Absent images are told as such, not hashed as an empty set."""
    (data.parent / "some.txt").write_text("./images/train/gone.bmp\n")
    good = data.read_text()
    data.write_text(good.replace("train: images/train", "train: some.txt"))
    with pytest.raises(DatasetError, match=r"no such image: .*gone\.bmp"):
        fingerprint(data, home=home)
    data.write_text(good.replace("val: images/val", "val: images/vale"))
    with pytest.raises(DatasetError, match=r"val: no such folder or list: .*/images/vale"):
        fingerprint(data, home=home)

"""A test split judges only when no trial sees its images; its fingerprint is of it alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpo.datasets import fingerprint as module
from hpo.datasets.builtin import resolve
from hpo.datasets.coco import make_tiny_person
from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.generated import make_shapes
from hpo.datasets.held_out import held_out, simulated_fingerprint
from hpo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no real images on this machine")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data YAML of four, two and three drawn images."""
    return make_shapes(tmp_path / "set", imgsz=32, train=4, val=2, test=3)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's `.hpo`; files just written count as settled, so that they are cached."""
    monkeypatch.setattr(module, "SETTLED_S", -1.0)
    folder = tmp_path / ".hpo"
    folder.mkdir()
    return folder


def refused(data: Path, home: Path) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        held_out(data, home=home)
    return caught.value


def copy(data: Path, source: str, target: str) -> None:
    shutil.copyfile(data.parent / "images" / source, data.parent / "images" / target)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: resolve("shapes", home=folder, base=folder),
        pytest.param(
            lambda folder: make_tiny_person(SHARED / "data/coco128", folder / "tiny"),
            marks=needs_shared,
        ),
        pytest.param(lambda _: SHARED / "data/bccd/data.yaml", marks=needs_shared),
    ],
    ids=["shapes", "tiny-person", "bccd"],
)
def test_every_set_at_hand_can_judge(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Whoever starts with one of them can promote."""
    assert held_out(make(tmp_path), home=tmp_path).images in (50, 10, 72)


def test_no_test_split_is_refused_with_the_command_that_makes_one(data: Path, home: Path) -> None:
    """The hint names this very dataset."""
    data.write_text(data.read_text().replace("test: images/test\n", ""))
    error = refused(data, home)
    assert error.faults == ("test: missing; expected images that no trial sees",)
    assert f"`hpo data split {data} -o data-split.yaml`" in error.hint


def test_an_empty_test_split_is_refused(data: Path, home: Path) -> None:
    """A folder without images, and one that is not there."""
    shutil.rmtree(data.parent / "images/test")
    assert "no such folder or list" in refused(data, home).faults[0]
    (data.parent / "images/test").mkdir()
    assert "test: no images in" in refused(data, home).faults[0]


def test_a_test_split_without_a_true_box_is_refused(data: Path, home: Path) -> None:
    """Label files that are empty or absent: every model would score nothing."""
    folder = data.parent / "labels/test"
    (folder / "00000.txt").write_text("")
    (folder / "00001.txt").unlink()
    assert held_out(data, home=home).images == 3
    (folder / "00002.txt").unlink()
    error = refused(data, home)
    assert error.faults == ("test: none of 3 images has a true box",)
    assert "leave `test:` out" in error.hint


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_copy_under_another_name_is_refused(data: Path, home: Path, split: str) -> None:
    """Not the name counts but the bytes, cached look or not."""
    assert held_out(data, home=home).images == 3
    copy(data, "test/00001.bmp", f"{split}/other.bmp")
    error = refused(data, home)
    assert error.faults == (
        f"test: 1 of 3 images is in {split}, too: images/test/00001.bmp = images/{split}/other.bmp",
    )
    assert "hpo data split" in error.hint


def test_shared_images_are_counted_and_three_are_named(tmp_path: Path, home: Path) -> None:
    """One sentence a split."""
    data = make_shapes(tmp_path / "five", imgsz=32, train=1, val=1, test=5)
    for number in range(5):
        copy(data, f"test/{number:05d}.bmp", f"train/a{number}.bmp")
    copy(data, "test/00000.bmp", "val/b.bmp")
    train, val = refused(data, home).faults
    assert train.startswith("test: 5 of 5 images are in train, too: images/test/00000.bmp = ")
    assert train.endswith("images/test/00002.bmp = images/train/a2.bmp and 2 more")
    assert val.startswith("test: 1 of 5 images is in val, too: ")


def test_a_split_that_is_the_test_split_is_refused(data: Path, home: Path) -> None:
    """`test: images/val` judges by what trials were chosen by."""
    data.write_text(data.read_text().replace("test: images/test", "test: images/val"))
    assert refused(data, home).faults[0].startswith("test: 2 of 2 images are in val, too: ")


def test_listed_images_must_be_there_once(data: Path, home: Path) -> None:
    """An image listed twice would count twice, an absent one not at all."""
    lines = ["./images/test/00000.bmp", "./images/test/00000.bmp", "./images/test/gone.bmp"]
    (data.parent / "some.txt").write_text("\n".join(lines))
    data.write_text(data.read_text().replace("test: images/test", "test: some.txt"))
    assert refused(data, home).faults == (
        "test: 1 of 3 images is listed but not there: images/test/gone.bmp",
        "test: 1 of 3 images is listed more than once: images/test/00000.bmp",
    )


def test_datasets_that_share_a_test_split_share_its_fingerprint(
    data: Path, home: Path, tmp_path: Path
) -> None:
    """Neither the place nor the other splits count: two models can be judged on the same images."""
    first = held_out(data, home=home)
    shutil.copytree(data.parent, tmp_path / "far/away")
    other = tmp_path / "far/away/data.yaml"
    (other.parent / "images/train/00000.bmp").unlink()
    (other.parent / "labels/val/00000.txt").write_text("0 .5 .5 .1 .1\n")
    assert held_out(other, home=home) == first
    assert fingerprint(other, home=home) != fingerprint(data, home=home)
    images = sorted((other.parent / "images/test").iterdir())
    (other.parent / "test.txt").write_text("\n".join(map(str, images)))
    other.write_text(other.read_text().replace("test: images/test", "test: test.txt"))
    assert held_out(other, home=home) == first


def another_image(root: Path) -> None:
    file = root / "images/test/00002.bmp"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")


def another_label(root: Path) -> None:
    (root / "labels/test/00001.txt").write_text("0 .5 .5 .1 .1\n")


def no_label(root: Path) -> None:
    (root / "labels/test/00001.txt").unlink()


def one_image_less(root: Path) -> None:
    (root / "images/test/00000.bmp").unlink()


def other_name(root: Path) -> None:
    (root / "images/test/00002.bmp").rename(root / "images/test/2.bmp")  # the last one as before
    (root / "labels/test/00002.txt").rename(root / "labels/test/2.txt")


def other_class(root: Path) -> None:
    file = root / "data.yaml"
    file.write_text(file.read_text().replace("circle", "disc"))


CHANGES = [another_image, another_label, no_label, one_image_less, other_name, other_class]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_the_split_is_noticed_through_the_cache(
    data: Path, home: Path, change: Callable[[Path], None]
) -> None:
    """Image, label, name or class: another fingerprint of the split and of the dataset."""
    first, whole = held_out(data, home=home), fingerprint(data, home=home)
    change(data.parent)
    second = held_out(data, home=home)
    assert second.fingerprint != first.fingerprint
    assert fingerprint(data, home=home) != whole, "a worker is refused before it trains"
    assert second == held_out(data, home=home / "none")


def test_a_second_look_reads_no_file(data: Path, home: Path) -> None:
    """The first one reads the split, and of the others only what could be a copy."""
    (data.parent / "images/train/00003.bmp").write_bytes(b"of another size")
    reads: list[int] = []
    for _ in range(2):
        found = held_out(data, home=home, progress=lambda done, total: reads.append(total - done))
        assert found.images == 3
    assert reads == list(range(3 + 3 + 3 + 2 - 1, -1, -1)), "test with labels, train less one, val"


def test_without_a_home_none_is_made(data: Path, tmp_path: Path) -> None:
    """Looking leaves no traces."""
    held_out(data, home=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_simulated_split_is_another_one_for_other_code() -> None:
    """Figures of two versions of the trainer are not of the same images."""
    one, other = simulated_fingerprint("simulated 1"), simulated_fingerprint("simulated 2")
    assert one != other
    assert len(bytes.fromhex(one)) == 32

"""Every fault of a dataset is found, in words, and all at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hpo.datasets.generated import make_shapes
from hpo.datasets.summary import summary
from hpo.datasets.validation import MOST_FAULTS, check, leaks, require
from hpo.errors import DatasetError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data YAML of four, two and one drawn images."""
    return make_shapes(tmp_path / "set", imgsz=32, train=4, val=2, test=1)


def label(data: Path, text: str, split: str = "train") -> None:
    """Write the first label file of a split."""
    (data.parent / "labels" / split / "00000.txt").write_text(text)


def test_a_good_dataset_has_no_faults(data: Path) -> None:
    """And require() lets it pass."""
    assert check(data, splits=("train", "val", "test")) == []
    require(data)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared real images are not on this machine")
def test_real_images_have_no_faults() -> None:
    """Blood cells, on a read-only place."""
    assert check(SHARED / "data/bccd/data.yaml", splits=("train", "val", "test")) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0 .5 .5 .1\n", "line 1: 4 numbers, expected 5"),
        ("0\n", "line 1: 1 number, expected 5"),
        ("0 .5 .5 .1 .1\n\n0 .5 .5 .1 .1 .1\n", "line 3: 6 numbers, expected 5"),
        ("0 .5 .5 .1 x\n", "line 1: '0 .5 .5 .1 x', expected 5 numbers"),
        ("3 .5 .5 .1 .1\n", "line 1: class 3, expected 0 to 2 (circle, square, triangle)"),
        ("-1 .5 .5 .1 .1\n", "line 1: class -1, expected 0 to 2"),
        ("0.5 .5 .5 .1 .1\n", "line 1: class 0.5, expected 0 to 2"),
        ("nan .5 .5 .1 .1\n", "line 1: class nan, expected 0 to 2"),
        ("0 160 .5 .1 .1\n", "line 1: coordinate 160, expected 0 to 1"),
        ("0 .5 -.2 .1 .1\n", "line 1: coordinate -.2, expected 0 to 1"),
        ("0 .5 nan .1 .1\n", "line 1: coordinate nan, expected 0 to 1"),
        ("0 .5 .5 -.005 .1\n", "line 1: size -.005 x .1, expected 0 to 1"),
        ("0 .5 .5 .1 .1\n0 .1 .1 .2 .1 .2 .2\n", "boxes and polygons in one file"),
    ],
)
def test_each_malformed_label_is_named(data: Path, text: str, fault: str) -> None:
    """File, line, what stands there and what is expected."""
    label(data, text)
    (found,) = check(data)
    assert found.startswith(f"train: labels/train/00000.txt: {fault}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ufeff0 .5 .5 .1 .1",
        "1.0 1.005 -.005 .1 .1\n",
        "0 .1 .1 .2 .1 .2 .2\n",
    ],
)
def test_what_ultralytics_accepts_is_accepted(data: Path, text: str) -> None:
    """An image of nothing, a byte-order mark, a rounding error at the edge, a polygon."""
    label(data, text)
    assert check(data) == []


def test_pose_labels_need_the_keypoints_shape(data: Path) -> None:
    """With `kpt_shape`, the numbers after the box are let be."""
    label(data, "0 .5 .5 .1 .1 .1 .1 2 .3 .3 1\n")
    assert check(data) != []
    data.write_text(data.read_text() + "kpt_shape: [2, 3]\n")
    assert check(data) == []


def test_a_missing_folder_is_named(data: Path) -> None:
    """With its absolute place; a split that is not asked for is not looked at."""
    shutil.rmtree(data.parent / "images/test")
    assert check(data) == []
    (found,) = check(data, splits=("test",))
    assert found == f"test: no such folder or list: {data.parent}/images/test"


def test_a_download_key_is_not_run(data: Path) -> None:
    """It is said that nobody fetched the images."""
    shutil.rmtree(data.parent / "images/val")
    data.write_text(data.read_text() + "download: raise SystemExit\n")
    assert check(data)[-1] == "val: the YAML's `download:` is not run; fetch the images first"


def test_an_empty_split_is_named(data: Path) -> None:
    """A folder without images is no split."""
    for image in (data.parent / "images/val").iterdir():
        image.unlink()
    (found,) = check(data)
    assert found.startswith(f"val: no images in {data.parent}/images/val")


def test_a_split_without_labels_is_named(data: Path) -> None:
    """Images without any label file: most often the folder `labels` is elsewhere."""
    shutil.rmtree(data.parent / "labels/val")
    (found,) = check(data)
    assert found.startswith("val: none of 2 images has a label file; expected ")
    assert found.endswith("labels/val/00000.txt")


def test_a_split_without_objects_is_named(data: Path) -> None:
    """Its mAP would be zero whatever is trained."""
    for file in (data.parent / "labels/val").iterdir():
        file.write_text("")
    assert check(data) == ["val: 2 label files without a single object"]


def test_unreadable_and_absent_images_are_named(data: Path) -> None:
    """A damaged file, and one that a list names and nobody has."""
    (data.parent / "images/val/00000.bmp").write_bytes(b"no image")
    (data.parent / "some.txt").write_text("./images/train/00000.bmp\n./images/train/gone.bmp\n")
    data.write_text(data.read_text().replace("train: images/train", "train: some.txt"))
    assert check(data) == [
        "train: images/train/gone.bmp: no such image",
        "val: images/val/00000.bmp: not an image that can be read",
    ]


def test_require_tells_all_faults_and_the_first_twenty_in_words(tmp_path: Path) -> None:
    """One wrong class count breaks every file alike."""
    data = make_shapes(tmp_path / "set", imgsz=32, train=30, val=1, test=0)
    for file in (data.parent / "labels/train").iterdir():
        file.write_text("9 .5 .5 .1 .1\n")
    with pytest.raises(DatasetError) as caught:
        require(data)
    assert len(caught.value.faults) == 30
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert len(lines) == MOST_FAULTS + 2
    assert lines[0].endswith("30 faults")
    assert lines[-1] == "  - and 10 more"


def test_a_yaml_fault_is_a_fault_of_check(tmp_path: Path) -> None:
    """check() answers instead of raising."""
    assert check(tmp_path / "data.yaml")[0].startswith("no such file")


def test_the_same_image_in_two_splits_is_told(data: Path) -> None:
    """By content: another name hides nothing."""
    assert leaks(data) == []
    shutil.copy(data.parent / "images/train/00003.bmp", data.parent / "images/val/new.bmp")
    assert leaks(data) == [
        "val: images/val/new.bmp is the same image as images/train/00003.bmp of train"
    ]


def test_summary_counts_by_split_and_class(data: Path) -> None:
    """Boxes, and images that show nothing."""
    label(data, "2 .5 .5 .1 .1\n2 .2 .2 .1 .1\n0 .5 .5 .1 .1\n", "val")
    (data.parent / "labels/val/00001.txt").unlink()
    found = summary(data).splits["val"]
    assert (found.images, found.unlabelled, found.boxes) == (2, 1, 3)
    assert found.by_class == {"circle": 1, "square": 0, "triangle": 2}

"""A dataset divided by content: no image in two splits, and always divided alike."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from hpo.datasets.data_yaml import label_path, load
from hpo.datasets.fingerprint import digest
from hpo.datasets.generated import make_shapes
from hpo.datasets.held_out import held_out
from hpo.datasets.split import Division, divide
from hpo.datasets.validation import check
from hpo.errors import DatasetError, UsageError

COCO128 = Path(__file__).resolve().parents[2].parent / "shared/data/coco128"
SPLITS = ("train", "val", "test")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixty drawn images, validated on what is trained on, none kept back."""
    made = make_shapes(tmp_path / "set", imgsz=32, train=60, val=1, test=0)
    made.write_text(made.read_text().replace("val: images/val", "val: images/train"))
    return made


def contents(yaml_path: Path) -> dict[str, set[bytes]]:
    """Split -> the contents of its images."""
    return {name: {digest(i) for i in s.images} for name, s in load(yaml_path).splits.items()}


def check_apart(found: Division) -> None:
    """Every promise of a division: sound data, all splits apart, usable for a promotion."""
    parts = contents(found.yaml)
    assert tuple(parts) == SPLITS
    assert {name: len(part) for name, part in parts.items()} == found.images
    assert len(set().union(*parts.values())) == sum(found.images.values())
    assert check(found.yaml, splits=SPLITS) == []
    assert held_out(found.yaml, home=Path("/nowhere")).images == found.images["test"]


def test_no_image_is_in_two_splits(data: Path, tmp_path: Path) -> None:
    """All images are there once, about as many in each as asked, with the labels they had."""
    before = {file: file.read_bytes() for file in data.parent.rglob("*") if file.is_file()}
    found = divide(data, tmp_path / "new/mine.yaml", val=0.2, test=0.2)
    check_apart(found)
    assert sum(found.images.values()) == 60
    assert all(5 <= found.images[name] <= 19 for name in ("val", "test"))
    assert {file: file.read_bytes() for file in before} == before
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["mine.test.txt", "mine.train.txt", "mine.val.txt", "mine.yaml"]
    assert (found.made, found.copies, found.kept) == (True, 0, False)


@pytest.mark.skipif(not COCO128.is_dir(), reason="COCO128 is not on this machine")
def test_coco128_is_divided(tmp_path: Path) -> None:
    """As Ultralytics publishes it, it validates on what it trains on."""
    names = {number: f"class {number}" for number in range(80)}
    keys = {"path": str(COCO128), "train": "images/train2017", "val": "images/train2017"}
    (tmp_path / "coco.yaml").write_text(yaml.safe_dump(keys | {"names": names}))
    found = divide(tmp_path / "coco.yaml", tmp_path / "mine.yaml")
    check_apart(found)
    assert sum(found.images.values()) == 128


def test_copies_are_listed_once_with_the_best_labels(data: Path, tmp_path: Path) -> None:
    """The same picture under other names, one of them without a label file."""
    folder = data.parent / "images/train"
    boxes = (data.parent / "labels/train/00007.txt").read_text()
    assert boxes
    for name in ("00000b", "zzz"):
        shutil.copyfile(folder / "00007.bmp", folder / f"{name}.bmp")
    found = divide(data, tmp_path / "mine.yaml")
    check_apart(found)
    assert (sum(found.images.values()), found.copies) == (60, 2)
    listed = {image.name for split in load(found.yaml).splits.values() for image in split.images}
    assert "00007.bmp" in listed
    assert not {"00000b.bmp", "zzz.bmp"} & listed


def test_a_dataset_that_grew_is_divided_as_before(data: Path, tmp_path: Path) -> None:
    """No image changes its split, whatever comes, goes, or is renamed."""
    before = contents(divide(data, tmp_path / "before.yaml").yaml)
    more = make_shapes(tmp_path / "more", imgsz=32, train=25, val=1, test=0, seed=7).parent
    for image in (more / "images/train").iterdir():
        shutil.copyfile(image, data.parent / "images/train" / f"new{image.name}")
    (data.parent / "images/train/00003.bmp").unlink()
    (data.parent / "images/train/00004.bmp").rename(data.parent / "images/train/a.bmp")
    after = contents(divide(data, tmp_path / "after.yaml").yaml)
    assert sum(map(len, after.values())) == 84
    everything = set().union(*after.values())
    for name, part in before.items():
        assert part & everything <= after[name]
    assert len(after["test"]) > len(before["test"])


def test_another_seed_divides_otherwise(data: Path, tmp_path: Path) -> None:
    """And the same one always alike."""
    one, same, other = (
        contents(divide(data, tmp_path / f"{name}.yaml", seed=seed).yaml)
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    assert one == same != other


def test_a_test_split_that_is_there_stays(tmp_path: Path) -> None:
    """With its fingerprint, so that champions judged on it need no second look; copies leave."""
    data = make_shapes(tmp_path / "set", imgsz=32, train=20, val=5, test=6)
    before = held_out(data, home=tmp_path)
    images = data.parent / "images"
    shutil.copyfile(images / "test/00001.bmp", images / "train/copy.bmp")
    shutil.copyfile(images / "test/00002.bmp", images / "val/copy.bmp")
    (data.parent / "labels/train/copy.txt").write_text("0 .5 .5 .1 .1\n" * 9)
    found = divide(data, tmp_path / "mine.yaml")
    check_apart(found)
    assert (found.kept, found.images["test"], found.copies) == (True, 6, 2)
    assert held_out(found.yaml, home=tmp_path) == before


def test_a_division_divided_again_is_the_same(data: Path, tmp_path: Path) -> None:
    """Its test split is kept, and `val` does not depend on whether it was."""
    once = divide(data, tmp_path / "once.yaml")
    twice = divide(once.yaml, tmp_path / "twice.yaml")
    assert twice.kept
    assert contents(twice.yaml) == contents(once.yaml)


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_few_images_are_enough(tmp_path: Path, count: int, seed: int) -> None:
    """With three there is one for each split, whatever the shares."""
    data = make_shapes(tmp_path / "set", imgsz=32, train=count - 1, val=1, test=0, seed=seed)
    for val, test in ((0.15, 0.15), (0.5, 0.49), (0.01, 0.01)):
        name = f"{val:g}-{test:g}.yaml"
        found = divide(data, tmp_path / name, val=val, test=test, seed=seed)
        check_apart(found)
        assert sum(found.images.values()) == count


def test_two_images_are_too_few(tmp_path: Path) -> None:
    """Nothing is written."""
    data = make_shapes(tmp_path / "set", imgsz=32, train=1, val=1, test=0)
    with pytest.raises(DatasetError, match="2 different images, expected 3 or more"):
        divide(data, tmp_path / "mine.yaml")
    assert not list(tmp_path.glob("mine*"))


def test_a_test_split_that_holds_everything_is_refused(data: Path, tmp_path: Path) -> None:
    """There would be nothing to train on; the way out is said, and it works."""
    text = data.read_text()
    data.write_text(text + "test: images/train\n")
    with pytest.raises(DatasetError, match="test: has 60 of 60 images") as caught:
        divide(data, tmp_path / "mine.yaml")
    assert "Leave `test:` out of the data YAML" in caught.value.hint
    data.write_text(text)
    check_apart(divide(data, tmp_path / "mine.yaml"))


def test_a_split_without_a_box_is_refused(data: Path, tmp_path: Path) -> None:
    """What no model can be judged on is not written; another seed is proposed."""
    for image in load(divide(data, tmp_path / "labelled.yaml").yaml).splits["test"].images:
        label_path(image).unlink()
    with pytest.raises(DatasetError, match=r"test: none of \d+ images would have a true") as caught:
        divide(data, tmp_path / "mine.yaml")
    assert "--seed" in caught.value.hint
    assert not list(tmp_path.glob("mine*"))
    check_apart(divide(data, tmp_path / "mine.yaml", seed=1))


@pytest.mark.parametrize(("val", "test"), [(0, 0.1), (0.1, 0), (0.5, 0.5), (1, 0.1), (-1, 0.1)])
def test_shares_that_cannot_be_are_refused(
    data: Path, tmp_path: Path, val: float, test: float
) -> None:
    """Before any image is read."""
    with pytest.raises(UsageError, match="leave nothing to train on"):
        divide(data, tmp_path / "mine.yaml", val=val, test=test)


def test_nothing_is_overwritten(data: Path, tmp_path: Path) -> None:
    """Equal files are left; another content in the place of any of the four is refused."""
    output = tmp_path / "mine.yaml"
    assert divide(data, output).made
    assert not divide(data, output).made
    for name in ("mine.yaml", "mine.val.txt"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text("somebody's")
        with pytest.raises(UsageError, match=f"{name} exists with another content"):
            divide(data, output)
        (tmp_path / name).write_text(text)
    (tmp_path / "mine.yaml").unlink()
    assert divide(data, output).made, "what an interruption left is completed"


def test_the_yaml_keeps_what_else_it_says(data: Path, tmp_path: Path) -> None:
    """Class names, channels and notes, and no place of the old one."""
    data.write_text(data.read_text() + "author: me\nchannels: 3\ndownload: https://x\n")
    keys = yaml.safe_load(divide(data, tmp_path / "mine.yaml").yaml.read_text())
    assert keys == {
        "train": "mine.train.txt", "val": "mine.val.txt", "test": "mine.test.txt",
        "author": "me", "channels": 3, "names": {0: "circle", 1: "square", 2: "triangle"},
    }  # fmt: skip


def test_images_that_are_not_there_are_told(data: Path, tmp_path: Path) -> None:
    """A list may name what is gone."""
    (data.parent / "some.txt").write_text("./images/train/00000.bmp\n./images/train/gone.bmp\n")
    data.write_text(data.read_text().replace("val: images/train", "val: some.txt"))
    with pytest.raises(DatasetError, match=r"no such image: .*gone\.bmp"):
        divide(data, tmp_path / "mine.yaml")

"""Made datasets: exact, reproducible, whole or not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hpo.datasets.builtin import resolve
from hpo.datasets.coco import COUNTS, make_tiny_person, people
from hpo.datasets.data_yaml import load
from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.generated import NAMES, draw, make, make_shapes
from hpo.datasets.summary import summary
from hpo.datasets.validation import check, leaks
from hpo.errors import DatasetError, UsageError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
COCO128 = SHARED / "data/coco128"
needs_coco = pytest.mark.skipif(not COCO128.is_dir(), reason="COCO128 is not on this machine")
# Of the built-in set: workers on other machines draw it again and must get these very bytes.
# Where the drawing changes on purpose, shapes.DRAWING rises and this follows.
SHAPES = "6b4522c6c2863e5a6999c3a847c29d8e44a7d674439c3f3cef7523f9d3031617"


def files(folder: Path) -> dict[str, bytes]:
    found = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def test_shapes_are_the_same_bytes_for_a_seed(tmp_path: Path) -> None:
    """Made twice they are equal; another seed draws others."""
    wanted: dict[str, Any] = {"imgsz": 32, "train": 3, "val": 1, "test": 1}
    first = files(make_shapes(tmp_path / "a", **wanted).parent)
    assert files(make_shapes(tmp_path / "b", **wanted).parent) == first
    other = files(make_shapes(tmp_path / "c", **wanted, seed=1).parent)
    assert other["images/val/00000.bmp"] != first["images/val/00000.bmp"]


def test_more_training_images_leave_the_others(tmp_path: Path) -> None:
    """A larger set holds the smaller one, and validates on the same images."""
    few = files(make_shapes(tmp_path / "few", imgsz=32, train=2, val=2, test=1).parent)
    many = files(make_shapes(tmp_path / "many", imgsz=32, train=5, val=2, test=1).parent)
    assert {name: many[name] for name in few if name != "made.json"} == {
        name: few[name] for name in few if name != "made.json"
    }


def test_shapes_are_good_data(tmp_path: Path) -> None:
    """Exact counts, no faults, no image in two splits, no `test` where none is asked for."""
    data = make_shapes(tmp_path / "set", imgsz=48, train=9, val=3, test=0)
    assert check(data) == []
    assert leaks(data) == []
    found = summary(data)
    assert found.names == NAMES
    assert {name: split.images for name, split in found.splits.items()} == {"train": 9, "val": 3}
    with Image.open(data.parent / "images/train/00008.bmp") as image:
        assert (image.size, image.mode) == ((48, 48), "RGB")


def test_a_label_is_the_shape_s_own_box() -> None:
    """Inside a box pixels differ from the same image without noise's range; boxes are whole px."""
    for number in range(20):
        pixels, rows = draw(64, 0, 0, number)
        assert pixels.shape == (64, 64, 3)
        assert 1 <= len(rows) <= 4
        for cls, x, y, w, h in rows:
            assert cls in range(len(NAMES))
            edges = [(x - w / 2) * 64, (y - h / 2) * 64, (x + w / 2) * 64, (y + h / 2) * 64]
            assert edges == [round(edge) for edge in edges]
            assert min(edges) >= 0
            assert max(edges) <= 64


def test_every_shape_touches_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn on black without noise, the pixels that are lit span the label exactly."""
    import numpy as np

    from hpo.datasets import generated

    monkeypatch.setattr(generated, "GROUND", (0, 1))
    monkeypatch.setattr(generated, "NOISE", 0)
    monkeypatch.setattr(generated, "MOST_SHAPES", 1)
    seen = set()
    for number in range(60):
        pixels, ((cls, x, y, w, h),) = draw(64, 0, 0, number)
        ys, xs = np.nonzero(pixels.max(axis=2))
        box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        assert box == [round(n * 64) for n in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)]
        seen.add(cls)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"imgsz": 8}, "imgsz 8, expected 32 or more"),
        ({"imgsz": 10**6}, "imgsz 1000000 px, expected 4096 or less"),
        ({"train": 0}, "train 0, expected 1 or more"),
        ({"val": 0}, "val 0, expected 1 or more"),
        ({"test": -1}, "test -1, expected 0 or more"),
        ({"seed": -1}, "seed -1, expected 0 or more"),
    ],
)
def test_impossible_shapes_are_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match=message):
        make_shapes(tmp_path / "set", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_same_parameters_make_a_folder_once(tmp_path: Path) -> None:
    """The second time nothing is drawn; other parameters are refused, naming them."""
    data = make_shapes(tmp_path / "set", imgsz=32, train=1, val=1, test=0)
    image = data.parent / "images/val/00000.bmp"
    before = image.stat()
    assert make_shapes(tmp_path / "set", imgsz=32, train=1, val=1, test=0) == data
    assert image.stat() == before
    with pytest.raises(UsageError, match=r"other parameters: seed 0 there, 7 asked"):
        make_shapes(tmp_path / "set", imgsz=32, train=1, val=1, test=0, seed=7)


def test_somebody_else_s_folder_is_left_alone(tmp_path: Path) -> None:
    """A file, or a folder with anything in it; an empty folder is taken."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("keep")
    with pytest.raises(UsageError, match="not empty, and was not made by this command"):
        make_shapes(tmp_path / "mine")
    with pytest.raises(UsageError, match="is a file"):
        make_shapes(tmp_path / "mine/notes")
    assert files(tmp_path) == {"mine/notes": b"keep"}
    (tmp_path / "empty").mkdir()
    assert make_shapes(tmp_path / "empty", imgsz=32, train=1, val=1, test=0).is_file()


def test_an_interrupted_making_leaves_nothing(tmp_path: Path) -> None:
    """Neither a half-filled folder nor the one it was filled in."""

    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "deep/set", {"made": "x"}, fill)
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_lost_race_takes_the_winner_s_folder(tmp_path: Path) -> None:
    """The other process finished first with the same parameters: theirs is as good."""

    def fill(folder: Path) -> None:
        (folder / "content").write_text("late")
        assert make(tmp_path / "set", {"made": "x"}, lambda f: _write(f, "first"))

    assert not make(tmp_path / "set", {"made": "x"}, fill)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set/content").read_text() == "first"


def _write(folder: Path, text: str) -> None:
    (folder / "content").write_text(text)


@pytest.mark.process
def test_two_processes_make_the_built_in_set_at_once(tmp_path: Path) -> None:
    """Both get the same whole set, which is the same on every machine."""
    code = (
        "import sys; from pathlib import Path; from hpo.datasets.builtin import resolve; "
        "home = Path(sys.argv[1]); print(resolve('shapes', home=home, base=home))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (path,) = paths
    assert [file.name for file in (tmp_path / "datasets").iterdir()] == [
        "shapes-128px-200-50-50-seed0-v1"
    ]
    assert fingerprint(Path(path), home=tmp_path) == SHAPES


def test_paths_are_relative_to_the_base(tmp_path: Path) -> None:
    """A YAML, a folder with a data.yaml, or an absolute path."""
    data = make_shapes(tmp_path / "shapes", imgsz=32, train=1, val=1, test=0)
    home = tmp_path / ".hpo"
    for name in ("shapes/data.yaml", "./shapes", str(data), "shapes/../shapes/data.yaml"):
        assert resolve(name, home=home, base=tmp_path) == data
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("shaps", r"unknown dataset \(did you mean 'shapes'\?\); the other form is the path"),
        ("coco", r"unknown dataset \(known: shapes\)"),
        ("coco8.yaml", "no such file: .*/coco8.yaml"),
        ("sets/mine", "no such file: .*/sets/mine"),
        (".", "a folder without data.yaml"),
    ],
)
def test_an_unknown_dataset_is_refused(tmp_path: Path, name: str, fault: str) -> None:
    """A slip in a name, a path to nothing, a folder without a data YAML."""
    with pytest.raises(DatasetError, match=fault) as caught:
        resolve(name, home=tmp_path / ".hpo", base=tmp_path)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


@needs_coco
def test_tiny_person_has_exact_counts(tmp_path: Path) -> None:
    """40, 10 and 10 images of 320 px with people, class person only, no image twice."""
    data = make_tiny_person(COCO128, tmp_path / "set")
    assert check(data, splits=("train", "val", "test")) == []
    assert leaks(data) == []
    found = summary(data)
    assert found.names == ("person",)
    assert {name: split.images for name, split in found.splits.items()} == COUNTS
    assert all(split.unlabelled == 0 for split in found.splits.values())
    for split in load(data).splits.values():
        for path in split.images:
            with Image.open(path) as image:
                assert max(image.size) == 320
                assert image.mode == "RGB"


@needs_coco
def test_tiny_person_keeps_persons_and_drops_the_rest(tmp_path: Path) -> None:
    """Each label file holds the source's person lines, unchanged."""
    data = make_tiny_person(COCO128, tmp_path / "set")
    found = {image.stem: lines for image, lines in people(COCO128).items()}
    assert len(found) == 61
    labels = list((data.parent / "labels").rglob("*.txt"))
    assert len(labels) == 60
    for file in labels:
        assert file.read_text().splitlines() == found[file.stem]


@needs_coco
def test_tiny_person_is_reproducible(tmp_path: Path) -> None:
    """The same sixty images in the same splits, byte for byte."""
    first = files(make_tiny_person(COCO128, tmp_path / "a").parent)
    assert files(make_tiny_person(COCO128, tmp_path / "b").parent) == first
    val = sorted(Path(name).stem for name in first if name.startswith("images/val/"))
    assert [int(name) for name in val] == [36, 110, 127, 241, 257, 260, 368, 382, 459, 536]


def test_tiny_person_needs_sixty_people(tmp_path: Path) -> None:
    """Fewer are counted and refused, and nothing is left behind."""
    source = tmp_path / "coco128"
    for part in ("images/train2017", "labels/train2017"):
        (source / part).mkdir(parents=True)
    for number, cls in enumerate((0, 0, 17)):
        Image.new("RGB", (8, 8)).save(source / f"images/train2017/{number}.jpg")
        (source / f"labels/train2017/{number}.txt").write_text(f"{cls} .5 .5 .1 .1\n")
    with pytest.raises(DatasetError, match="2 images show a person, expected 60 or more"):
        make_tiny_person(source, tmp_path / "set")
    with pytest.raises(DatasetError, match=r"no such folder: .*/nowhere/images/train2017"):
        make_tiny_person(tmp_path / "nowhere", tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["coco128"]


def test_importing_is_cheap() -> None:
    """Neither numpy, Pillow nor YAML is loaded before it is needed; torch never is."""
    modules = "builtin coco data_yaml fingerprint generated summary validation"
    imports = "; ".join(f"import hpo.datasets.{name}" for name in modules.split())
    heavy = "{'numpy', 'PIL', 'yaml', 'torch', 'ultralytics'}"
    code = f"import sys; {imports}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

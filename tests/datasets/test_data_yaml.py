"""A data YAML is read as Ultralytics reads it, wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hpo.datasets.data_yaml import label_path, load
from hpo.datasets.generated import make_shapes
from hpo.errors import DatasetError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data YAML of four, two and one drawn images."""
    return make_shapes(tmp_path / "set", imgsz=32, train=4, val=2, test=1)


def rewrite(data: Path, **keys: object) -> Path:
    """Change keys of a data YAML; None removes one."""
    content = {**yaml.safe_load(data.read_text()), **keys}
    data.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return data


def faults(data: Path) -> tuple[str, ...]:
    with pytest.raises(DatasetError) as caught:
        load(data)
    return caught.value.faults


def test_folders_are_relative_to_the_yaml(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `path`, and from any current folder, splits lie beside the YAML."""
    monkeypatch.chdir("/")
    dataset = load(data)
    assert dataset.names == ("circle", "square", "triangle")
    assert dataset.channels == 3
    assert {name: len(split.images) for name, split in dataset.splits.items()} == {
        "train": 4,
        "val": 2,
        "test": 1,
    }
    assert dataset.splits["val"].images[0] == data.parent / "images/val/00000.bmp"


def test_a_relative_path_starts_at_the_yaml(data: Path, tmp_path: Path) -> None:
    """`path: ../set` means the same wherever the command runs, unlike in Ultralytics."""
    (tmp_path / "configs").mkdir()
    moved = tmp_path / "configs" / "mine.yaml"
    moved.write_text(data.read_text())
    assert load(rewrite(moved, path="../set")).root == data.parent
    assert len(load(rewrite(moved, path=str(data.parent))).splits["train"].images) == 4


def test_a_split_may_be_folders_or_a_list(data: Path) -> None:
    """Several folders add up; a list's lines that start with ./ are relative to the list."""
    listed = data.parent / "some.txt"
    absolute = data.parent / "images/train/00001.bmp"
    listed.write_text(f"./images/train/00000.bmp\n{absolute}\n\n./notes.md\n", encoding="utf-8-sig")
    dataset = load(rewrite(data, train="some.txt", val=["images/val", "images/test"]))
    assert [image.name for image in dataset.splits["train"].images] == ["00000.bmp", "00001.bmp"]
    assert len(dataset.splits["val"].images) == 3


def test_a_listed_image_that_depends_on_the_current_folder_is_a_fault(data: Path) -> None:
    """Ultralytics would look for it wherever it is started."""
    (data.parent / "some.txt").write_text("images/train/00000.bmp\n")
    (fault,) = load(rewrite(data, train="some.txt")).splits["train"].faults
    assert "line 1: 'images/train/00000.bmp' depends on the current folder" in fault


def test_exporters_habits_are_understood(data: Path) -> None:
    """`validation`, ../train for what lies beside the YAML, and notes of the exporter's own."""
    rewrite(data, train="../images/train", val=None, validation="images/val", roboflow={"v": 1})
    dataset = load(data)
    assert len(dataset.splits["train"].images) == 4
    assert len(dataset.splits["val"].images) == 2


def test_hidden_files_are_no_images(data: Path) -> None:
    """Some systems leave ._00000.bmp files beside images."""
    (data.parent / "images/val/._00000.bmp").write_text("metadata")
    assert len(load(data).splits["val"].images) == 2


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({"names": ["a", "b"]}, ("a", "b")),
        ({"names": {"1": "b", "0": "a"}}, ("a", "b")),
        ({"names": None, "nc": 2}, ("class_0", "class_1")),
        ({"names": ["a", "b"], "nc": "2"}, ("a", "b")),
        ({"names": {0: True, 1: 7}}, ("True", "7")),
    ],
)
def test_names_are_a_list_or_a_mapping(
    data: Path, keys: dict[str, object], names: tuple[str, ...]
) -> None:
    """Class names come in the order of their numbers, or are counted by `nc`."""
    assert load(rewrite(data, **keys)).names == names


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"names": None}, "names: missing"),
        ({"names": []}, "names: []"),
        ({"names": {0: "a", 2: "b"}}, "names: class numbers 0, 2; expected 0 to 1"),
        ({"nc": 5}, "nc: 5, but `names` has 3 classes"),
        ({"nc": 1.5}, "nc: 1.5"),
        ({"train": None}, "train: missing"),
        ({"val": 3}, "val: 3"),
        ({"path": 3}, "path: 3"),
        ({"channels": 0}, "channels: 0"),
        ({"kpt_shape": [17]}, "kpt_shape: [17]"),
        ({"tets": "images/test"}, "tets: unknown key (did you mean 'test'?)"),
    ],
)
def test_each_wrong_key_is_named(data: Path, keys: dict[str, object], fault: str) -> None:
    """The message starts with the key and gives what was found and what is expected."""
    (found,) = faults(rewrite(data, **keys))
    assert found.startswith(fault)


def test_all_wrong_keys_are_named_at_once(data: Path) -> None:
    """Nobody mends a file one message at a time."""
    found = faults(rewrite(data, train=None, names=None, chanels=1))
    assert [fault.split(":")[0] for fault in found] == ["chanels", "names", "train"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty, expected a mapping"),
        ("- 1\n", "a list, expected a mapping"),
        ("a: [1\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str, fault: str) -> None:
    """What it is instead is said."""
    (tmp_path / "data.yaml").write_text(text)
    assert faults(tmp_path / "data.yaml")[0].startswith(fault)


def test_a_missing_file(tmp_path: Path) -> None:
    """It is a fault of the dataset, not a traceback."""
    assert faults(tmp_path / "data.yaml")[0].startswith("no such file")
    assert faults(tmp_path)[0].startswith("cannot be read")


def test_the_last_folder_images_becomes_labels() -> None:
    """Folders further up, and files called so, stay."""
    assert label_path(Path("/images/a/images/x.y.jpg")) == Path("/images/a/labels/x.y.txt")
    assert label_path(Path("/a/images.jpg")) == Path("/a/images.txt")
    assert label_path(Path("/a/b/x.png")) == Path("/a/b/x.txt")


def test_absolute_means_the_same_elsewhere(data: Path, tmp_path: Path) -> None:
    """The content with absolute places can be written anywhere and reads as the same images."""
    listed = data.parent / "some.txt"
    listed.write_text("./images/train/00000.bmp\n")
    first = load(rewrite(data, train="some.txt", nc=3, download="exec me", flip_idx=[0]))
    content = first.absolute()
    assert "download" not in content
    (tmp_path / "elsewhere.yaml").write_text(yaml.safe_dump(content))
    second = load(tmp_path / "elsewhere.yaml")
    assert second.names == first.names
    assert second.keys["flip_idx"] == [0]
    assert [s.images for s in second.splits.values()] == [s.images for s in first.splits.values()]


def test_a_linked_yaml_stays_beside_its_link(data: Path, tmp_path: Path) -> None:
    """As in Ultralytics, the link's folder counts, not that of what it points to."""
    other = make_shapes(tmp_path / "other", imgsz=32, train=3, val=1, test=0)
    other.unlink()
    other.symlink_to(data)
    assert len(load(other).splits["train"].images) == 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared real images are not on this machine")
def test_real_images_without_a_path_key() -> None:
    """Blood cells: three classes, the set's own split."""
    dataset = load(SHARED / "data/bccd/data.yaml")
    assert dataset.names == ("RBC", "WBC", "Platelets")
    counts = {name: len(split.images) for name, split in dataset.splits.items()}
    assert counts == {"train": 205, "val": 87, "test": 72}

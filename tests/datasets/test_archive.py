"""A packed dataset is the same dataset elsewhere, and the same bytes from everywhere."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from hpo.datasets.archive import pack, packed_bytes, unpack
from hpo.datasets.data_yaml import label_path, load
from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.generated import make_shapes
from hpo.datasets.held_out import held_out
from hpo.errors import DatasetError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data YAML of four, two and two drawn images."""
    return make_shapes(tmp_path / "set", imgsz=32, train=4, val=2, test=2)


def rewrite(data: Path, **keys: object) -> Path:
    """Change keys of a data YAML; None removes one."""
    content = {**yaml.safe_load(data.read_text()), **keys}
    data.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return data


def packed(data: Path, archive: Path) -> Path:
    with archive.open("xb") as file:
        assert pack(data, file) == fingerprint(data, home=archive.parent / "none")
    return archive


def folders(data: Path) -> Path:
    return data


def lists(data: Path) -> Path:
    """By relative and absolute lines."""
    (data.parent / "train.txt").write_text(
        f"./images/train/00001.bmp\n{data.parent}/images/train/00000.bmp\n"
    )
    return rewrite(data, train="train.txt")


def an_image_twice(data: Path) -> Path:
    """In a list of train, which counts it twice."""
    (data.parent / "train.txt").write_text("./images/train/00001.bmp\n" * 2)
    return rewrite(data, train="train.txt")


def two_spellings_in_test(data: Path) -> Path:
    """Which the test split takes for two images."""
    lines = "./images/test/00000.bmp\n./images/test/../test/00000.bmp\n./images/test/00001.bmp\n"
    (data.parent / "test.txt").write_text(lines)
    return rewrite(data, test="test.txt")


def several_sources(data: Path) -> Path:
    """Folders side by side, each with labels of its own."""
    root = data.parent
    for name in ("a", "b"):
        shutil.copytree(root / "images/train", root / name / "images")
        shutil.copytree(root / "labels/train", root / name / "labels")
    return rewrite(data, train=["a/images", "b/images", "images/train"])


def beside_the_yaml(data: Path) -> Path:
    """As some exporters write it: `../train/images` for what lies beside the YAML."""
    root = data.parent
    for name in ("train", "val", "test"):
        (root / name).mkdir()
        shutil.move(root / "images" / name, root / name / "images")
        shutil.move(root / "labels" / name, root / name / "labels")
    return rewrite(data, **{name: f"../{name}/images" for name in ("train", "val", "test")})


def no_images_folder(data: Path) -> Path:
    """Labels beside the images."""
    root = data.parent
    (root / "flat").mkdir()
    for file in (*root.glob("images/train/*"), *root.glob("labels/train/*")):
        shutil.move(file, root / "flat" / file.name)
    return rewrite(data, train="flat")


def one_folder_for_all(data: Path) -> Path:
    """Validated on what it is trained on, as Ultralytics' sample sets; without a test split."""
    return rewrite(data, val="images/train", test=None)


def hidden_and_odd_names(data: Path) -> Path:
    """Hidden files are images where a list names them; names may be no UTF-8."""
    folder = data.parent / "images/train"
    (folder / "00000.bmp").rename(folder / ".hidden.bmp")
    (folder / "00001.bmp").rename(folder / os.fsdecode(b"\xff \xe9 " + b"x" * 150 + b".bmp"))
    names = b"".join(b"./images/train/%s\n" % os.fsencode(file.name) for file in folder.iterdir())
    (data.parent / "train.txt").write_bytes(names)
    return rewrite(data, train="train.txt")


def linked(data: Path) -> Path:
    """Images that are links to elsewhere."""
    folder = data.parent / "images/train"
    shutil.move(folder, data.parent / "elsewhere")
    folder.mkdir()
    for file in (data.parent / "elsewhere").iterdir():
        (folder / file.name).symlink_to(file)
    return data


def keypoints(data: Path) -> Path:
    """Pose labels: 5 + 6 numbers a row, which are boxes by `kpt_shape` alone."""
    for file in data.parent.glob("labels/*/*.txt"):
        file.write_text("0 .5 .5 .2 .2 .4 .4 2 .6 .6 2\n")
    return rewrite(data, kpt_shape=[2, 3], flip_idx=[1, 0], author="somebody")


def grayscale(data: Path) -> Path:
    return rewrite(data, channels=1)


LAYOUTS = [
    folders, lists, an_image_twice, two_spellings_in_test, several_sources, beside_the_yaml,
    no_images_folder, one_folder_for_all, hidden_and_odd_names, linked, keypoints, grayscale,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_copy_is_the_same_dataset(
    data: Path, tmp_path: Path, layout: Callable[[Path], Path]
) -> None:
    """Its fingerprint, its test split's, its labels, its keys and the order of its images."""
    data, home = layout(data), tmp_path / "none"
    copy = unpack(packed(data, tmp_path / "archive.tar"), tmp_path / "elsewhere/copy")
    assert fingerprint(copy, home=home) == fingerprint(data, home=home)
    one, other = load(data), load(copy)
    assert (one.names, one.channels) == (other.names, other.channels)
    assert one.keypoint_columns == other.keypoint_columns
    assert one.keys.get("flip_idx") == other.keys.get("flip_idx")
    for name, split in one.splits.items():
        images = other.splits[name].images
        assert [i.read_bytes() for i in split.images] == [i.read_bytes() for i in images]
        both = [[label_path(image) for image in of] for of in (split.images, images)]
        texts = [[f.read_bytes() if f.is_file() else None for f in files] for files in both]
        assert texts[0] == texts[1]
        assert any(texts[0])
    if "test" in one.splits:
        assert held_out(copy, home=home) == held_out(data, home=home)
    shutil.rmtree(data.parent)
    assert fingerprint(copy, home=home)


def test_the_same_content_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    """From another folder, at another time, with other rights, links and ways to write it down."""
    first = packed(data, tmp_path / "first.tar")
    other = tmp_path / "another/place/set"
    shutil.copytree(data.parent, other)
    for file in other.rglob("*.bmp"):
        os.utime(file, (1, 1))
        file.chmod(0o600)
    (other / "train.txt").write_text(
        "".join(f"{other}/images/train/{number:05}.bmp\n" for number in (3, 0, 2, 1))
    )
    moved = rewrite(
        other / "data.yaml", path=str(other), train="train.txt", author="somebody else",
        names=["circle", "square", "triangle"], nc=3,
    )  # fmt: skip
    second = packed(moved, tmp_path / "second.tar")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in tar} == {
            (0, 0, 0, "", "", 0o644)
        }
        assert not [name for name in tar.getnames() if str(tmp_path) in name]


def test_the_size_is_known_beforehand(data: Path, tmp_path: Path) -> None:
    """So that a disk too small is told before it is full."""
    size = packed(data, tmp_path / "archive.tar").stat().st_size
    assert size <= packed_bytes(load(data)) <= size + 20_000


def test_a_test_split_that_is_not_there_is_left_out(data: Path, tmp_path: Path) -> None:
    """As exporters write it for sets without one; a dataset must be whole otherwise."""
    rewrite(data, test="../test/images")
    copy = unpack(packed(data, tmp_path / "archive.tar"), tmp_path / "copy")
    assert set(load(copy).splits) == {"train", "val"}
    (data.parent / "val.txt").write_text("./images/val/00000.bmp\nimages/val/00001.bmp\n")
    rewrite(data, val="val.txt")
    with pytest.raises(DatasetError, match="depends on the current folder"):
        pack(data, io.BytesIO())


def test_a_lost_image_ends_it(data: Path) -> None:
    """Nothing is packed in its place."""
    (data.parent / "test.txt").write_text("./images/test/00000.bmp\n./images/test/none.bmp\n")
    with pytest.raises(DatasetError, match=r"no such image: .*none\.bmp"):
        pack(rewrite(data, test="test.txt"), io.BytesIO())


def test_a_name_that_no_list_can_hold_is_refused(data: Path) -> None:
    """A folder can hold it; with a hidden file beside it a list is needed."""
    folder = data.parent / "images/train"
    (folder / "00000.bmp").rename(folder / "a\u2028b.bmp")
    pack(data, io.BytesIO())
    (data.parent / "train.txt").write_text("./images/train/.x.bmp\n")
    (folder / "00001.bmp").rename(folder / ".x.bmp")
    with pytest.raises(DatasetError, match="a name with a line break"):
        pack(rewrite(data, train=["train.txt", "images/train"]), io.BytesIO())


def test_a_change_while_it_is_packed_shows(data: Path, tmp_path: Path) -> None:
    """The fingerprint is of what was written, not of what was there."""
    before = fingerprint(data, home=tmp_path / "none")
    victim = data.parent / "images/val/00001.bmp"

    def alter(done: int, _total: int) -> None:
        if done == 1:
            victim.write_bytes(b"x" * victim.stat().st_size)

    with (tmp_path / "archive.tar").open("xb") as file:
        assert pack(data, file, progress=alter) != before


def plain(name: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = 4
    return info, b"evil"


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


ATTACKS = {
    "above": [plain("../outside")],
    "above in the middle": [plain("images/../../outside")],
    "absolute": [plain("/tmp/outside")],  # noqa: S108 - what an attacker would name
    "a link to elsewhere": [special("images", tarfile.SYMTYPE, "/etc")],
    "a hard link": [special("images/passwd", tarfile.LNKTYPE, "/etc/passwd")],
    "a device": [special("null", tarfile.CHRTYPE)],
    "a pipe": [special("pipe", tarfile.FIFOTYPE)],
    "a folder": [special("images", tarfile.DIRTYPE)],
    "twice": [plain("data.yaml"), plain("data.yaml")],
    "a file as a folder": [plain("images"), plain("images/one.bmp")],
    "no name": [plain(".")],
    "nothing": [],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    """An archive may come from anyone who can write to the store."""
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        for info, content in ATTACKS[name]:
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(WeightsError, match="is no packed dataset"):
        unpack(archive, tmp_path / "inner/copy")
    found = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")}
    inside = {name for name in found if name.startswith("inner/copy")}
    assert found - inside == {"archive.tar", "inner"}
    assert not Path("/tmp/outside").exists()  # noqa: S108 - what the absolute one names
    assert not [file for file in tmp_path.rglob("*") if file.is_symlink() or file.is_fifo()]


@pytest.mark.parametrize("part", [100, 700, 5000])
def test_a_cut_archive_is_refused(data: Path, tmp_path: Path, part: int) -> None:
    """In its header, in its YAML, in an image."""
    archive = packed(data, tmp_path / "archive.tar")
    with archive.open("r+b") as file:
        file.truncate(part)
    with pytest.raises(WeightsError, match="is no packed dataset"):
        unpack(archive, tmp_path / "copy")

"""`hpo data` makes, checks, shows and fingerprints, and refuses with the right exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command_line import in_process

from hpo.datasets.generated import make_shapes

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
COCO128 = SHARED / "data/coco128"
FEW = ("--imgsz", "32", "--train", "3", "--val", "2", "--test", "1")
COMMAND = [sys.executable, "-c", "from hpo.cli.main import main; main()", "data"]


class User:
    """Somebody at a terminal in an empty folder."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = env

    def run(self, *arguments: str, exits: int = 0) -> subprocess.CompletedProcess[str]:
        done = in_process(self.folder, self.env, "data", *arguments)
        assert done.returncode == exits, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, exits: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", exits=exits).stdout)


@pytest.fixture
def user(tmp_path: Path, clean_env: pytest.MonkeyPatch) -> User:
    del clean_env
    return User(tmp_path, dict(os.environ))


def test_shapes_says_what_to_do_next(user: User) -> None:
    """The data YAML's path and the next command; a second time, that it is there."""
    first = user.run("shapes", *FEW).stdout.splitlines()
    assert first == [
        "datasets/shapes/data.yaml: made; images: 3 train, 2 val, 1 test",
        "Next: hpo create-study --data datasets/shapes/data.yaml",
    ]
    assert (user.folder / "datasets/shapes/data.yaml").is_file()
    assert "was made with these parameters before" in user.run("shapes", *FEW).stdout
    error = user.run("shapes", *FEW, "--seed", "1", exits=2).stderr
    assert "datasets/shapes was made with other parameters: seed 0 there, 1 asked" in error


def test_shapes_as_json(user: User) -> None:
    """One document: where, how many, and whether it was made now."""
    path = str(user.folder / "mine/data.yaml")
    images = {"train": 3, "val": 2, "test": 1}
    asked = ("shapes", *FEW, "-o", "mine")
    assert user.json(*asked) == {"data": path, "made": True, "images": images}
    assert user.json(*asked) == {"data": path, "made": False, "images": images}


def test_a_made_set_that_was_altered_is_told(user: User) -> None:
    """That it was made with these parameters does not make it whole."""
    user.run("shapes", *FEW)
    (user.folder / "datasets/shapes/images/val/00000.bmp").write_text("x")
    assert "not an image that can be read" in user.run("shapes", *FEW, exits=2).stderr


@pytest.mark.parametrize("wrong", [("--imgsz", "3"), ("--train", "0"), ("--seed", "x")])
def test_impossible_parameters_exit_2(user: User, wrong: tuple[str, str]) -> None:
    """And leave nothing."""
    user.run("shapes", *wrong, exits=2)
    assert list(user.folder.iterdir()) == []


def test_ctrl_c_leaves_nothing_half_made(user: User) -> None:
    """Neither the folder nor a part of it; exit code 130."""
    command = [*COMMAND, "shapes", "--imgsz", "512", "--train", "100000"]
    process = subprocess.Popen(
        command, cwd=user.folder, env=user.env, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("images drawn: ")
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.communicate()[1]
    assert process.returncode == 130
    assert list((user.folder / "datasets").iterdir()) == []


def test_check_lists_every_fault(user: User) -> None:
    """Exit 2 with faults, on stderr for people and as one document for programs."""
    user.run("shapes", *FEW, "-o", "mine")
    assert user.run("check", "mine").stdout.endswith("no faults in train, val, test\n")
    labels = user.folder / "mine/labels"
    (labels / "train/00000.txt").write_text("7 .5 .5 .1 .1\n")
    (labels / "test/00000.txt").write_text("0 5 .5 .1 .1\n")
    done = user.run("check", "mine", exits=2)
    assert done.stdout == ""
    assert "mine/data.yaml: 2 faults" in done.stderr
    found = user.json("check", "mine", exits=2)
    assert [fault.split(":")[1] for fault in found["faults"]] == [
        " labels/train/00000.txt",
        " labels/test/00000.txt",
    ]


def test_check_warns_of_images_in_two_splits(user: User) -> None:
    """It is no fault: the exit code is 0."""
    user.run("shapes", *FEW, "-o", "mine")
    images = user.folder / "mine/images"
    (images / "val/new.bmp").write_bytes((images / "train/00000.bmp").read_bytes())
    assert user.run("check", "mine").stdout.startswith("warning: val: images/val/new.bmp is the")
    assert len(user.json("check", "mine")["warnings"]) == 1


def test_check_says_whether_the_test_split_can_judge(user: User) -> None:
    """How many images it has, or why no study on this data can promote, with the mend."""
    user.run("shapes", *FEW, "-o", "mine")
    good = user.run("check", "mine").stdout
    assert "test: 1 image that no trial sees can judge a promotion: too few to show" in good
    document = user.json("check", "mine")
    assert (document["held_out"]["images"], document["held_out_faults"]) == (1, [])
    data = user.folder / "mine/data.yaml"
    data.write_text(data.read_text().replace("test: images/test", "test: images/val"))
    said = user.run("check", "mine").stdout
    assert "no study on this data can promote: test: 2 of 2 images are in val, too" in said
    assert f"`hpo data split {data} -o data-split.yaml`" in said
    document = user.json("check", "mine")
    assert document["held_out"] is None
    assert len(document["held_out_faults"]) == 1


def test_split_mends_what_check_warns_of(user: User) -> None:
    """The command that is proposed makes a dataset that can judge, and says what comes next."""
    user.run("shapes", "--imgsz", "32", "--train", "30", "--val", "5", "--test", "0", "-o", "mine")
    assert "can promote: test: missing" in user.run("check", "mine").stdout
    done = user.run("split", "mine", "-o", "new/mine.yaml", "--val", "0.2", "--test", "0.3")
    first, last = done.stdout.splitlines()
    assert first.startswith("new/mine.yaml: made; images: ")
    assert last == "Next: hpo create-study --data new/mine.yaml"
    assert user.json("check", "new/mine.yaml")["held_out"]["images"] > 1
    again = user.json("split", "new/mine.yaml", "-o", "again.yaml", "--val", "0.2")
    assert again == {
        "data": str(user.folder / "again.yaml"), "made": True, "copies": 0, "kept": True,
        "unseen_classes": [], "images": again["images"],
    }  # fmt: skip
    assert sum(again["images"].values()) == 35
    assert first.endswith(", ".join(f"{count} {name}" for name, count in again["images"].items()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mine",), "Missing option '-o'"),
        (("mine", "-o", "mine.txt"), "mine.txt is no name of a data YAML"),
        (("mine", "-o", "a.yaml", "--val", "0"), "Invalid value for '--val'"),
        (("mine", "-o", "a.yaml", "--val", "0.5", "--test", "0.5"), "leave nothing to train on"),
        (("nowhere.yaml", "-o", "a.yaml"), "no such file"),
        (("mine", "-o", "mine/data.yaml"), "data.yaml exists with another content"),
        (("broken", "-o", "a.yaml"), "not an image that can be read"),
    ],
)
def test_a_split_that_cannot_be_exits_2(user: User, arguments: tuple[str, ...], words: str) -> None:
    """Nothing is written."""
    for name in ("mine", "broken"):
        make_shapes(user.folder / name, imgsz=32, train=3, val=2, test=1)
    (user.folder / "broken/images/val/00000.bmp").write_text("x")
    before = sorted(user.folder.rglob("*"))
    assert words in user.run("split", *arguments, exits=2).stderr
    assert sorted(user.folder.rglob("*")) == before


def test_show_counts(user: User) -> None:
    """Images and boxes by split and class, as a table and as a document."""
    user.run("shapes", *FEW, "-o", "mine")
    lines = user.run("show", "mine").stdout.splitlines()
    assert lines[1].split() == ["train", "val", "test"]
    assert lines[2].split() == ["images", "3", "2", "1"]
    assert [line.split()[0] for line in lines[5:]] == ["circle", "square", "triangle"]
    document = user.json("show", "mine")
    train = document["splits"]["train"]
    assert train["images"] == 3
    assert train["boxes"] == sum(train["by_class"].values()) > 0


def test_fingerprint_is_one_line(user: User) -> None:
    """Of a path, or of the built-in set, which is made below .hpo when first used."""
    user.run("shapes", *FEW, "-o", "mine")
    line = user.run("fingerprint", "mine").stdout.strip()
    assert len(bytes.fromhex(line)) == 32
    assert user.json("fingerprint", "mine")["fingerprint"] == line
    assert not (user.folder / ".hpo").exists()
    made = Path(user.json("fingerprint", "shapes")["data"])
    assert made.is_relative_to(user.folder / ".hpo/datasets")


def test_an_unknown_dataset_exits_2(user: User) -> None:
    """With the nearest known name, on stderr only."""
    for command in ("check", "show", "fingerprint"):
        done = user.run(command, "shaps", "--json", exits=2)
        assert "did you mean 'shapes'?" in done.stderr
        assert done.stdout == ""


@pytest.mark.skipif(not COCO128.is_dir(), reason="COCO128 is not on this machine")
def test_tiny_person_from_a_folder(user: User) -> None:
    """Exact counts; a second time the source is not needed."""
    made = user.json("tiny-person", "--source", str(COCO128))
    assert made["images"] == {"train": 40, "val": 10, "test": 10}
    assert made["made"]
    assert not user.json("tiny-person")["made"]


def test_tiny_person_from_nowhere_exits_2(user: User) -> None:
    """A source that is no COCO128."""
    error = user.run("tiny-person", "--source", "nowhere", exits=2).stderr
    assert "nowhere/images/train2017" in error
    assert not (user.folder / "datasets/tiny-person").exists()

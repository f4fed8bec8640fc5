"""What the YOLO trainer refuses before anything is trained, without torch or Ultralytics."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo.errors import WeightsError
from hpo.trainer import TrainSpec
from search_spaces.names import did_you_mean
from workers.yolo.arguments import (
    CHOICES,
    FLAGS,
    FLOATS,
    FRACTIONS,
    OWNED,
    WHOLE,
    arguments,
    package_dir,
)
from workers.yolo.environment import file_hash
from workers.yolo.models import start_file
from workers.yolo.trainer import YoloTrainer
from workers.yolo.weights import find_model

SOUND: dict[str, Any] = {
    "model": "yolov8n.yaml",
    "train": {"optimizer": "AdamW"},
    "searched": {"lr0": (0.001, 0.03)},
    "epochs": 8,
    "metric": "mAP50",
    "direction": "maximize",
    "data": Path("data.yaml"),
}


def check(**changes: Any) -> list[str]:
    return list(YoloTrainer().check(TrainSpec(**{**SOUND, **changes})))


def test_a_sound_study_has_no_fault() -> None:
    """The quick study's arguments pass."""
    assert check() == []


def test_describe_and_check_import_neither_torch_nor_ultralytics() -> None:
    """A study is created without paying for them."""
    code = (
        "import sys, pathlib; from hpo.trainer import TrainSpec, load_trainer\n"
        "trainer = load_trainer('yolo'); trainer.describe()\n"
        "trainer.check(TrainSpec(model='yolov8n.pt', train={}, searched={}, epochs=3, "
        "metric='mAP50', direction='maximize', data=None))\n"
        "print({'torch', 'ultralytics', 'numpy', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"train": {}}, "search_space.lr0: ignored under `optimizer: auto` (Ultralytics' default)"),
        (
            {"train": {"optimizer": "auto", "momentum": 0.9}, "searched": {}},
            "train.momentum: ignored under `optimizer: auto`: set `train: {optimizer: AdamW}`",
        ),
        (
            {"train": {}, "searched": {"lr0": (0.1, 0.2), "optimizer": ("auto", "SGD")}},
            "search_space.lr0: ignored under `optimizer: auto`: set",
        ),
        (
            {"searched": {"warmup_momentum": (0.5, 0.9)}},
            "search_space.warmup_momentum: not read by AdamW",
        ),
        (
            {"train": {"optimizer": "SGD", "warmup_epochs": 0, "warmup_bias_lr": 0.1}},
            "train.warmup_bias_lr: without effect, since warmup_epochs is 0",
        ),
        (
            {"searched": {"mosaic": (0.0, 1.0)}},
            "search_space.mosaic: without effect, since every one of the 8 epochs is within",
        ),
        ({"train": {"mixup": 0.1, "optimizer": "SGD"}, "epochs": 10}, "train.mixup: without"),
        (
            {"epochs": None, "searched": {"epochs": (2, 5), "cutmix": (0.0, 0.5)}},
            "search_space.cutmix: without effect, since every one of the 5 epochs",
        ),
        ({"train": {"imgsz": 100}, "searched": {}}, "train.imgsz: 100 px is not a multiple of 32"),
        ({"searched": {"imgsz": (96, 130)}}, "search_space.imgsz: 130 px is not a multiple"),
        ({"train": {"imgsz": "640"}, "searched": {}}, "train.imgsz: '640' is not a whole number"),
        ({"train": {"batch": -1}, "searched": {}}, "train.batch: -1 is below the smallest value 1"),
        ({"train": {"batch": 0.7}, "searched": {}}, "train.batch: 0.7 is not a whole number"),
        ({"train": {"lr0": 2}, "searched": {}}, "train.lr0: 2 is above the largest value 1"),
        ({"train": {"optimizer": "adamw"}}, "train.optimizer: 'adamw' is not one of 'auto'"),
        ({"train": {"hsvh": 0.1}}, "train.hsvh: unknown argument (did you mean 'hsv_h'?)"),
        ({"train": {"device": "0,1"}}, "train.device: a worker takes the device it is given"),
        ({"train": {"epochs": 5}}, "train.epochs: set `budget: {epochs: N}` instead"),
        ({"searched": {"seed": (0, 9)}}, "search_space.seed: set `sampler: {seed: N}` instead"),
        ({"searched": {"copy_paste": (0, 1)}}, "search_space.copy_paste: needs masks"),
        ({"metric": "map50"}, "objective.metric: unknown metric 'map50' (known: mAP50, mAP50-95"),
        ({"direction": "minimize"}, "objective.direction: mAP50 is better when larger"),
        ({"data": None}, "data: a detector needs a dataset"),
        ({"model": "yolov8n"}, "model: 'yolov8n' is neither weights (.pt) nor an architecture"),
        ({"model": "yolov8q.yaml"}, "model: yolov8q.yaml is neither a file nor an architecture"),
        ({"model": "yolov8n-seg.yaml"}, "model: yolov8n-seg.yaml is not a detector's"),
        ({"model": "yolov8n.yml"}, "model: yolov8n.yml is neither a file nor an architecture"),
        ({"model": "mine.pt"}, "model: mine.pt is neither a file nor weights"),
    ],
)
def test_what_could_not_matter_or_would_be_changed_is_refused(
    changes: dict[str, Any], fault: str
) -> None:
    """Each gives one sentence that starts with the key and holds the mend."""
    faults = check(**changes)
    assert [text for text in faults if text.startswith(fault)], faults


@pytest.mark.parametrize(
    "changes",
    [
        {"searched": {"mosaic": (0.0, 1.0)}, "epochs": 11},
        {"train": {"optimizer": "SGD", "close_mosaic": 0, "mosaic": 0.5}},
        {"train": {"optimizer": "SGD", "mosaic": 0.0}},
        {"train": {}, "searched": {"cls": (0.2, 4.0)}},
        {"train": {"optimizer": "SGD", "warmup_momentum": 0.5}},
        {"model": "yolov8n.pt"},
        {"model": "yolo11m.yaml"},
        {"epochs": None, "searched": {"epochs": (2, 5), "imgsz": (320, 416)}},
    ],
)
def test_what_matters_is_accepted(changes: dict[str, Any]) -> None:
    """The neighbours of the refused values pass."""
    assert check(**changes) == []


def test_where_the_file_of_a_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ultralytics' architectures need none; its weights have a place; one's own is where it is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert start_file("yolov8n.yaml") is None
    assert start_file("yolov8n.pt") == tmp_path / "cache/hpo-service/weights/yolov8n.pt"
    for name in ("mine.pt", "mine.yaml", "yolov8n.pt"):
        (tmp_path / name).touch()
        assert start_file(name) == tmp_path / name


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolov8.yaml"])
def test_a_file_named_as_ultralytics_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Ultralytics would take it, in this folder only: when a study is created, and by a worker."""
    monkeypatch.chdir(tmp_path)
    assert check(model="yolov8n.yaml") == []
    (tmp_path / name).touch()
    (fault,) = check(model="yolov8n.yaml")
    assert fault.startswith(f"model: {tmp_path / name} would be taken for Ultralytics' own")
    for look in (YoloTrainer().start_file, find_model):
        with pytest.raises(WeightsError, match="give it a name of its own"):
            look("yolov8n.yaml")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    """A file that is no PyTorch archive is found out when the study is created."""
    path = tmp_path / "mine.pt"
    path.write_bytes(b"PK\x03\x04 cut in the middle")
    assert check(model=str(path)) == [
        f"model: {path} cannot be read as weights: File is not a zip file"
    ]


def test_the_bounds_are_ultralytics_own() -> None:
    """The tables here agree with those in Ultralytics' source, which needs torch to import."""
    tree = ast.parse((package_dir() / "cfg" / "__init__.py").read_text(encoding="utf-8"))
    tables: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value.args[0] if isinstance(node.value, ast.Call) else node.value
            if node.targets[0].id.startswith("CFG_"):
                tables[node.targets[0].id] = ast.literal_eval(value)
    assert set(FRACTIONS) - {"scale"} <= tables["CFG_FRACTION_KEYS"]
    assert set(FLOATS) <= tables["CFG_FLOAT_KEYS"]
    assert set(FLAGS) - {"amp", "pretrained"} <= tables["CFG_BOOL_KEYS"]
    for name, low in tables["CFG_INT_MIN"].items():
        assert WHOLE.get(name, low) == low
    defaults = yaml.safe_load((package_dir() / "cfg" / "default.yaml").read_text(encoding="utf-8"))
    known = {*FRACTIONS, *FLOATS, *FLAGS, *WHOLE, *CHOICES, *OWNED} - {"save_dir"}
    assert known <= set(defaults)
    assert set(arguments()) & set(OWNED) == {"epochs"}


def test_every_argument_has_a_help_text() -> None:
    """`hpo space show` and the docs have one line for each."""
    assert not [name for name, argument in arguments().items() if not argument.help]


def test_a_label_that_changes_and_keeps_its_length_is_read_anew(tmp_path: Path) -> None:
    """The key of Ultralytics' label cache follows a change that leaves sizes alone."""
    import os

    label = tmp_path / "0.txt"
    label.write_text("0 0.5 0.5 0.1 0.1\n")
    before = file_hash([str(label), "(False, 2)"])
    assert file_hash([str(label), "(False, 2)"]) == before
    label.write_text("1 0.5 0.5 0.1 0.1\n")
    os.utime(label, ns=(1, 1))
    assert file_hash([str(label), "(False, 2)"]) != before


def test_names_near_a_known_one_are_offered() -> None:
    """The helper behind the messages finds the nearest argument."""
    assert did_you_mean("lr_0", arguments()) == " (did you mean 'lr0'?)"

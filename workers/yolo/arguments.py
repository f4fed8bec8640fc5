"""The arguments of Ultralytics that a study may set, with defaults, help and bounds.

Defaults and help texts are read from the installed package's `cfg/default.yaml`. The bounds are
those of its `cfg/__init__.py` (CFG_FRACTION_KEYS, CFG_INT_MIN and so on), which cannot be
imported without torch; a test compares the two.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from hpo.trainer import Argument

# From 0 to 1
FRACTIONS = (
    *("lr0", "lrf", "momentum", "weight_decay", "warmup_momentum", "warmup_bias_lr", "cls_pw"),
    *("hsv_h", "hsv_s", "hsv_v", "bgr", "translate", "scale", "perspective", "flipud", "fliplr"),
    *("mosaic", "mixup", "cutmix", "multi_scale", "fraction", "iou"),
)
# Numbers from 0
FLOATS = ("warmup_epochs", "box", "cls", "dfl", "degrees", "shear")
# Whole numbers -> the smallest
WHOLE = {
    "epochs": 1,
    "batch": 1,  # -1 and fractions ask for a size that only a GPU's memory decides
    "imgsz": 32,
    "patience": 0,
    "workers": 0,
    "close_mosaic": 0,
    "nbs": 1,
    "max_det": 1,
    "freeze": 0,
}
FLAGS = ("amp", "pretrained", "single_cls", "rect", "cos_lr", "deterministic", "plots")
CHOICES: dict[str, tuple[Any, ...]] = {
    "optimizer": (
        *("auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop"),
    ),
    "cache": (True, False, "ram", "disk"),
}

# Where our default differs from Ultralytics'
DEFAULTS: dict[str, Any] = {
    "patience": 0,  # a trial ends by its budget or its pruner, not by a third rule
    "freeze": 0,  # Ultralytics' None means the same
}

PREDICT_PARAMS = {"conf": 0.25, "iou": 0.7}  # of a served model, as Ultralytics' own prediction

# What the service sets itself, and what cannot change a detection training
OWNED: dict[str, str] = {
    "data": "set `data:` of the study instead",
    "model": "set `model:` of the study instead",
    "epochs": "set `budget: {epochs: N}` instead",
    "time": "set `budget: {timeout: 2h}` instead",
    "seed": "set `sampler: {seed: N}` instead",
    "device": "a worker takes the device it is given; one trial trains on one device",
    "resume": "a trial whose worker died is taken over by itself",
    **dict.fromkeys(
        ("project", "name", "exist_ok", "save_dir"), "each trial gets a folder of its own"
    ),
    **dict.fromkeys(("save", "save_period"), "the weights of the best epoch are kept"),
    **dict.fromkeys(("mode", "task"), "this trainer trains detectors"),
    **dict.fromkeys(("val", "split"), "every epoch is validated on the dataset's val split"),
    **dict.fromkeys(
        ("copy_paste", "copy_paste_mode", "overlap_mask", "mask_ratio", "retina_masks"),
        "needs masks, which detection data do not have",
    ),
    **dict.fromkeys(
        (
            *("dropout", "auto_augment", "erasing", "pose", "kobj", "rle", "angle"),
            *("dlog", "dgrad", "dlam"),
        ),
        "belongs to another task than detection",
    ),
}


@cache
def package_dir() -> Path:
    """Folder of the installed Ultralytics; finding it does not execute it."""
    spec = find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("ultralytics is not installed")
    return Path(spec.origin).parent


def code_version() -> str:
    """What decides a trial's figures beside the study's spec."""
    return f"ultralytics {version('ultralytics')}"


@cache
def arguments() -> dict[str, Argument]:
    """Every argument that a study may set, by name."""
    text = (package_dir() / "cfg" / "default.yaml").read_text(encoding="utf-8")
    defaults = {**yaml.safe_load(text), **DEFAULTS}
    helps = dict(re.findall(r"^(\w+):.*?# \([^)]*\) (.+)$", text, re.MULTILINE))

    def argument(name: str, kind: str, **bounds: Any) -> Argument:
        return Argument(default=defaults[name], kind=kind, help=helps.get(name, ""), **bounds)

    return {
        **{name: argument(name, "float", low=0.0, high=1.0) for name in FRACTIONS},
        **{name: argument(name, "float", low=0.0) for name in FLOATS},
        **{name: argument(name, "int", low=low) for name, low in WHOLE.items()},
        **{name: argument(name, "bool") for name in FLAGS},
        **{name: argument(name, "str", choices=choices) for name, choices in CHOICES.items()},
    }

"""Prepare the process for Ultralytics: private settings, no telemetry, no surprises.

Only this process changes: nothing of the user's own Ultralytics is read or written.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# Every switch of Ultralytics that talks to someone else
OFF = (
    *("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb"),
    *("vscode_msg", "openvino_msg"),
)


@cache
def prepare() -> None:
    """Import Ultralytics on our terms; once per process, and before anyone else imports it.

    Raises:
        RuntimeError: Ultralytics is imported already, so it has read the user's settings.
    """
    if "ultralytics" in sys.modules:
        raise RuntimeError("ultralytics was imported before workers.yolo.environment.prepare()")
    scratch = Path(os.environ.get("HPO_SCRATCH") or tempfile.mkdtemp(prefix="hpo-ultralytics-"))
    threads = _cpu_threads()
    os.environ.update(
        YOLO_CONFIG_DIR=str(scratch),
        YOLO_OFFLINE="true",  # no probe of the network at import, no events, no update checks
        YOLO_AUTOINSTALL="false",  # it would call pip for a missing optional package
        ULTRALYTICS_SAFE_LOAD="true",  # weights are data: no code of a pickle's or a YAML's choice
        MPLBACKEND="Agg",
    )
    # A worker started by torchrun or Slurm is no rank of a distributed training
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "ULTRALYTICS_API_KEY"):
        os.environ.pop(name, None)
    # Where it is installed Ultralytics augments more, out of random states that no seed here sets
    sys.modules["albumentations"] = None  # type: ignore[assignment]  # "not installed"
    _write_settings(scratch / "Ultralytics")
    _patch(threads)


def _cpu_threads() -> int:
    """Threads of a training on the CPU: OMP_NUM_THREADS where set, else 1.

    Ray sets it to the CPUs that the worker was given. Ultralytics' own rule, the machine's cores
    less one, makes workers on one machine fight for them, and the count changes the last bits of
    every figure.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else 1


def _write_settings(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {**dict.fromkeys(OFF, False), "api_key": ""}
    for name in ("datasets_dir", "weights_dir", "runs_dir"):
        settings[name] = str(folder / name)
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    # Ultralytics downloads its font where none is; matplotlib brings one that draws more
    # alphabets. Not imported for it: that alone takes a second.
    matplotlib = import_module("importlib.util").find_spec("matplotlib")
    font = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        shutil.copyfile(font, folder / name)


def _patch(threads: int) -> None:
    from ultralytics.data import dataset
    from ultralytics.engine import trainer
    from ultralytics.nn.tasks import _SafeLoad
    from ultralytics.utils import torch_utils

    from workers.yolo.data import load_labels, save_labels

    if not _SafeLoad.restricted():
        raise RuntimeError("this Ultralytics would run the code in a weights file; install 8.4.190")
    torch_utils.NUM_THREADS = threads
    trainer.check_amp = amp_works
    dataset.get_hash = file_hash
    dataset.save_dataset_cache_file = save_labels
    dataset.load_dataset_cache_file = load_labels


def amp_works(model: Any) -> bool:
    """Whether mixed precision works for this model on its device.

    In place of Ultralytics' check, which downloads a model to compare boxes with: what fails on
    some GPUs is that half precision gives NaN, and this model's own output shows that.
    """
    import torch

    weight = next(model.parameters())
    if weight.device.type != "cuda":
        return False
    images = torch.full((1, weight.shape[1], 128, 128), 0.5, device=weight.device)
    training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast("cuda"):
        outputs = model(images)[0]
    model.train(training)
    return bool(torch.isfinite(outputs).all())


def file_hash(paths: Sequence[str]) -> str:
    """Key of Ultralytics' label cache: names, sizes and times of the dataset's files.

    Its own key leaves the times out, so a label that changes its class and not its length is
    trained with the old class.
    """
    key = sha256()
    for path in paths:
        key.update(path.encode())
        if os.path.exists(path):  # noqa: PTH110 - also called with texts that are no paths
            stat = os.stat(path)  # noqa: PTH116 - as above
            key.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return key.hexdigest()

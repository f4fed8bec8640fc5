"""The best epoch's weights as a file that is written once; knows no job and no other epoch."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from ultralytics import __version__
from ultralytics.utils import DEFAULT_CFG_KEYS

from workers.checkpoint_files import draft_of

if TYPE_CHECKING:
    from pathlib import Path


def save_weights(trainer: Any, path: Path) -> None:
    """Write the averaged weights in half precision, as Ultralytics leaves them after training.

    Its own `save_model` writes the optimizer too, twice, and takes it out again at the end, in
    place.

    Args:
        trainer: an Ultralytics DetectionTrainer at the end of an epoch.
        path: the file.
    """
    model = deepcopy(trainer.ema.ema)
    model.criterion = None
    model = model.half().cpu().to(memory_format=torch.contiguous_format)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            torch.nan_to_num_(tensor)  # too large for half precision
    # Without this machine's folders
    args = {name: value for name, value in vars(trainer.args).items() if name in DEFAULT_CFG_KEYS}
    model.args = args
    kept = {
        "epoch": -1,  # Ultralytics' sign of a training that is not to be resumed
        "model": model,
        "train_args": args,
        "train_metrics": {**trainer.metrics, "fitness": trainer.fitness},
        "version": __version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
    }
    draft = draft_of(path)
    torch.save(kept, draft)
    draft.replace(path)

"""Write the full state of a training and its best weights to files, and restore them.

Files hold plain containers and tensors in full precision, so that loading runs no code. On the CPU,
with the same number of threads, the epochs that follow have the figures of a training that was
never interrupted. On CUDA they need not: its kernels add in another order each time.
"""

from __future__ import annotations

import zipfile
from copy import deepcopy
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch.serialization import save  # Ultralytics has put one that tries again into torch.save
from ultralytics import __version__
from ultralytics.utils import DEFAULT_CFG_KEYS, LOGGER
from ultralytics.utils.torch_utils import unwrap_model

from hpo.errors import CheckpointError
from workers.trainer_support import draft_of, identity, require_own
from workers.yolo.arguments import code_version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hpo.trainer import Job

LAYOUT = "state 1"  # of the file, raised when its content changes
STOPPER = ("best_fitness", "best_epoch", "possible_stop")
# What makes a difference in the last digits only, and is no reason to train again from the start
MACHINE = ("torch", "device", "threads", "cache")


def write_state(path: Path, job: Job, trainer: Any) -> None:
    """Write a trainer's state; call it at an epoch's end, after its validation.

    Args:
        path: the file; it is there as a whole or not at all.
        job: whose training it is.
        trainer: a `Detector`.

    Raises:
        OSError: it cannot be written.
    """
    draft = draft_of(path)
    try:
        # A path is written by C++, which turns every failure into a RuntimeError
        with draft.open("wb") as file:
            save(_capture(job, trainer), file)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def read_state(job: Job) -> dict[str, Any] | None:
    """The state that the job is to go on from; None when it is to start.

    Raises:
        CheckpointError: it is damaged, or of another training.
    """
    resume = job.resume
    if resume is None:
        return None
    try:
        with zipfile.ZipFile(resume.state) as archive:
            damaged = archive.testzip()  # torch checks no sums
        if damaged:
            raise ValueError(f"{damaged} is damaged")  # noqa: TRY301 - worded as the others below
        state = torch.load(resume.state, weights_only=True, map_location="cpu")
        facts = {"identity": state["identity"], "epoch": state["epoch"]}
        facts["best_epoch"] = state["best_epoch"]
    except Exception as error:
        # Damaged bytes raise anything
        raise CheckpointError(
            f"{resume.state.name} cannot be continued from: {type(error).__name__}: {error}"
        ) from error
    require_own(job, resume, _code(), facts)
    found: dict[str, Any] = state
    return found


def restore(trainer: Any, state: Mapping[str, Any]) -> None:
    """Put a state into a trainer that is set up and has trained nothing.

    The gradients are not among it: Ultralytics clears them before its first epoch.

    Raises:
        CheckpointError: it does not fit the trainer.
    """
    images, optimizer = len(trainer.train_loader.dataset), type(trainer.optimizer).__name__
    if (state["images"], state["optimizer_name"]) != (images, optimizer):
        raise CheckpointError(
            f"the checkpoint is of {state['images']} images and {state['optimizer_name']}, "
            f"expected {images} images and {optimizer}"
        )
    _warn_of_another_machine(state["machine"], machine(trainer))
    try:
        unwrap_model(trainer.model).load_state_dict(state["model"])
        trainer.ema.ema.load_state_dict(state["averages"])
        saved = state["optimizer"]
        for was, group in zip(saved["param_groups"], trainer.optimizer.param_groups, strict=True):
            was["fused"] = group.get("fused")  # this device's kernel, not that one's
        trainer.optimizer.load_state_dict(saved)
        _lay_out_as_parameters(trainer.optimizer)
        if state["scaler"]:  # empty of a training without mixed precision, so of one on a CPU
            trainer.scaler.load_state_dict(state["scaler"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint does not fit the model: {error}") from error
    trainer.ema.updates = state["updates"]
    vars(trainer.stopper).update(state["stopper"])
    trainer.best_fitness, trainer.best_epoch = state["best_fitness"], state["best_epoch"]
    trainer.csv.write_text(state["results"], encoding="utf-8")
    _restore_criterion(unwrap_model(trainer.model), state["criterion_updates"])


def restore_gradients(trainer: Any, gradients: Mapping[str, torch.Tensor]) -> None:
    """Put back what was summed up for an optimizer's step that had not been due yet."""
    for name, parameter in unwrap_model(trainer.model).named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter.device)


def machine(trainer: Any) -> dict[str, Any]:
    """What of this machine shows in the last digits."""
    return {
        "torch": version("torch"),
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
        "cache": trainer.train_loader.dataset.cache,
    }


def _capture(job: Job, trainer: Any) -> dict[str, Any]:
    model = unwrap_model(trainer.model)
    named = model.named_parameters()
    return {
        "identity": identity(job, _code()),
        "machine": machine(trainer),
        "images": len(trainer.train_loader.dataset),
        "epoch": trainer.epoch + 1,
        "best_epoch": trainer.best_epoch,
        "best_fitness": _plain(trainer.best_fitness),
        "batch": trainer.batch_size,
        "effective": dict(trainer.effective),
        "model": model.state_dict(),
        "averages": trainer.ema.ema.state_dict(),
        "updates": trainer.ema.updates,
        "optimizer_name": type(trainer.optimizer).__name__,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "batches_since_step": trainer.batches_since_step,
        "gradients": {name: p.grad for name, p in named if p.grad is not None},
        "stopper": {name: _plain(getattr(trainer.stopper, name)) for name in STOPPER},
        "criterion_updates": getattr(model.criterion, "updates", None),
        "results": trainer.csv.read_text(encoding="utf-8"),
    }


def _code() -> str:
    return f"{code_version()}, {LAYOUT}"


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value  # NumPy's numbers are code to load


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's tensors the strides of their parameters, which CUDA's kernels rely on.

    Ultralytics keeps channels last on CUDA and first on the CPU, where this state may be from.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.ndim and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _restore_criterion(model: Any, updates: int | None) -> None:
    """Heads without NMS weigh their two losses by the epochs behind them."""
    if updates is None:
        return
    model.criterion = model.init_criterion()
    model.criterion.updates = updates - 1
    model.criterion.update()


def _warn_of_another_machine(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [
        f"{name} was {was[name]}, is {now[name]}" for name in MACHINE if was[name] != now[name]
    ]
    if changed:
        LOGGER.warning(
            f"figures may differ from those of an uninterrupted training: {'; '.join(changed)}"
        )


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

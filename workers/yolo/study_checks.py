"""Find what is wrong with a YOLO study before anything is trained, without loading Ultralytics.

Beyond types and bounds: values that Ultralytics would ignore or change without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workers.trainer_support import argument_faults, objective_faults
from workers.yolo.arguments import OWNED, arguments
from workers.yolo.models import model_faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpo.trainer import Description, TrainSpec

STRIDE = 32  # px; the coarsest grid of every YOLO detector
# Read only where the optimizer's parameter groups have a `momentum`; Adam's have betas
ADAMS = {"Adam", "Adamax", "AdamW", "NAdam", "RAdam"}
# Ultralytics' `auto` overwrites these: engine/trainer.py, build_optimizer
IGNORED_BY_AUTO = ("lr0", "momentum", "warmup_bias_lr")
# The training set's transforms are rebuilt without these: data/dataset.py, close_mosaic
CLOSED_WITH_MOSAIC = ("mosaic", "mixup", "cutmix")


def faults(description: Description, spec: TrainSpec) -> Iterator[str]:
    """All faults of a study, in words, each starting with the key it speaks of."""
    yield from model_faults(spec.model)
    if spec.data is None:
        yield "data: a detector needs a dataset"
    yield from argument_faults(description, spec, OWNED)
    yield from objective_faults(description, spec)
    yield from _unread(spec)
    yield from _closed_mosaic(spec)
    yield from _sizes(spec)


def _values(spec: TrainSpec, name: str) -> tuple[Any, ...]:
    """The values that an argument may take: fixed, searched (ends or choices), or the default."""
    if name in spec.train:
        return (spec.train[name],)
    if name in spec.searched:
        return tuple(spec.searched[name])
    return (arguments()[name].default,)


def _given(spec: TrainSpec, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in names:
        if name in spec.train:
            yield name, f"train.{name}"
        if name in spec.searched:
            yield name, f"search_space.{name}"


def _unread(spec: TrainSpec) -> Iterator[str]:
    optimizers = set(_values(spec, "optimizer"))
    if "auto" in optimizers:
        said = "" if "optimizer" in {*spec.train, *spec.searched} else " (Ultralytics' default)"
        for _, key in _given(spec, IGNORED_BY_AUTO):
            yield f"{key}: ignored under `optimizer: auto`{said}: set `train: {{optimizer: AdamW}}`"
    if optimizers <= ADAMS:
        for _, key in _given(spec, ("warmup_momentum",)):
            names = ", ".join(sorted(optimizers))
            yield f"{key}: not read by {names}: leave it out, or use `optimizer: SGD`"
    if set(_values(spec, "warmup_epochs")) == {0}:
        for _, key in _given(spec, ("warmup_momentum", "warmup_bias_lr")):
            yield f"{key}: without effect, since warmup_epochs is 0"


def _closed_mosaic(spec: TrainSpec) -> Iterator[str]:
    # Ultralytics closes mosaic at the start of the first epoch e (from 0) with
    # e >= epochs - close_mosaic; 0 never closes it.
    closing = _values(spec, "close_mosaic")
    longest = spec.epochs if spec.epochs is not None else max(_values(spec, "epochs"))
    if not all(isinstance(count, int) for count in (*closing, longest)):
        return  # reported with the types
    if min(closing) > 0 and longest <= min(closing):
        for name, key in _given(spec, CLOSED_WITH_MOSAIC):
            if any(value != 0 for value in _values(spec, name)):
                yield (
                    f"{key}: without effect, since every one of the {longest} epochs is within "
                    f"close_mosaic={min(closing)}: set `train: {{close_mosaic: 0}}`"
                )


def _sizes(spec: TrainSpec) -> Iterator[str]:
    for _, key in _given(spec, ("imgsz",)):
        for size in _values(spec, "imgsz"):
            if isinstance(size, int) and size > STRIDE and size % STRIDE:
                above = -(-size // STRIDE) * STRIDE
                yield (
                    f"{key}: {size} px is not a multiple of {STRIDE}, Ultralytics would train on "
                    f"{above}: use {above - STRIDE} or {above}"
                )

"""Help trainers: check values against described arguments, and write checkpoint files."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

from hpo.errors import CheckpointError
from search_spaces.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hpo.trainer import Argument, Checkpoint, Description, Job, TrainSpec


def argument_faults(
    description: Description, spec: TrainSpec, owned: Mapping[str, str]
) -> Iterator[str]:
    """Unknown arguments, arguments that are not the study's to set, and values out of bounds.

    Args:
        description: the trainer's arguments and metrics.
        spec: what is asked.
        owned: arguments that the service sets itself -> what to use instead.

    Yields:
        one sentence each, starting with the key it speaks of.
    """
    for name, value in spec.train.items():
        key = f"train.{name}"
        if name in owned:
            yield f"{key}: {owned[name]}"
        elif name not in description.arguments:
            yield f"{key}: unknown argument{did_you_mean(name, description.arguments)}"
        elif fault := value_fault(description.arguments[name], value):
            yield f"{key}: {fault}"
    for name, values in spec.searched.items():
        key = f"search_space.{name}"
        if name in spec.train:
            yield f"{key}: it is fixed under `train:` too; keep one of the two"
        if name in owned and name not in description.arguments:
            yield f"{key}: {owned[name]}"
        elif name not in description.arguments:
            yield f"{key}: unknown argument{did_you_mean(name, description.arguments)}"
        else:
            faults = (value_fault(description.arguments[name], value) for value in values)
            yield from (f"{key}: {fault}" for fault in faults if fault)


def objective_faults(description: Description, spec: TrainSpec) -> Iterator[str]:
    """An unknown metric, or a direction that contradicts it."""
    known = description.metrics
    if spec.metric not in known:
        yield f"objective.metric: unknown metric '{spec.metric}' (known: {', '.join(known)})"
    elif spec.direction != known[spec.metric]:
        yield (
            f"objective.direction: {spec.metric} is better when "
            f"{'larger' if known[spec.metric] == 'maximize' else 'smaller'}: "
            f"use {known[spec.metric]}, not {spec.direction}"
        )


def value_fault(argument: Argument, value: Any) -> str:
    """What is wrong with a value, or ""."""
    if argument.choices and value not in argument.choices:
        return f"{value!r} is not one of {', '.join(map(repr, argument.choices))}"
    if argument.choices:
        return ""
    if not _is_a(argument.kind, value):
        return f"{value!r} is not {_A[argument.kind]}"
    if argument.low is not None and value < argument.low:
        return f"{value} is below the smallest value {argument.low:g}"
    if argument.high is not None and value > argument.high:
        return f"{value} is above the largest value {argument.high:g}"
    return ""


_A = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "a text",
}


def _is_a(kind: str, value: Any) -> bool:
    match kind:
        case "bool":
            return isinstance(value, bool)
        case "str":
            return isinstance(value, str)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case _:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return number and math.isfinite(value)


def is_due(job: Job, epoch: int) -> bool:
    """Whether a checkpoint is to be made after this epoch, counted from 1; never after the last."""
    every = job.checkpoint_every
    return every > 0 and epoch % every == 0 and epoch < job.epochs


def state_file(job: Job, epoch: int, suffix: str) -> Path:
    """Where the state after an epoch goes; its folder is made."""
    return _in_folder(job.run_dir / "checkpoints") / f"epoch-{epoch:04d}{suffix}"


def weights_file(job: Job, epoch: int, name: str) -> Path:
    """Where the weights of an epoch go, each epoch's in a folder of its own, which is made."""
    return _in_folder(job.run_dir / "weights" / f"epoch-{epoch:04d}") / name


def continued_weights(job: Job, resume: Checkpoint, name: str) -> Path | None:
    """The best epoch's weights so far, in this job's own place for them; None where none exist."""
    if resume.best_epoch is None or resume.weights is None:
        return None
    place = weights_file(job, resume.best_epoch, name)
    if place != resume.weights:
        shutil.copyfile(resume.weights, place)
    return place


def draft_of(path: Path) -> Path:
    """Where a file is written before it is whole; renamed, it is there as a whole or not at all."""
    return path.with_name(f"{path.name}.draft")


def identity(job: Job, code_version: str) -> dict[str, Any]:
    """What decides a training's figures beside its dataset, in the types of JSON."""
    told = {
        "code": code_version,
        "model": job.model_sha256 or job.model,
        "params": dict(job.params),
        "train": dict(job.train),
        "epochs": job.epochs,
        "seed": job.seed,
        "metric": job.metric,
        "direction": job.direction,
    }
    plain: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return plain


def require_own(job: Job, resume: Checkpoint, code_version: str, state: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless this job may go on from a state.

    Args:
        job: the job that is to go on.
        resume: the checkpoint that the state is of.
        code_version: the trainer's, of this process.
        state: has `identity`, `epoch` and `best_epoch`, as they were when it was written.
    """
    asked = {"epoch": resume.epoch, "best_epoch": resume.best_epoch}
    expected = {**asked, **identity(job, code_version)}
    seen = {**{name: state.get(name) for name in asked}, **dict(state.get("identity") or {})}
    if differences := list(_differences(seen, expected)):
        raise CheckpointError(
            f"{resume.state.name} is of another training: {'; '.join(differences)}"
        )
    if resume.best_epoch is not None and (resume.weights is None or not resume.weights.is_file()):
        raise CheckpointError(
            f"{resume.state.name}: the weights of the best epoch, {resume.best_epoch}, are missing"
        )


def _differences(
    seen: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    for name in sorted({*seen, *expected}):
        was, now = seen.get(name), expected.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _differences(was, now, f"{prefix}{name}.")
        elif was != now:
            yield f"{prefix}{name} is {was!r}, expected {now!r}"


def _in_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

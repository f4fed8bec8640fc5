"""A trainer's checkpoints in its job's folder: when due, under which name, and of which job."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from hpo.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hpo.trainer import Checkpoint, Job


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

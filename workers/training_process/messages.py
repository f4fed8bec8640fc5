"""The messages between a worker and its training process.

Worker to child: one of `Train`, `Evaluate`, `Pack`, `ExportOnnx`, `Prepare`, and an `Answer` to
each `Reported`.
Child to worker: one `Ready`; then for each request any number of `Reported`, and one `Done` or
`Failed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.errors import HpoError
    from hpo.trainer import Directive, Epoch, Job


@dataclass(frozen=True)
class Train:
    """Ask for a training."""

    job: Job


@dataclass(frozen=True)
class Evaluate:
    """Ask for the figures of weights on one split."""

    weights: Path
    job: Job
    split: str


@dataclass(frozen=True)
class Pack:
    """Ask for what a model registry needs."""

    weights: Path
    job: Job


@dataclass(frozen=True)
class ExportOnnx:
    """Ask for an ONNX file that finds what the weights find."""

    weights: Path
    job: Job


@dataclass(frozen=True)
class Prepare:
    """Ask for the file that trainings of a model start from."""

    model: str


@dataclass(frozen=True)
class Answer:
    """What the trainer is told after the epoch that was reported last."""

    directive: Directive


@dataclass(frozen=True)
class Ready:
    """The trainer is loaded and its imports are over, or have failed: the first request tells."""


@dataclass(frozen=True)
class Reported:
    """An epoch has ended; the child waits for an `Answer`."""

    epoch: Epoch


@dataclass(frozen=True)
class Done:
    """The request is fulfilled.

    Attributes:
        value: a Result, an Evaluation, a Package or a Path.
    """

    value: Any


@dataclass(frozen=True)
class Failed:
    """The request failed.

    Attributes:
        error: what the worker raises.
        retire: the child ends itself now, since an unforeseen failure (of CUDA, of memory) may
            have left it unfit for another trial.
    """

    error: HpoError
    retire: bool


Request = Train | Evaluate | Pack | ExportOnnx | Prepare
Reply = Ready | Reported | Done | Failed

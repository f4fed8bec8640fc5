"""Trainer `simulated`: a made-up training with a known optimum, for load and fault tests.

The curve: after epoch e of a trial, mAP50 is

    asymptote(params) * (1 - exp(-e / 3)) + noise

    asymptote = 0.9 * exp(-((x - 0.7) / 0.5)^2) * exp(-((log10(y) + 2) / 1.5)^2) * kind
    kind      = 0.8 for a; 1 - 0.05 * |depth - 5| for b
    noise     = uniform within +-0.005, seeded by digest(e)
    digest(e) = sha256(digest(e - 1) + parameters, seed and e), digest(0) = ""

so the optimum is 0.9, at x = 0.7, y = 0.01, kind = b, depth = 5. The digest stands for a model's
weights: a training that goes on from a wrong state shows it in every later figure.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from hpo.errors import CheckpointError, TrialError
from hpo.trainer import (
    DETECTION_METRICS,
    Argument,
    Checkpoint,
    Description,
    Directive,
    Epoch,
    Evaluation,
    Package,
    Result,
    sign_of,
)
from workers.trainer_support import (
    argument_faults,
    continued_weights,
    draft_of,
    identity,
    is_due,
    objective_faults,
    require_own,
    state_file,
    value_fault,
    weights_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hpo.trainer import Job, TrainSpec

OPTIMUM = 0.9
RISE_EPOCHS = 3.0
NOISE = 0.005
WEIGHTS = "weights.json"

ARGUMENTS: dict[str, Argument] = {
    "x": Argument(default=0.2, kind="float", help="best at 0.7", low=0.0, high=1.0),
    "y": Argument(
        default=0.1, kind="float", help="best at 0.01, on a log scale", low=1e-4, high=1.0
    ),
    "kind": Argument(default="a", kind="str", help="b can be better", choices=("a", "b")),
    "depth": Argument(
        default=2, kind="int", help="matters where kind is b, best at 5", low=1, high=8
    ),
    "epochs": Argument(default=10, kind="int", help="number of epochs", low=1),
    "epoch_s": Argument(default=0.05, kind="float", help="seconds that an epoch takes", low=0.0),
    "fail_at": Argument(
        default=0, kind="int", help="epoch at which the training raises; 0: never", low=0
    ),
    "crash_at": Argument(
        default=0, kind="int", help="epoch at which the process dies; 0: never", low=0
    ),
    "hang_at": Argument(default=0, kind="int", help="epoch that never ends; 0: none", low=0),
    "nan_at": Argument(default=0, kind="int", help="epoch whose loss is NaN; 0: none", low=0),
}
OWNED = {"epochs": "set budget.epochs instead", "seed": "set sampler.seed instead"}

CODE = '''"""A simulated model for MLflow: finds no box in any image, and says so."""

import mlflow
import pandas as pd


class SimulatedModel(mlflow.pyfunc.PythonModel):
    """SIMULATED: made by the trainer `simulated`, which trains nothing."""

    def predict(self, context, model_input, params=None):
        """No boxes, in the columns that a detector has."""
        columns = {"image": "int64", "x1": "float64", "y1": "float64", "x2": "float64",
                   "y2": "float64", "class": "int64", "name": "object", "confidence": "float64"}
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})


mlflow.models.set_model(SimulatedModel())
'''


def asymptote(params: Mapping[str, Any]) -> float:
    """The mAP50 that a training with these parameters tends to; missing ones take the default."""
    x, y, kind, depth = (
        params.get(name, ARGUMENTS[name].default) for name in ("x", "y", "kind", "depth")
    )
    shape = 0.8 if kind == "a" else 1 - 0.05 * abs(depth - 5)
    x_part = math.exp(-(((x - 0.7) / 0.5) ** 2))
    y_part = math.exp(-(((math.log10(y) + 2) / 1.5) ** 2))
    return OPTIMUM * x_part * y_part * shape


def epoch_metrics(params: Mapping[str, Any], seed: int, epoch: int) -> dict[str, float]:
    """Every figure of one epoch but its seconds; epochs count from 1."""
    digest = reduce(lambda before, e: _next(before, params, seed, e), range(1, epoch + 1), "")
    return _figures(params, digest, epoch)


def _next(digest: str, params: Mapping[str, Any], seed: int, epoch: int) -> str:
    key = json.dumps([sorted(params.items()), seed, epoch], default=str)
    return sha256((digest + key).encode()).hexdigest()


def _figures(params: Mapping[str, Any], digest: str, epoch: int) -> dict[str, float]:
    noise = random.Random(digest).uniform(-NOISE, NOISE)  # noqa: S311 - not a secret
    value = asymptote(params) * (1 - math.exp(-epoch / RISE_EPOCHS)) + noise
    value = round(min(1.0, max(0.0, value)), 5)
    return {
        "mAP50": value,
        "mAP50-95": round(0.6 * value, 5),
        "precision": round(0.5 + 0.5 * value, 5),
        "recall": round(0.9 * value, 5),
        "loss": round(1.0 - value, 5),
    }


@dataclass
class _State:
    """What a training has come to after an epoch; 0 before the first one.

    Attributes:
        loss: the best epoch's value of the job's metric, its sign turned where larger is better.
    """

    epoch: int = 0
    digest: str = ""
    loss: float = math.inf
    best_epoch: int | None = None


class SimulatedTrainer:
    """Trainer `simulated`."""

    def describe(self) -> Description:
        return Description(
            name="simulated",
            arguments=ARGUMENTS,
            metrics={
                **dict.fromkeys(DETECTION_METRICS, "maximize"),
                "loss": "minimize",
            },
            models=("simulated",),
            simulated=True,
            needs_data=False,
            devices=("cpu", "cuda"),
            code_version="simulated 1",
        )

    def check(self, spec: TrainSpec) -> Sequence[str]:
        description = self.describe()
        return [
            *argument_faults(description, spec, OWNED),
            *objective_faults(description, spec),
        ]

    def warm(self) -> None:
        """Import nothing: a formula needs nothing."""

    def train(self, job: Job, report: Callable[[Epoch], Directive]) -> Result:
        used = _used(job)
        params = {name: used[name] for name in ("x", "y", "kind", "depth")}
        state, weights = self._begin(job)
        sign, train_s = -sign_of(job.direction), 0.0
        for number in range(state.epoch + 1, job.epochs + 1):
            started = time.monotonic()
            _misbehave(used, number)
            time.sleep(used["epoch_s"])
            state.epoch, state.digest = number, _next(state.digest, params, job.seed, number)
            metrics = _figures(params, state.digest, number)
            if sign * metrics[job.metric] < state.loss:
                state.loss, state.best_epoch = sign * metrics[job.metric], number
                weights = _save_weights(job, params, number)
            seconds = time.monotonic() - started
            train_s += seconds
            checkpoint, warning = self._checkpoint(job, state, weights)
            epoch = Epoch(number, {**metrics, "seconds": seconds}, checkpoint, warning)
            if report(epoch) is not Directive.GO:
                break
        return Result(
            best_epoch=state.best_epoch,
            weights=weights,
            pictures={},
            effective=used,
            train_s=train_s,
        )

    def _begin(self, job: Job) -> tuple[_State, Path | None]:
        """Where the training stands: at its start, or at its checkpoint."""
        resume = job.resume
        if resume is None:
            return _State(), None
        try:
            saved = json.loads(resume.state.read_text(encoding="utf-8"))
            state = _State(**saved["state"])
            facts = {**vars(state), "identity": saved["identity"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{resume.state.name} cannot be continued from: {type(error).__name__}: {error}"
            ) from None
        require_own(job, resume, self.describe().code_version, facts)
        return state, continued_weights(job, resume, WEIGHTS)

    def _checkpoint(
        self, job: Job, state: _State, weights: Path | None
    ) -> tuple[Checkpoint | None, str]:
        """The checkpoint where one is due, and why it could not be written."""
        if not is_due(job, state.epoch):
            return None, ""
        saved = {"identity": identity(job, self.describe().code_version), "state": vars(state)}
        try:
            path = state_file(job, state.epoch, ".json")
            _write_whole(path, saved)
        except OSError as error:
            return None, f"no checkpoint of epoch {state.epoch}: {error}"
        return Checkpoint(state.epoch, path, state.best_epoch, weights), ""

    def evaluate(self, weights: Path, job: Job, split: str) -> Evaluation:
        from workers.simulated.evaluation import evaluate

        return evaluate(weights, job, split, epoch_metrics)

    def package(self, weights: Path, job: Job) -> Package:
        job.run_dir.mkdir(parents=True, exist_ok=True)
        code = job.run_dir / "simulated_model.py"
        code.write_text(CODE, encoding="utf-8")
        return Package(
            code=code,
            artifacts={"weights": weights},
            requirements=("mlflow", "pandas"),
            example=None,
            outputs={
                "image": "long",
                **dict.fromkeys(("x1", "y1", "x2", "y2"), "double"),
                "class": "long",
                "name": "string",
                "confidence": "double",
            },
        )


def _used(job: Job) -> dict[str, Any]:
    given = {**job.train, **job.params}
    for name, value in given.items():
        fault = value_fault(ARGUMENTS[name], value) if name in ARGUMENTS else "unknown argument"
        if fault:
            raise TrialError("error", f"{name}: {fault}")
    defaults = {name: argument.default for name, argument in ARGUMENTS.items()}
    used = {**defaults, **given, "epochs": job.epochs}
    if job.params.get("epochs", job.epochs) != job.epochs:
        raise TrialError(
            "error",
            f"parameter epochs={job.params['epochs']} was not applied: effective {job.epochs}",
        )
    return used


def _save_weights(job: Job, params: Mapping[str, Any], epoch: int) -> Path:
    path = weights_file(job, epoch, WEIGHTS)
    _write_whole(path, {"simulated": True, "params": params, "seed": job.seed, "epoch": epoch})
    return path


def _write_whole(path: Path, content: Mapping[str, Any]) -> None:
    draft = draft_of(path)
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.replace(path)


def _misbehave(used: Mapping[str, Any], epoch: int) -> None:
    if epoch == used["fail_at"]:
        raise RuntimeError(f"told to fail at epoch {epoch}")
    if epoch == used["nan_at"]:
        raise TrialError("diverged", f"the loss of epoch {epoch} is NaN")
    if epoch == used["crash_at"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    while epoch == used["hang_at"]:
        time.sleep(3600)

"""Read the arguments that an Ultralytics training really used, and check them against the trial.

Ultralytics changes some arguments without a word (`optimizer: auto`, a batch halved for memory),
and tuned parameters that were never applied have gone unnoticed: a trial with such a parameter
is a failure, not a result.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hpo.errors import TrialError
from workers.yolo.arguments import arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.trainer import Job

# Where the machine decides: recorded as it was. A searched one must still hold.
MACHINE = ("batch", "amp", "cache", "workers", "max_det")


def effective_arguments(trainer: Any) -> dict[str, Any]:
    """Every argument as the training uses it; call it before the first batch.

    Args:
        trainer: an Ultralytics DetectionTrainer whose training has been set up.
    """
    args = vars(trainer.args)
    return {
        **{name: args[name] for name in arguments() if name in args},
        "epochs": trainer.epochs,
        "amp": bool(trainer.amp),
        "cache": trainer.train_loader.dataset.cache or False,
        **optimizer_arguments(trainer),
        **batch_argument(trainer),
    }


def batch_argument(trainer: Any) -> dict[str, Any]:
    """The batch size in use; Ultralytics may halve it during the first epoch."""
    return {"batch": trainer.batch_size}


def optimizer_arguments(trainer: Any) -> dict[str, Any]:
    """What the optimizer itself holds, whatever the arguments say.

    Warm-up moves momentum and learning rate later, so this is read before the first batch.
    """
    groups = trainer.optimizer.param_groups
    decayed = next(group for group in groups if group.get("param_group") in {"weight", "muon"})
    momentum = decayed["betas"][0] if "betas" in decayed else decayed.get("momentum")
    # Ultralytics scales the decay to its nominal batch of `nbs` images
    batch, nbs = trainer.batch_size, trainer.args.nbs
    scale = batch * max(round(nbs / batch), 1) / nbs
    return {
        "optimizer": type(trainer.optimizer).__name__,
        # MuSGD gives some groups three times lr0
        "lr0": float(min(group["initial_lr"] for group in groups)),
        "momentum": None if momentum is None else float(momentum),
        "weight_decay": float(decayed["weight_decay"] / scale),
    }


def require_applied(job: Job, used: Mapping[str, Any]) -> None:
    """Raise TrialError where a parameter or a fixed argument is not the one in use."""
    fixed = {name: value for name, value in job.train.items() if name not in MACHINE}
    for name, asked in {**fixed, **job.params}.items():
        found = used.get(name)
        if _same(asked, found):
            continue
        what = "parameter" if name in job.params else "argument"
        message = f"{what} {name}={asked} was not applied: effective {found}"
        if name == "batch":
            raise TrialError("out_of_memory", message, hint="Search smaller batch sizes.")
        raise TrialError("error", message)


def _same(asked: Any, found: Any) -> bool:
    if isinstance(asked, str) and isinstance(found, str):
        return asked == "auto" or asked.lower() == found.lower()
    if isinstance(asked, bool) or isinstance(found, bool) or found is None:
        return bool(asked == found)
    if isinstance(asked, (int, float)) and isinstance(found, (int, float)):
        return math.isclose(asked, found, rel_tol=1e-6)
    return bool(asked == found)

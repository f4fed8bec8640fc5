"""Samplers and pruners by name: their options, and the Optuna objects made of them.

Optuna stores neither: every worker builds the same ones from the stored spec. A sampler is built
anew for each trial: random, TPE, CMA-ES and GP are seeded with the study's seed and the trial's
number, so that the same history gives the same suggestion whichever worker asks; grid and QMC walk
one sequence of the study's seed by the trial's rank.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from hpo.studies.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option: its default, the values it takes, and why the default is what it is."""

    default: Any
    kind: type
    why: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()


_STARTUP = Option(
    default=10, kind=int, why="Optuna's; random points before the model has enough to go by", low=0
)

SAMPLERS: dict[str, dict[str, Option]] = {
    "random": {},
    "grid": {},
    "tpe": {
        "startup_trials": _STARTUP,
        "multivariate": Option(
            default=True, kind=bool, why="Optuna 5's; parameters are modelled together"
        ),
        "ei_candidates": Option(default=24, kind=int, why="Optuna's", low=1),
    },
    "qmc": {
        "sequence": Option(default="sobol", kind=str, why="Optuna's", choices=("sobol", "halton")),
        "scramble": Option(
            default=True, kind=bool, why="unscrambled sequences begin in a corner of the space"
        ),
    },
    "gp": {"startup_trials": _STARTUP},
    "cmaes": {"startup_trials": Option(default=1, kind=int, why="Optuna's", low=0)},
}

_MIN_EPOCHS = Option(
    default=1, kind=int, why="Optuna's; the first epoch at which a trial may be pruned", low=1
)
_STARTUP_PRUNER = Option(
    default=5, kind=int, why="Optuna's; complete trials before any is pruned", low=0
)
_MEDIAN: dict[str, Option] = {
    "startup_trials": _STARTUP_PRUNER,
    "warmup_epochs": Option(
        default=0, kind=int, why="Optuna's; epochs of a trial that are never pruned", low=0
    ),
    "interval": Option(default=1, kind=int, why="every epoch is judged", low=1),
}

PRUNERS: dict[str, dict[str, Option]] = {
    "none": {},
    "median": _MEDIAN,
    "percentile": _MEDIAN
    | {
        "percentile": Option(
            default=25.0, kind=float, why="keeps the best quarter", low=0.0, high=100.0
        )
    },
    "successive_halving": {
        "min_epochs": _MIN_EPOCHS,
        "reduction_factor": Option(default=4, kind=int, why="Optuna's, from the ASHA paper", low=2),
        "min_early_stopping_rate": Option(
            default=0, kind=int, why="Optuna's; rungs to skip", low=0
        ),
    },
    "hyperband": {
        "min_epochs": _MIN_EPOCHS,
        "reduction_factor": Option(
            default=3, kind=int, why="Optuna's, from the Hyperband paper", low=2
        ),
    },
}

# TPE because it needs no discrete space and learns from few trials; hyperband because its
# brackets keep slow starters alive. Where `epochs` is searched nothing can be pruned.
DEFAULT_SAMPLER = "tpe"
DEFAULT_PRUNER = "hyperband"


def make_sampler(spec: StudySpec, number: int, rank: int) -> optuna.samplers.BaseSampler:
    """The sampler for one trial.

    Args:
        spec: the study.
        number: the trial's number.
        rank: how many trials before it were sampled rather than enqueued.

    Raises:
        ModuleNotFoundError: CMA-ES without the extra `hpo-service[cmaes]`.
    """
    from optuna import samplers

    from hpo.studies.optuna_samplers import RankedGridSampler, RankedQMCSampler

    name, options = spec.sampler.name, spec.sampler.options
    if name == "grid":
        return RankedGridSampler(spec.space.grid(), spec.seed, rank)
    if name == "qmc":
        return RankedQMCSampler(
            spec.space.distributions(),
            rank,
            qmc_type=options["sequence"],
            scramble=options["scramble"],
            seed=spec.seed,
        )
    seed = trial_seed(spec.seed, number)
    if name == "random":
        return samplers.RandomSampler(seed=seed)
    # What these two cannot model (CMA-ES: choices; both: parameters under a condition) is sampled
    # at random; a warning for each such value of each trial would help nobody.
    if name == "gp":
        return samplers.GPSampler(
            seed=seed,
            n_startup_trials=options["startup_trials"],
            warn_independent_sampling=False,
        )
    if name == "cmaes":
        from hpo.studies.optuna_samplers import CarefulCmaEsSampler

        return CarefulCmaEsSampler(
            seed=seed,
            n_startup_trials=options["startup_trials"],
            warn_independent_sampling=False,
        )
    return samplers.TPESampler(
        seed=seed,
        n_startup_trials=options["startup_trials"],
        multivariate=options["multivariate"],
        n_ei_candidates=options["ei_candidates"],
    )


def make_pruner(spec: StudySpec) -> optuna.pruners.BasePruner:
    """The study's pruner. Hyperband's largest resource is `budget.epochs`."""
    from optuna import pruners

    name, options = spec.pruner.name, spec.pruner.options
    if name == "none":
        return pruners.NopPruner()
    if name == "successive_halving":
        return pruners.SuccessiveHalvingPruner(
            min_resource=options["min_epochs"],
            reduction_factor=options["reduction_factor"],
            min_early_stopping_rate=options["min_early_stopping_rate"],
        )
    if name == "hyperband":
        return pruners.HyperbandPruner(
            min_resource=options["min_epochs"],
            max_resource=spec.budget.epochs or 1,
            reduction_factor=options["reduction_factor"],
        )
    return pruners.PercentilePruner(
        options.get("percentile", 50.0),  # the median is the 50th percentile
        n_startup_trials=options["startup_trials"],
        # Optuna takes steps to count from 0: it skips those below the number
        n_warmup_steps=options["warmup_epochs"] + 1,
        interval_steps=options["interval"],
    )


def trial_seed(seed: int, number: int) -> int:
    """A 32-bit seed of the study's seed and the trial's number, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")

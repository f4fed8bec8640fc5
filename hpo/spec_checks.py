"""Checks between the parts of a study: what no single key shows; collects faults in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.trainer import TrainSpec
from search_spaces.faults import SpaceFaults

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.spec import Budget, Choice, StudySpec
    from hpo.trainer import Trainer
    from search_spaces.space import SearchSpace


def check_choices(
    space: SearchSpace, sampler: Choice, pruner: Choice, budget: Budget, faults: list[str]
) -> None:
    """Sampler and pruner against the space and the budget."""
    epochs = next((item for item in space.parameters if item.name == "epochs"), None)
    if epochs is not None and pruner.name != "none":
        faults.append(
            f"pruner.name: '{pruner.name}' compares trials at equal epochs, but `epochs` is "
            "searched and schedules differ; use `none`"
        )
    if epochs is not None and epochs.when:
        faults.append("search_space.epochs: has a condition, but every trial needs its epochs")
    if sampler.name in ("grid", "qmc"):
        conditional = [item.name for item in space.parameters if item.when]
        if conditional:
            faults.append(
                f"sampler.name: '{sampler.name}' needs a space without conditions; "
                f"{', '.join(conditional)} exist only under one"
            )
    if sampler.name == "cmaes":
        _check_cmaes(faults)
    first = pruner.options.get("min_epochs", 1)
    if budget.epochs is not None and first > budget.epochs:
        faults.append(f"pruner.min_epochs: is {first}, at most budget.epochs={budget.epochs}")


def _check_cmaes(faults: list[str]) -> None:
    from importlib.util import find_spec

    if find_spec("cmaes") is None:
        faults.append("sampler.name: 'cmaes' needs the extra: `pip install 'hpo-service[cmaes]'`")


def check_against_trainer(
    spec: StudySpec, trainer: Trainer, data: Path | None, faults: list[str]
) -> None:
    """The whole spec against its trainer, and the number of trials against what must run."""
    if spec.sampler.name == "grid":
        _check_grid(spec, faults)
    elif len(spec.baselines) > spec.budget.trials:
        faults.append(
            f"budget.trials: is {spec.budget.trials}, but there are {len(spec.baselines)} "
            "baselines, which count too"
        )
    question = TrainSpec(
        model=spec.model,
        train=spec.train,
        searched=spec.space.bounds(),
        epochs=spec.budget.epochs,
        metric=spec.objective.metric,
        direction=spec.objective.direction,
        data=data,
    )
    # A dataset that could not be read was reported when it was: one fault, not two.
    faults.extend(
        fault for fault in trainer.check(question) if data or not fault.startswith("data:")
    )


def _check_grid(spec: StudySpec, faults: list[str]) -> None:
    try:
        size = spec.space.grid_size()
    except SpaceFaults as error:
        faults.extend(f"sampler.name: grid: {fault}" for fault in error.faults)
        return
    room = spec.budget.trials - len(spec.baselines)
    if room != size:
        total = size + len(spec.baselines)
        faults.append(
            f"budget.trials: is {spec.budget.trials}, but the grid has {size} points and there "
            f"are {len(spec.baselines)} baselines; set it to {total}"
        )

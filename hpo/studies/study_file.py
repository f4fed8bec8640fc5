"""Read a study file into a StudySpec, checked as a whole with all its faults at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.datasets.builtin import BUILT_IN, planned, resolve
from hpo.datasets.held_out import held_out
from hpo.datasets.validation import require
from hpo.errors import FaultsError, SpecError
from hpo.studies.fields import Fields, merged, seconds
from hpo.studies.names import take_name
from hpo.studies.samplers import DEFAULT_PRUNER, DEFAULT_SAMPLER, PRUNERS, SAMPLERS, Option
from hpo.studies.spec import LARGEST_INTEGER, Budget, Choice, Objective, StudySpec
from hpo.studies.validation import (
    NO_PROMOTION,
    check_against_trainer,
    check_choices,
    check_promotion,
    read_promotion,
)
from hpo.trainer import Description, Trainer, load_trainer, trainer_names
from search_spaces.faults import SpaceFaults, shown
from search_spaces.reader import builtin_names, load_space
from search_spaces.yaml_text import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from search_spaces.space import SearchSpace

TEMPLATE = Path(__file__).parent / "templates" / "study.yaml"
_KEYS = (
    *("study", "trainer", "model", "data", "search_space", "objective", "budget", "sampler"),
    *("pruner", "train", "baselines", "promotion"),
)


def read_study_file(
    path: Path | None,
    overrides: Mapping[str, Any],
    *,
    home: Path,
    progress: Callable[[int, int], None] | None = None,
) -> StudySpec:
    """Read and check a study file; makes nothing.

    Args:
        path: the file; None means the built-in quick study.
        overrides: nested values that win over the file's.
        home: the project's `.hpo`, where built-in datasets are made when they are used, and where
            is remembered what was read of the user's own.
        progress: called with (files read, files in all) while a test split is read.

    Raises:
        SpecError: with every fault found: also where the user's dataset is not sound, or has no
            sound test split and the study promotes.
    """
    source = TEMPLATE if path is None else path
    name = "the built-in study" if path is None else str(path)
    hint = "`hpo init -o FILE` writes one to start from, with every key explained."
    if source.is_fifo():  # reading it would wait for a writer for ever
        raise SpecError(name, ["is a pipe, a file is expected"], hint=hint)
    try:
        text = source.read_bytes()
    except OSError as error:
        raise SpecError(name, [f"cannot be read: {error.strerror}"], hint=hint) from error
    values, faults = parse_yaml(text)
    if faults:
        raise SpecError(name, faults, hint=hint)
    if not isinstance(values, dict):
        seen = "is empty" if values is None else f"holds {shown(values)}"
        raise SpecError(name, [f"{seen}, a mapping of keys is expected"], hint=hint)
    base = Path.cwd() if path is None else path.absolute().parent
    try:
        given = merged(_spelt_out(values), overrides)
        return _build_spec(given, name, base, home, progress)
    except SpecError as error:
        error.hint = error.hint or "Mend it and run the command again. " + hint
        raise


def _spelt_out(values: dict[str, Any]) -> dict[str, Any]:
    """`sampler: random` as `sampler: {name: random}`, so that an override of its seed is merged."""
    short = {key: values.get(key) for key in ("sampler", "pruner")}
    return values | {key: {"name": name} for key, name in short.items() if isinstance(name, str)}


def _build_spec(
    values: dict[str, Any],
    what: str,
    base: Path,
    home: Path,
    progress: Callable[[int, int], None] | None,
) -> StudySpec:
    """Check nested values as a whole and freeze them; `base` is the folder of relative paths."""
    faults: list[str] = []
    top = Fields(values, "", faults, _KEYS)
    name = take_name(top, "study", "", "/", required="give the study a name")
    trainer = _trainer(top)
    space = _space(top, base)
    seed, sampler = _choice(top, "sampler", SAMPLERS, DEFAULT_SAMPLER)
    searched = space is not None and "epochs" in space.bounds()
    _, pruner = _choice(top, "pruner", PRUNERS, "none" if searched else DEFAULT_PRUNER)
    budget = _budget(top, epochs_searched=searched)
    promotion = read_promotion(top, name, epochs_searched=searched)
    train = Fields(values.get("train"), "train", faults, None).values
    if trainer is None or space is None:
        raise SpecError(what, faults)
    description = trainer.describe()
    if space.trainer != description.name:
        theirs = f"'{space.name}' is for the trainer '{space.trainer}'"
        top.fault("search_space", f"{theirs}, this study's is '{description.name}'")
        raise SpecError(what, faults)
    objective = _objective(top, description)
    check_promotion(promotion, objective, trainer, faults)
    model = top.take("model", str, description.models[0])
    data, data_yaml = _data(top, description, base, home)
    if promotion.wanted and data_yaml is not None and data not in BUILT_IN:
        _check_held_out(data_yaml, home, progress, faults)
    baselines = _baselines(values, space, description, train, faults)
    check_choices(space, sampler, pruner, budget, faults)
    spec = StudySpec(
        study=name,
        trainer=description.name,
        model=model,
        data=data,
        space=space,
        objective=objective,
        budget=budget,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        train=train,
        baselines=baselines,
        promotion=promotion,
    )
    check_against_trainer(spec, trainer, data_yaml, faults)
    if faults:
        raise SpecError(what, faults)
    if "\\u0000" in spec.canonical():
        raise SpecError(what, ["a text holds a NUL character, which PostgreSQL cannot store"])
    return spec


def _trainer(top: Fields) -> Trainer | None:
    name = top.take("trainer", str, "yolo", choices=trainer_names())
    given = top.values.get("trainer")
    return load_trainer(name) if given is None or given == name else None


def _space(top: Fields, base: Path) -> SearchSpace | None:
    names = ", ".join(builtin_names())
    name = top.take("search_space", str, required=f"name a built-in one ({names}) or a path")
    if name is None:
        return None
    try:
        return load_space(name, base)
    except SpaceFaults as error:
        top.faults.extend(f"search_space: {fault}" for fault in error.faults)
        return None


def _choice(
    top: Fields, key: str, table: dict[str, dict[str, Option]], default: str
) -> tuple[int, Choice]:
    raw = top.values.get(key)
    if isinstance(raw, str):
        raw = {"name": raw}
    given = raw.get("name") if isinstance(raw, dict) else None
    name = default if given is None else given
    # With an unknown name the options cannot be judged: one fault, not one for each.
    options = table.get(name) if isinstance(name, str) else None
    shared = ("name", "seed") if key == "sampler" else ("name",)
    known = None if options is None else (*shared, *options)
    fields = Fields(raw, key, top.faults, known)
    name = fields.take("name", str, default, choices=table)
    seed = fields.take("seed", int, 0, low=0, high=2**32 - 1)
    values = {
        option: fields.take(
            option, rule.kind, rule.default, low=rule.low, high=rule.high, choices=rule.choices
        )
        for option, rule in (options or {}).items()
    }
    return seed, Choice(name, values)


def _budget(top: Fields, *, epochs_searched: bool) -> Budget:
    fields = Fields(top.values.get("budget"), "budget", top.faults, ("trials", "epochs", "timeout"))
    trials = fields.take(
        "trials",
        int,
        1,
        required="say how many trials, e.g. `trials: 12`",
        low=1,
        high=LARGEST_INTEGER,
    )
    epochs = fields.take("epochs", int, None, low=1, high=LARGEST_INTEGER)
    if epochs_searched and epochs is not None:
        fields.fault("epochs", "is refused where the search space searches `epochs`; remove one")
    elif not epochs_searched and fields.values.get("epochs") is None:
        fields.fault("epochs", "is missing; say how many epochs a trial has, e.g. `epochs: 8`")
    timeout = fields.values.get("timeout")
    timeout_s = None if timeout is None else seconds(timeout)
    if timeout is not None and timeout_s is None:
        wanted = "a duration like 90s, 45m or 1h30m, at most 3650d, is expected"
        fields.fault("timeout", f"is {shown(timeout)}, {wanted}")
    return Budget(trials, epochs, timeout_s)


def _objective(top: Fields, description: Description) -> Objective:
    fields = Fields(top.values.get("objective"), "objective", top.faults, ("metric", "direction"))
    default = next(iter(description.metrics))
    metric = fields.take("metric", str, default, choices=description.metrics)
    natural = description.metrics[metric]
    direction = fields.take("direction", str, natural, choices=("maximize", "minimize"))
    return Objective(metric, direction)


def _data(
    top: Fields, description: Description, base: Path, home: Path
) -> tuple[str | None, Path | None]:
    name = top.take("data", str)
    if not description.needs_data:
        if name is not None:
            top.fault("data", f"the trainer '{description.name}' takes none; remove it")
        return None, None
    if name is None:
        top.fault("data", "is missing; name a built-in set (`shapes`) or the path of a data YAML")
        return None, None
    if name in BUILT_IN:
        return name, planned(name, home=home)  # made once everything else is sound
    try:
        path = resolve(name, home=home, base=base)
        require(path)
    except FaultsError as error:
        top.faults.extend(f"data: {fault}" for fault in error.faults)
        return None, None
    return str(path), path


def _check_held_out(
    data: Path, home: Path, progress: Callable[[int, int], None] | None, faults: list[str]
) -> None:
    try:
        held_out(data, home=home, progress=progress)
    except FaultsError as error:
        # One fault with its mend: the way out is the same for all of them
        said = "; ".join(error.faults)
        faults.append(f"data: {said}. {error.hint} Or {NO_PROMOTION}.")


def _baselines(
    values: dict[str, Any],
    space: SearchSpace,
    description: Description,
    train: Mapping[str, Any],
    faults: list[str],
) -> tuple[dict[str, Any], ...]:
    raw = values.get("baselines")
    raw = [] if raw is None else raw
    if not isinstance(raw, list):
        faults.append(f"baselines: is {shown(raw)}, a list of mappings is expected")
        return ()
    defaults = {name: argument.default for name, argument in description.arguments.items()}
    filled = []
    for index, given in enumerate(raw):
        if not isinstance(given, dict):
            faults.append(f"baselines[{index}]: is {shown(given)}, a mapping is expected")
            continue
        try:
            filled.append(space.complete(given, defaults | dict(train)))
        except SpaceFaults as error:
            faults.extend(f"baselines[{index}]: {fault}" for fault in error.faults)
    return tuple(filled)

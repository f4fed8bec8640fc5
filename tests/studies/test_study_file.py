"""Study files and overrides -> specs: what is refused, in which words, and all of it at once."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo.datasets.generated import make_shapes
from hpo.errors import SpecError
from hpo.studies.fields import seconds
from hpo.studies.study_file import TEMPLATE, read_study_file

HOME = Path("nowhere")  # nothing is made there
SIMULATED: dict[str, Any] = {
    "study": "s",
    "trainer": "simulated",
    "search_space": "simulated",
    "budget": {"trials": 6, "epochs": 9},
}
FLAT = """name: flat
description: a space without conditions
trainer: simulated
parameters:
  x: {type: float, low: 0.0, high: 1.0, step: 0.5}
  kind: {type: categorical, choices: [a, b]}
"""


def read(tmp_path: Path, document: Any, overrides: dict[str, Any] | None = None) -> Any:
    """The spec of a file; `document` is its text, or what its YAML means."""
    file = tmp_path / "study.yaml"
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    file.write_text(text, encoding="utf-8")
    return read_study_file(file, overrides or {}, home=HOME)


def faults(tmp_path: Path, document: Any, overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, document, overrides)
    assert caught.value.exit_code == 2
    assert "hpo init" in caught.value.hint
    return list(caught.value.faults)


def changed(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**SIMULATED, **changes}.items() if value is not ...}


def test_the_built_in_study_is_valid() -> None:
    """With no file, the template makes the quick study on drawn shapes with the YOLO trainer."""
    spec = read_study_file(None, {}, home=HOME)
    assert (spec.study, spec.trainer, spec.data) == ("shapes-quick", "yolo", "shapes")
    assert (spec.budget.trials, spec.budget.epochs, spec.budget.timeout_s) == (12, 8, 7200)
    assert spec.baselines == ({"lr0": 0.01, "momentum": 0.937, "nbs": 64, "scale": 0.5},)


def test_the_shortest_file_takes_stated_defaults(tmp_path: Path) -> None:
    """Name, trainer, space and budget are enough."""
    spec = read(tmp_path, SIMULATED)
    assert (spec.sampler.name, spec.pruner.name, spec.seed) == ("tpe", "hyperband", 0)
    assert spec.sampler.options["startup_trials"] == 10
    assert (spec.objective.metric, spec.objective.direction) == ("mAP50", "maximize")
    assert (spec.promotion.model, spec.promotion.alias) == ("s", "champion")
    assert spec.baselines == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tranier": "yolo"}, "tranier: unknown key (did you mean 'trainer'?)"),
        ({"budget": {"trials": 3, "epochs": 3, "epoch": 3}}, "budget.epoch: unknown key (did you"),
        ({"sampler": {"name": "tpe", "seeds": 1}}, "sampler.seeds: unknown key (did you mean 'see"),
        ({"sampler": {"name": "random", "startup_trials": 1}}, "sampler.startup_trials: unknown k"),
        ({"pruner": {"name": "none", "min_epochs": 1}}, "pruner.min_epochs: unknown key"),
        ({"objective": {"metrics": "mAP50"}}, "objective.metrics: unknown key (did you mean 'metr"),
        ({"promotion": {"aliass": "x"}}, "promotion.aliass: unknown key (did you mean 'alias'?)"),
        ({"train": {"epoch_ms": 1}}, "train.epoch_ms: unknown argument (did you mean 'epoch_s'?)"),
        ({"baselines": [{"z": 1}]}, "baselines[0]: z: the search space has no such parameter"),
        ({"trainer": "yolov8"}, "trainer: 'yolov8' is unknown (did you mean 'yolo'?)"),
        ({"sampler": "tpee"}, "sampler.name: 'tpee' is unknown (did you mean 'tpe'?)"),
        ({"pruner": "hyperbend"}, "pruner.name: 'hyperbend' is unknown (did you mean 'hyperband'?"),
        ({"search_space": "simulate"}, "search_space: the space: neither built in nor a file (did"),
        ({"objective": {"metric": "map50"}}, "objective.metric: 'map50' is unknown (did you mean"),
        ({"objective": {"direction": "max"}}, "objective.direction: 'max' is unknown"),
        ({"objective": {"metric": "loss", "direction": "maximize"}}, "objective.direction: loss i"),
        ({"study": ...}, "study: is missing; give the study a name"),
        ({"study": ""}, "study: is empty, a name is expected"),
        ({"study": 12}, "study: is 12, a text is expected"),
        ({"study": "a/b"}, "study: 'a/b' must not have '/'"),
        ({"study": "a\tb"}, "study: 'a\\tb' must have no space at its ends, no line break"),
        ({"study": "-a"}, "study: '-a' must not start with '-'"),
        ({"study": "n" * 201}, "study: has 201 characters, at most 200 are expected"),
        ({"budget": ...}, "budget.trials: is missing; say how many trials"),
        ({"budget": 12}, "budget: is 12, a mapping is expected"),
        ({"budget": {"trials": 0, "epochs": 9}}, "budget.trials: is 0, at least 1 is expected"),
        ({"budget": {"trials": -3, "epochs": 9}}, "budget.trials: is -3, at least 1 is expected"),
        ({"budget": {"trials": 2**31, "epochs": 9}}, "budget.trials: is 2147483648, at most 21474"),
        ({"budget": {"trials": 1.5, "epochs": 9}}, "budget.trials: is 1.5, a whole number is expe"),
        ({"budget": {"trials": True, "epochs": 9}}, "budget.trials: is True, a whole number is ex"),
        ({"budget": {"trials": "12", "epochs": 9}}, "budget.trials: is '12', a whole number is ex"),
        ({"budget": {"trials": 3}}, "budget.epochs: is missing; say how many epochs a trial has"),
        ({"budget": {"trials": 3, "epochs": None}}, "budget.epochs: is missing; say how many epoc"),
        ({"budget": {"trials": 3, "epochs": 0}}, "budget.epochs: is 0, at least 1 is expected"),
        ({"sampler": {"name": "tpe", "seed": -1}}, "sampler.seed: is -1, at least 0 is expected"),
        ({"sampler": {"name": "tpe", "seed": 2**32}}, "sampler.seed: is 4294967296, at most 42949"),
        ({"sampler": {"name": "tpe", "startup_trials": -1}}, "sampler.startup_trials: is -1, at l"),
        ({"sampler": {"name": "tpe", "multivariate": 1}}, "sampler.multivariate: is 1, true or fa"),
        ({"sampler": {"name": ["tpe"]}}, "sampler.name: is ['tpe'], a text is expected"),
        ({"sampler": 5}, "sampler: is 5, a mapping is expected"),
        ({"pruner": {"name": "hyperband", "reduction_factor": 1}}, "pruner.reduction_factor: is 1"),
        ({"pruner": {"name": "percentile", "percentile": 101}}, "pruner.percentile: is 101.0, at"),
        ({"pruner": {"name": "percentile", "percentile": float("nan")}}, "pruner.percentile: is n"),
        ({"pruner": {"name": "hyperband", "min_epochs": 10}}, "pruner.min_epochs: is 10, at most"),
        ({"train": 5}, "train: is 5, a mapping is expected"),
        ({"train": ["a"]}, "train: is ['a'], a mapping is expected"),
        ({"train": {True: 1}}, "train: the key True is no text: quote it"),
        ({"train": {"epoch_s": "fast"}}, "train.epoch_s: 'fast' is not a number"),
        ({"train": {"epoch_s": -1}}, "train.epoch_s: -1 is below the smallest value 0"),
        ({"train": {"epoch_s": float("nan")}}, "train.epoch_s: nan is not a number"),
        ({"train": {"x": 0.5}}, "search_space.x: it is fixed under `train:` too; keep one of the"),
        ({"train": {"epochs": 5}}, "train.epochs: set budget.epochs instead"),
        ({"train": {"seed": 5}}, "train.seed: set sampler.seed instead"),
        ({"baselines": {"x": 1}}, "baselines: is {'x': 1}, a list of mappings is expected"),
        ({"baselines": {}}, "baselines: is {}, a list of mappings is expected"),
        ({"baselines": [3]}, "baselines[0]: is 3, a mapping is expected"),
        ({"baselines": [{"x": 7}]}, "baselines[0]: x: 7.0 lies outside 0.0 to 1.0"),
        ({"baselines": [{"kind": "c"}]}, "baselines[0]: kind: 'c' is none of 'a', 'b'"),
        ({"baselines": [{}] * 7}, "budget.trials: is 6, but there are 7 baselines, which count to"),
        ({"promotion": {"alias": "latest"}}, "promotion.alias: 'latest' is reserved by MLflow"),
        ({"promotion": {"alias": "Latest"}}, "promotion.alias: 'Latest' is reserved by MLflow"),
        ({"promotion": {"alias": "v12"}}, "promotion.alias: 'v12' is reserved by MLflow"),
        ({"promotion": {"alias": "V1"}}, "promotion.alias: 'V1' is reserved by MLflow"),
        ({"promotion": {"alias": "a b"}}, "promotion.alias: 'a b' is none that MLflow takes"),
        ({"promotion": {"alias": ""}}, "promotion.alias: '' is none that MLflow takes"),
        ({"promotion": {"model": "a/b"}}, "promotion.model: 'a/b' must not have '/'"),
        ({"promotion": {"model": "a:b"}}, "promotion.model: 'a:b' must not have ':'"),
        ({"promotion": {"model": ".."}}, "promotion.model: '..' must not start with '.'"),
        ({"promotion": {"model": ""}}, "promotion.model: is empty, a name is expected"),
        ({"study": "a:b"}, "promotion.model: is missing; the study's name 'a:b' has ':'"),
        ({"data": "shapes"}, "data: the trainer 'simulated' takes none; remove it"),
        ({"search_space": "yolov8n-quick"}, "search_space: 'yolov8n-quick' is for the trainer 'yo"),
        ({"sampler": "grid"}, "sampler.name: 'grid' needs a space without conditions; depth exist"),
        ({"sampler": "qmc"}, "sampler.name: 'qmc' needs a space without conditions; depth exist"),
    ],
)  # fmt: skip
def test_a_fault_is_named_by_its_key(tmp_path: Path, changes: Any, expected: str) -> None:
    """The key, what was given and what is expected; for a typing error, the nearest known word."""
    found = faults(tmp_path, changed(**changes))
    assert [fault for fault in found if fault.startswith(expected)], found


@pytest.mark.parametrize("value", ["tpe", {"name": "tpe"}, {}, None])
def test_one_wrong_key_is_one_fault(tmp_path: Path, value: Any) -> None:
    """A fault does not make others of keys that are right."""
    assert len(faults(tmp_path, changed(sampler=value, tranier="yolo"))) == 1


def test_an_unknown_sampler_is_one_fault_whatever_its_options(tmp_path: Path) -> None:
    """Options of a sampler that does not exist cannot be judged, so they are not."""
    found = faults(tmp_path, changed(sampler={"name": "tpee", "startup_trials": 3, "x": 1}))
    assert found == ["sampler.name: 'tpee' is unknown (did you mean 'tpe'?)"]


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    """One run of the command tells everything that must be mended."""
    wrong = changed(
        budget={"trials": 0, "epochs": 9, "timeout": "soon"},
        sampler={"name": "tpe", "startup_trails": 3},
        objective={"metric": "f1"},
        train={"epoch_s": -1},
        baselines=[{"x": 7}],
        promotion={"alias": "v1"},
        mystery=1,
    )
    keys = sorted(fault.partition(":")[0] for fault in faults(tmp_path, wrong))
    assert keys == [
        "baselines[0]",
        "budget.timeout",
        "budget.trials",
        "mystery",
        "objective.metric",
        "promotion.alias",
        "sampler.startup_trails",
        "train.epoch_s",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (90, 90), ("90", 90), ("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400),
        ("1d", 86400), ("0.5h", 1800), ("3650d", 315_360_000), (1.5, 1.5), (" 2h ", 7200),
        (0, None), (-5, None), ("-5s", None), ("0s", None), ("", None), ("soon", None),
        ("30m1h", None), ("1h 30m", None), (True, None), ([], None), (float("nan"), None),
        (float("inf"), None), ("inf", None), ("3651d", None), (1e300, None), ("2 h", None),
    ],
)  # fmt: skip
def test_durations(given: Any, expected: float | None) -> None:
    """Seconds, or a number with its unit; nothing of zero or below, or beyond ten years."""
    assert seconds(given) == expected


@pytest.mark.parametrize("given", [0, -1, "soon", "", "4000d", True, [1]])
def test_a_bad_timeout_is_a_fault(tmp_path: Path, given: Any) -> None:
    """A timeout that is no duration is not taken for «no timeout»."""
    budget = {"trials": 3, "epochs": 3, "timeout": given}
    (fault,) = faults(tmp_path, changed(budget=budget, pruner="none"))
    assert fault.startswith("budget.timeout: is ")
    assert "90s, 45m or 1h30m" in fault


def test_a_grid_must_be_as_large_as_the_budget_less_the_baselines(tmp_path: Path) -> None:
    """Six points and one baseline are seven trials, no fewer and no more."""
    (tmp_path / "flat.yaml").write_text(FLAT)
    grid = changed(search_space="flat.yaml", sampler="grid", baselines=[{"x": 0.5}])
    for trials in (6, 8):
        (fault,) = faults(tmp_path, grid, {"budget": {"trials": trials}})
        assert fault == (
            f"budget.trials: is {trials}, but the grid has 6 points and there are 1 baselines; "
            "set it to 7"
        )
    assert read(tmp_path, grid, {"budget": {"trials": 7}}).budget.trials == 7


def test_a_grid_over_a_continuum_is_refused(tmp_path: Path) -> None:
    """The parameter that needs a step is named."""
    (tmp_path / "flat.yaml").write_text(FLAT.replace(", step: 0.5", ""))
    found = faults(tmp_path, changed(search_space="flat.yaml", sampler="grid"))
    assert found == [
        "sampler.name: grid: parameters.x: is continuous, a grid needs a step: add `step`"
    ]


def epochs_space(tmp_path: Path, when: str = "") -> dict[str, Any]:
    text = FLAT + f"  epochs: {{type: int, low: 2, high: 9{when}}}\n"
    (tmp_path / "epochs.yaml").write_text(text)
    return changed(search_space="epochs.yaml", budget={"trials": 3})


def test_searched_epochs_go_without_pruning(tmp_path: Path) -> None:
    """Where `epochs` is searched the pruner is none by default, and budget.epochs is left out."""
    spec = read(tmp_path, epochs_space(tmp_path))
    assert (spec.pruner.name, spec.budget.epochs) == ("none", None)


def test_searched_epochs_refuse_budget_epochs_and_pruners(tmp_path: Path) -> None:
    """Schedules of different lengths cannot be compared at equal epochs."""
    wrong = epochs_space(tmp_path) | {"budget": {"trials": 3, "epochs": 4}, "pruner": "median"}
    first, second = sorted(faults(tmp_path, wrong))
    assert first.startswith("budget.epochs: is refused where the search space searches `epochs`")
    assert second.startswith("pruner.name: 'median' compares trials at equal epochs")


def test_epochs_under_a_condition_are_refused(tmp_path: Path) -> None:
    """A trial in which the parameter does not exist would have no epochs."""
    (fault,) = faults(tmp_path, epochs_space(tmp_path, ", when: {kind: a}"))
    assert fault.startswith("search_space.epochs: has a condition")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"train": {"optimizer": "auto"}}, "search_space.lr0: ignored under `optimizer: auto`"),
        (
            {"train": {"mosaic": 1.0, "close_mosaic": 10}},
            "train.mosaic: without effect, since every one of the 8 epochs is within close_mosaic=",
        ),
        ({"data": "nowhere.yaml"}, "data: no such file: "),
        ({"data": None}, "data: is missing; name a built-in set (`shapes`) or the path of a data"),
        ({"train": {"imgs": 64}}, "train.imgs: unknown argument (did you mean 'imgsz'?)"),
        ({"model": "yolov8n.pth"}, "model: "),
    ],
)  # fmt: skip
def test_what_the_yolo_trainer_refuses_reaches_the_user(
    overrides: dict[str, Any], expected: str
) -> None:
    """Parameters that cannot matter are refused when the study is created."""
    with pytest.raises(SpecError) as caught:
        read_study_file(None, overrides, home=HOME)
    assert [fault for fault in caught.value.faults if fault.startswith(expected)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty, a mapping of keys is expected"),
        ("# only a comment\n", "is empty, a mapping of keys is expected"),
        ("- a\n- b\n", "holds ['a', 'b'], a mapping of keys is expected"),
        ("just words", "holds 'just words', a mapping of keys is expected"),
        ("study: s\nstudy: t\n", "line 2: the key 'study' stands there again, first on line 1"),
        ("study: [", "line 1, column 9: no valid YAML"),
        ("study: s\n  budget: 3\n", "line 2"),
        ("a: !!python/object:os.system {}", "line 1, column 4: no valid YAML"),
    ],
)
def test_a_file_that_is_no_study(tmp_path: Path, text: str, expected: str) -> None:
    """Broken YAML is said with its line; an empty file or a list says what is expected."""
    assert faults(tmp_path, text)[0].startswith(expected)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are one clear fault each."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x00\x81")
    for path, expected in (
        (tmp_path / "none.yaml", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (binary, "the file: no valid YAML"),
    ):
        with pytest.raises(SpecError, match=re.escape(str(path))) as caught:
            read_study_file(path, {}, home=HOME)
        assert caught.value.faults[0].startswith(expected)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    """`1e-3` means a number, as everywhere but in YAML 1.1."""
    text = json.dumps(SIMULATED | {"train": {"epoch_s": "N"}}).replace('"N"', "1e-3")
    assert read(tmp_path, text).train == {"epoch_s": 0.001}


def test_an_override_keeps_the_rest(tmp_path: Path) -> None:
    """An override of one nested key leaves its neighbours, the short form of a sampler included."""
    spec = read(
        tmp_path,
        changed(sampler="random", train={"epoch_s": 0.5, "fail_at": 2}),
        {"sampler": {"seed": 7}, "train": {"epoch_s": 0.1}, "budget": {"trials": 4}},
    )
    assert (spec.sampler.name, spec.seed) == ("random", 7)
    assert spec.train == {"epoch_s": 0.1, "fail_at": 2}
    assert (spec.budget.trials, spec.budget.epochs) == (4, 9)


def test_paths_are_taken_from_the_files_folder(tmp_path: Path, monkeypatch: Any) -> None:
    """Space and data beside the study file are found from anywhere, and data is stored absolute."""
    folder = tmp_path / "project"
    data = make_shapes(folder / "set", imgsz=32, train=1, val=1, test=1)
    template = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    (folder / "s.yaml").write_text(yaml.safe_dump(template | {"data": "set/data.yaml"}))
    monkeypatch.chdir(tmp_path)
    spec = read_study_file(Path("project/s.yaml"), {}, home=tmp_path / ".hpo")
    assert spec.data == str(data)


def test_a_folder_that_is_called_like_no_yaml_is_stored_as_a_path(tmp_path: Path) -> None:
    """Only a built-in set is stored by name: a worker resolves names from another folder."""
    data = make_shapes(tmp_path / "mine", imgsz=32, train=1, val=1, test=1)
    template = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(template | {"data": "mine"}))
    assert read_study_file(file, {}, home=tmp_path / ".hpo").data == str(data)


def test_equal_studies_are_equal_specs(tmp_path: Path) -> None:
    """The template read as a file is the built-in study, whatever the order of its keys."""
    built_in = read_study_file(None, {}, home=HOME)
    text = TEMPLATE.read_text(encoding="utf-8")
    as_file = read(tmp_path, text)
    turned = read(tmp_path, yaml.safe_dump(yaml.safe_load(text), sort_keys=True))
    assert as_file == built_in == turned
    assert as_file.sha256() == built_in.sha256() == turned.sha256()


def test_a_nul_character_is_refused_before_postgresql_meets_it(tmp_path: Path) -> None:
    """PostgreSQL stores none in a text; the study file is refused in words."""
    (tmp_path / "space.yaml").write_text(
        'name: mine\ndescription: "a\\0b"\ntrainer: simulated\n'
        "parameters: {x: {type: float, low: 0.0, high: 1.0}}\n"
    )
    file = tmp_path / "hpo.yaml"
    file.write_text(
        "study: s\ntrainer: simulated\nsearch_space: space.yaml\nbudget: {trials: 1, epochs: 2}\n"
    )
    with pytest.raises(SpecError, match="NUL"):
        read_study_file(file, {}, home=HOME)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    """A named pipe without a writer would hold the command for ever."""
    pipe = tmp_path / "hpo.yaml"
    os.mkfifo(pipe)
    with pytest.raises(SpecError, match="is a pipe"):
        read_study_file(pipe, {}, home=HOME)

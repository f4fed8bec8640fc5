"""Space files are found, read and refused as promised; the built-in ones fit their trainers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from search_spaces.faults import SpaceFaults
from search_spaces.reader import builtin_names, load_space, read_space, space_text

HEAD = "name: mine\ndescription: d\ntrainer: yolo\nparameters:\n"
SOUND = HEAD + "  lr0: {type: float, low: 1e-3, high: 1.5e-1, log: true}\n"


def faults(text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(SpaceFaults) as caught:
        read_space(text, "mine.yaml")
    assert caught.value.what == "mine.yaml"
    return caught.value.faults


def ultralytics_defaults() -> dict[str, Any]:
    """Its documented defaults, read from its file: importing it would take seconds."""
    spec = find_spec("ultralytics")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / "cfg" / "default.yaml").read_text(encoding="utf-8")
    defaults: dict[str, Any] = yaml.safe_load(text)
    return defaults


def test_the_shipped_spaces_are_there() -> None:
    """The names that users and templates rely on."""
    assert builtin_names() == ["simulated", "yolov8n", "yolov8n-quick", "yolov8n-size"]


@pytest.mark.parametrize("name", builtin_names())
def test_a_builtin_space_is_sound_and_bears_its_files_name(name: str) -> None:
    """Every shipped file loads, under the name that it is asked for by."""
    space = load_space(name)
    assert space.name == name
    assert space.trainer == ("yolo" if name.startswith("yolo") else name)


@pytest.mark.parametrize("name", builtin_names())
def test_each_parameter_of_a_builtin_space_has_its_reason(name: str) -> None:
    """No shipped range stands without a comment that says what it is for."""
    parameters = [line for line in space_text(name).decode().splitlines() if "type:" in line]
    assert len(parameters) == len(load_space(name).parameters)
    assert all("  # " in line for line in parameters)


@pytest.mark.parametrize("name", ["yolov8n", "yolov8n-quick"])
def test_the_trainers_defaults_lie_inside(name: str) -> None:
    """A baseline `{}`, the trainer as it comes, is a point of the space."""
    space, defaults = load_space(name), ultralytics_defaults()
    values = space.complete({}, defaults)
    assert values == {parameter.name: defaults[parameter.name] for parameter in space.searched}


def test_the_quick_space_has_four_parameters() -> None:
    """Few enough for twelve trials."""
    assert len(load_space("yolov8n-quick").searched) == 4


def test_the_size_space_needs_explicit_baselines() -> None:
    """Epochs and image size of a short study lie far below the trainer's defaults."""
    space = load_space("yolov8n-size")
    assert space.bounds() == {"epochs": (2, 5), "imgsz": (320, 416)}
    with pytest.raises(SpaceFaults, match="the trainer's default 100 lies outside 2 to 5"):
        space.complete({}, ultralytics_defaults())


def test_the_simulated_space_has_every_kind_and_a_condition() -> None:
    """Load and fault tests meet conditional parameters, too."""
    space = load_space("simulated")
    defaults = {"x": 0.2, "y": 0.1, "kind": "a", "depth": 2}
    assert list(space.complete({}, defaults)) == ["x", "y", "kind"]
    assert list(space.complete({"kind": "b"}, defaults)) == ["x", "y", "kind", "depth"]


def test_numbers_without_a_point_are_numbers() -> None:
    """1e-3, which PyYAML takes for text, means what everybody means by it."""
    assert read_space(SOUND, "mine.yaml").bounds() == {"lr0": (0.001, 0.15)}
    text = HEAD + "  p: {type: categorical, choices: [1e3, .5E+1, 2.e1, -1e-2, 1e, e1, '1e3', 1]}\n"
    choices = read_space(text, "mine.yaml").bounds()["p"]
    assert choices == (1000.0, 5.0, 20.0, -0.01, "1e", "e1", "1e3", 1)


def test_a_path_is_taken_from_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study file names spaces from its own folder; a command from the current one."""
    (tmp_path / "mine.yaml").write_text(SOUND)
    assert load_space("mine.yaml", tmp_path).name == "mine"
    assert load_space(str(tmp_path / "mine.yaml"), Path("elsewhere")).name == "mine"
    monkeypatch.chdir(tmp_path)
    assert load_space("./mine.yaml").name == "mine"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("yolo8n-quick", "(did you mean 'yolov8n-quick'?)"),
        ("min.yaml", "(did you mean 'mine.yaml'?)"),
        ("deep/inner.yml", "(did you mean 'deep/inner.yaml'?)"),
        ("mine.yaml/x", "(known: simulated, yolov8n, yolov8n-quick, yolov8n-size)"),
        ("zzz", "(known: simulated, yolov8n, yolov8n-quick, yolov8n-size)"),
    ],
)
def test_an_unknown_space_names_the_nearest(tmp_path: Path, name: str, expected: str) -> None:
    """Built-in names and files beside the one that was meant are offered."""
    (tmp_path / "mine.yaml").write_text(SOUND)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "inner.yaml").write_text(SOUND)
    with pytest.raises(SpaceFaults) as caught:
        load_space(name, tmp_path)
    assert caught.value.what == name
    assert caught.value.faults[0].startswith("the space: neither built in nor a file")
    assert caught.value.faults[0].endswith(expected)


@pytest.mark.parametrize("name", [".", "a\0b", ""])
def test_what_cannot_be_read_is_one_fault(tmp_path: Path, name: str) -> None:
    """A folder, or a name that no file can have, is no crash."""
    with pytest.raises(SpaceFaults, match="the file: cannot be read"):
        load_space(name, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "  lr0: {type: float, low: 1\n", "line 6, column 1: no valid YAML: expected ','"),
        (HEAD + "\tlr0: 1\n", "line 5, column 1: no valid YAML"),
        ("a: *b\n", "line 1, column 4: no valid YAML: found undefined alias"),
        ("!!python/object:os.system {}\n", "line 1, column 1: no valid YAML"),
        (SOUND + "---\nb: 1\n", "line 6, column 1: no valid YAML"),
        (HEAD + "  ? [a]\n  : 1\n", "line 5, column 5: no valid YAML"),
        (b"name: \xff\xfe", "the file: no valid YAML"),
        (b"name: \x00", "the file: no valid YAML"),
        ("name: 2024-13-45\n", "the file: no valid YAML: month must be in 1..12"),
        ("[" * 10_000, "the file: no valid YAML: nested too deeply"),
        ("", "the file: expected a mapping"),
        ("- a\n", "the file: expected a mapping"),
    ],
)
def test_what_is_no_yaml_mapping_is_one_fault(text: str | bytes, expected: str) -> None:
    """Broken YAML is one sentence with its line, never a traceback."""
    found = faults(text)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_repeated_keys_are_refused_with_the_other_faults() -> None:
    """PyYAML keeps the last of two equal keys: here both lines are named, with all other faults."""
    text = SOUND + "  lr0: {type: float, low: 3, high: 2, low: 4}\nname: again\n"
    assert faults(text) == (
        "line 7: the key 'name' stands there again, first on line 1",
        "line 6: the key 'lr0' stands there again, first on line 5",
        "line 6: the key 'low' stands there again, first on line 6",
        "parameters.lr0.low: 4 is above high, 2: exchange them",
    )


def test_merge_keys_may_be_overridden() -> None:
    """`<<` is YAML's own way to say a key twice, and no fault."""
    text = HEAD + (
        "  a: &a {type: float, low: 0, high: 1}\n  b: {<<: *a, high: 2}\n  c: {<<: *a, low: -1}\n"
    )
    assert read_space(text, "mine.yaml").bounds() == {"a": (0, 1), "b": (0, 2), "c": (-1, 1)}

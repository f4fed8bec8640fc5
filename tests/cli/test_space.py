"""`hpo space` lists, shows and checks, and refuses with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from hpo.cli.space import space
from hpo.errors import SpaceError
from search_spaces.reader import builtin_names, load_space, read_space

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """name: mine
description: d
trainer: yolo
parameters:
  optimizer: {type: categorical, choices: [SGD, AdamW]}
  momentum: {type: float, low: 0.8, high: 0.98, step: 0.01, when: {optimizer: SGD}}
  cos_lr: {type: fixed, value: true}
"""
BAD = GOOD.replace("low: 0.8", "low: 1.8").replace("value: true", "vale: true")


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(space, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def hpo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, as a user meets it."""
    command = [sys.executable, "-c", "from hpo.cli.main import main; main()", "space", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_help_shows_a_file_that_works() -> None:
    """The example of `hpo space --help`, pasted into a file, is a sound space of every kind."""
    _, _, rest = invoke("--help").partition("of your own:\n")
    example, _, _ = rest.partition("`when`")
    found = read_space(textwrap.dedent(example), "example")
    kinds = [parameter.kind for parameter in found.parameters]
    assert kinds == ["float", "float", "int", "categorical", "float", "fixed"]


def test_list_names_every_space() -> None:
    """Name, trainer, how much is searched, and what it is for."""
    lines = invoke("list").splitlines()
    assert lines[0].split() == ["NAME", "TRAINER", "SEARCHED", "DESCRIPTION"]
    assert lines[1].startswith("simulated      simulated  4         A simulated")
    documents = json.loads(invoke("list", "--json"))
    assert [document["name"] for document in documents] == [line.split()[0] for line in lines[1:]]


def test_show_tells_ranges_scales_and_conditions(tmp_path: Path) -> None:
    """What varies, how far, and when, as one table."""
    (tmp_path / "mine.yaml").write_text(GOOD)
    lines = [
        " ".join(line.split()) for line in invoke("show", str(tmp_path / "mine.yaml")).splitlines()
    ]
    assert lines == [
        "mine (trainer yolo): d",
        "",
        "PARAMETER TYPE VALUES SCALE ONLY WHERE",
        "optimizer categorical SGD, AdamW",
        "momentum float 0.8 to 0.98 step 0.01 optimizer is SGD",
        "cos_lr fixed True",
    ]


def test_show_json_is_the_stored_form() -> None:
    """A program gets what a study stores."""
    assert json.loads(invoke("show", "yolov8n", "--json")) == load_space("yolov8n").to_dict()


def test_show_yaml_prints_a_file_to_start_from(tmp_path: Path) -> None:
    """The printed file, comments included, is itself a space that passes the check."""
    text = invoke("show", "yolov8n", "--yaml")
    assert "# initial learning rate" in text
    (tmp_path / "copy.yaml").write_text(text)
    assert ": ok, 25 parameters (lr0, lrf," in invoke("check", str(tmp_path / "copy.yaml"))


def test_check_reports_every_fault_of_every_file(tmp_path: Path) -> None:
    """Sound files are said to be, faulty ones all listed, in one go."""
    good, bad, gone = (str(tmp_path / name) for name in ("good.yaml", "bad.yaml", "gone.yaml"))
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    result = CliRunner().invoke(space, ["check", good, bad, gone])
    assert result.stdout == f"{good}: ok, 3 parameters (optimizer, momentum, cos_lr)\n"
    assert isinstance(result.exception, SpaceError)
    assert [fault.split(": ")[:2] for fault in result.exception.faults] == [
        [bad, "parameters.momentum.low"],
        [bad, "parameters.cos_lr.vale"],
        [bad, "parameters.cos_lr.value"],
        [gone, "the space"],
    ]


def test_check_asks_the_trainer(tmp_path: Path) -> None:
    """A parameter that the trainer does not know, or a range it refuses, is found at once."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\ndescription: d\ntrainer: simulated\nparameters:\n"
        "  depht: {type: int, low: 1, high: 8}\n  x: {type: float, low: 0, high: 2}\n"
    )
    result = CliRunner().invoke(space, ["check", str(file)])
    assert isinstance(result.exception, SpaceError)
    assert result.exception.faults == (
        "parameters.depht: the trainer 'simulated' has no such argument (did you mean 'depth'?)",
        "parameters.x: 2.0 is above the largest value 1",
    )
    file.write_text(GOOD.replace("trainer: yolo", "trainer: yolov8"))
    result = CliRunner().invoke(space, ["check", str(file)])
    assert isinstance(result.exception, SpaceError)
    assert result.exception.faults[0].startswith("trainer: 'yolov8' is not installed")


@pytest.mark.parametrize("name", builtin_names())
def test_the_shipped_spaces_pass_the_check(name: str) -> None:
    """Each fits its trainer as it is today."""
    assert invoke("check", name).startswith(f"{name}: ok, ")


@pytest.mark.parametrize(
    "arguments", [["check"], ["show"], ["show", "yolov8n", "--yaml", "--json"]]
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    """Missing or contradicting arguments are wrong usage."""
    assert CliRunner().invoke(space, arguments).exit_code == 2


def test_a_faulty_file_is_one_clear_message_and_exit_2(tmp_path: Path) -> None:
    """Through the real command line: faults on stderr, nothing on stdout, no traceback."""
    (tmp_path / "bad.yaml").write_text(BAD)
    result = hpo("check", str(tmp_path / "bad.yaml"), "--json")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"hpo: {tmp_path / 'bad.yaml'}: 3 faults\n  - parameters.")
    assert "unknown key (did you mean 'value'?)" in result.stderr
    assert "hpo space show NAME --yaml" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_space_offers_the_nearest() -> None:
    """A slip in a built-in name is answered with the name."""
    result = hpo("show", "yolo8n")
    assert result.returncode == 2
    assert "(did you mean 'yolov8n'?)" in result.stderr


def test_looking_at_spaces_loads_no_optuna() -> None:
    """`hpo space list` answers at once: nothing heavy is imported for it."""
    code = (
        "import sys; from click.testing import CliRunner; from hpo.cli.space import space; "
        "print(CliRunner().invoke(space, ['list']).exit_code, 'optuna' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "0 False\n"

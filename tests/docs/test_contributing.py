"""CONTRIBUTING.md is true: targets, commands, files and names that it speaks of exist."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from support.sources import PACKAGES, ROOT, code_spans, make_targets, shell_lines, targets_in

from hpo.cli.main import COMMANDS

PAGE = ROOT / "CONTRIBUTING.md"
PAGES = [ROOT / "README.md", PAGE, *sorted((ROOT / "docs").glob("*.md"))]
# A place in this repository, and not one with a part that the reader chooses, as tests/test_NAME.py
PLACE = re.compile(r"\.?[\w-]+(/[\w.-]+)*/?")
CHOSEN = re.compile(r"[A-Z]{2,}")
TOPS = {*PACKAGES, "tests", "docs", "deploy", "benchmarks", ".ci", ".github"}


def places(page: Path) -> list[str]:
    """The files and folders of this repository that a page names between backticks."""
    spans = [span for span in code_spans(page) if PLACE.fullmatch(span) and "/" in span]
    spans = [span for span in spans if not CHOSEN.search(span.replace("README", ""))]
    return [span for span in spans if span.partition("/")[0] in TOPS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_folder_that_a_page_names_exists(page: Path) -> None:
    """No page leads to a place that was renamed."""
    assert [place for place in places(page) if not (ROOT / place).exists()] == []


def test_files_of_the_root_exist() -> None:
    """Those that this page alone names without a folder."""
    files = [one for one in code_spans(PAGE) if re.fullmatch(r"[\w-]+\.(toml|ya?ml|txt|md)", one)]
    assert "pyproject.toml" in files
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_places_are_found_at_all() -> None:
    """The pages above would pass with a reader that finds nothing."""
    assert {"hpo/trainer.py", "tests/support/", ".github/workflows/ci.yml"} <= {*places(PAGE)}


def test_every_make_target_is_explained_and_none_is_invented() -> None:
    """What `make help` lists stands in the table, and the other way round."""
    assert targets_in(PAGE.read_text(encoding="utf-8")) == {*make_targets()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_calls_a_make_target_that_is_not_there(page: Path) -> None:
    """Targets are called between backticks or in blocks of commands."""
    text = "\n".join([*code_spans(page), *shell_lines(page)])
    assert targets_in(text) <= {*make_targets()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_between_backticks_are_those_of_hpo(page: Path) -> None:
    """Those of blocks are tried with their options by test_readme.py."""
    named = [span.split()[1] for span in code_spans(page) if re.match(r"hpo [a-z]", span)]
    assert {*named} <= {*COMMANDS}


def test_every_command_shown_can_be_run() -> None:
    """Programs of .venv are installed, and what pytest is given exists."""
    lines = [shlex.split(line) for line in shell_lines(PAGE)]
    assert {words[0] for words in lines if words[0] != "make"} >= {".venv/bin/python"}
    for words in lines:
        program = words[0].removeprefix(".venv/bin/")
        assert program == "make" or (Path(sys.executable).parent / program).exists(), program
        tests = [word for word in words if word.startswith("tests/")]
        assert [place for place in tests if not (ROOT / place).exists()] == []


def test_every_name_of_the_code_is_there() -> None:
    """Classes, functions and tables of the code that are to be changed bear the names given."""
    files = [file for top in (*PACKAGES, "tests") for file in (ROOT / top).rglob("*.py")]
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    names = {span for span in code_spans(PAGE) if re.fullmatch(r"[A-Z]\w+|[a-z]+(_[a-z]+)+", span)}
    assert {"SAMPLERS", "make_sampler", "TrainerContract", "Kind"} <= names
    defined = r"(?:class|def) {0}\b|^{0}\b[^=\n]*="
    assert [one for one in names if not re.search(defined.format(one), code, re.MULTILINE)] == []

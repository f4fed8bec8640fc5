"""The tree is the one of docs/architecture.md: few entries, small folders and files, described."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest
from support.sources import PACKAGES, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_ENTRIES, MOST_FILES, MOST_LINES = 13, 20, 600
MOST_FIELDS = 4  # of a record that may be built by position
TOPS = (*PACKAGES, "tests")
SOURCES = {".py", ".sql"}
# What a module is not belongs into an import contract, which checks it
NOT = re.compile(
    r"\b((know|decide|open|write|import|load|read|print|judge|claim)s no|does nothing)"
)


def place(path: Path) -> str:
    """A path as the pages write it."""
    return path.relative_to(ROOT).as_posix()


def folders() -> Iterator[Path]:
    """Every folder with sources or tests."""
    for top in TOPS:
        for folder in (ROOT / top, *sorted((ROOT / top).rglob("*/"))):
            if folder.name != "__pycache__" and any(folder.glob("*.py")):
                yield folder


def first_line(file: Path) -> str:
    """The first line of a module's docstring; "" without one."""
    return (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").partition("\n")[0]


def drawn() -> list[str]:
    """The folders of the tree in docs/architecture.md, as places."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    tree = page.partition("## Layout")[2].partition("```text\n")[2].partition("```")[0]
    found: list[str] = []
    above: list[str] = []
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth:] = [name.removesuffix("/")]
        found.append("/".join(above))
    return found


def test_the_package_has_few_entries() -> None:
    """A reader sees the service at one glance."""
    beside = {"__init__.py", "__pycache__", "py.typed"}
    entries = sorted(path.name for path in (ROOT / "hpo").iterdir() if path.name not in beside)
    assert len(entries) <= MOST_ENTRIES, entries


def test_no_folder_is_crowded() -> None:
    """A folder with more files is two."""
    counts = {
        place(folder): sum(path.is_file() and path.suffix != ".pyc" for path in folder.iterdir())
        for folder in folders()
    }
    assert {where: n for where, n in counts.items() if n > MOST_FILES} == {}


def test_no_file_is_long() -> None:
    """A file is read together; above this nobody does."""
    files = [file for top in TOPS for file in (ROOT / top).rglob("*") if file.suffix in SOURCES]
    lengths = {place(file): len(file.read_text("utf-8").splitlines()) for file in files}
    assert {where: lines for where, lines in lengths.items() if lines > MOST_LINES} == {}


def test_the_tree_of_the_page_is_the_real_one() -> None:
    """Every folder drawn is there, and every package and every folder of tests is drawn."""
    tree = drawn()
    assert "hpo/storage/postgres" in tree
    assert [where for where in tree if not (ROOT / where).is_dir()] == []
    packages = [place(folder) for folder in folders() if (folder / "__init__.py").exists()]
    tests = [place(folder) for folder in folders() if folder.parent == ROOT / "tests"]
    assert {*packages, *tests} - {*tree} == set()


@pytest.mark.parametrize("top", PACKAGES)
def test_modules_say_first_what_they_do(top: str) -> None:
    """Each has a docstring, whose first line says what there is and not what there is not."""
    first = {place(file): first_line(file) for file in (ROOT / top).rglob("*.py")}
    assert [where for where, line in first.items() if not line] == []
    assert {where: line for where, line in first.items() if NOT.search(line)} == {}


def many_fields(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(class, how it is made a dataclass) of each record with more than a few fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            made = [text for text in map(ast.unparse, node.decorator_list) if "dataclass" in text]
            fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
            if made and len(fields) > MOST_FIELDS:
                yield node.name, made[0]


def test_records_of_many_fields_are_built_by_name() -> None:
    """Two neighbours of one type swap without an error where a record is built by position."""
    found = [
        f"{place(file)}:{name}"
        for top in PACKAGES
        for file in (ROOT / top).rglob("*.py")
        for name, made in many_fields(ast.parse(file.read_text("utf-8")))
        if "kw_only=True" not in made
    ]
    assert found == []

"""Named SQL statements: each module runs those of the file beside it."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import hpo
from hpo.storage.postgres.queries import Queries

ROOT = Path(hpo.__file__).parent
FILES = sorted(one for one in ROOT.rglob("*.sql") if "migrations" not in one.parts)
MOST = 10  # modules that know SQL


def module_of(file: Path) -> str:
    return ".".join(("hpo", *file.relative_to(ROOT).with_suffix("").parts))


def test_few_modules_know_sql() -> None:
    """Most packages have one of them; the others call its functions."""
    assert 0 < len(FILES) <= MOST


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_module_runs_each_statement_of_its_file_and_no_other(file: Path) -> None:
    """A statement that nobody names is gone from the file, and a name that is used is in it."""
    names = set(Queries(module_of(file)))
    tree = ast.parse(file.with_suffix(".py").read_text(encoding="utf-8"))
    strings = {one.value for one in ast.walk(tree) if isinstance(one, ast.Constant)}
    begun = tuple(
        one.values[0].value
        for one in ast.walk(tree)
        if isinstance(one, ast.JoinedStr) and isinstance(one.values[0], ast.Constant)
    )  # of names such as f"export_{section}"
    named = {
        one.slice.value
        for one in ast.walk(tree)
        if isinstance(one, ast.Subscript)
        and isinstance(one.value, ast.Name)
        and (one.value.id, type(one.slice)) == ("SQL", ast.Constant)
    }
    assert named <= names
    assert {name for name in names - strings if not name.startswith(begun)} == set()
    assert import_module(module_of(file)).SQL is not None


def test_a_name_that_is_not_there_is_refused() -> None:
    """It is a slip of the module's."""
    with pytest.raises(KeyError, match="no_such_statement"):
        Queries("hpo.claims.claims")["no_such_statement"]

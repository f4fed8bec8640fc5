"""Fixtures that all tests share: of two with one name pytest takes the later and says nothing."""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING

from support.sources import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_each_shared_fixture_has_a_name_of_its_own() -> None:
    files = [ROOT / "tests/conftest.py", *sorted((ROOT / "tests/support").glob("*.py"))]
    names = Counter(name for file in files for name in _fixtures(file))
    assert names["engine"] == 1  # they are found at all
    assert [name for name, count in names.items() if count > 1] == []


def _fixtures(file: Path) -> Iterator[str]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and any(
            "fixture" in ast.unparse(decorator) for decorator in node.decorator_list
        ):
            yield node.name

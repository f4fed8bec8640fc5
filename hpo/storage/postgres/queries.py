"""Load named SQL statements from the project's `.sql` files.

Each statement stands under a line `-- name: the_name` and is read once.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import TextClause

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def _all() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(
        files("hpo.storage.postgres").joinpath("sql").iterdir(), key=lambda f: f.name
    ):
        if file.name.endswith(".sql"):
            _, *parts = _NAME.split(file.read_text(encoding="utf-8"))
            for name, sql in zip(parts[::2], parts[1::2], strict=True):
                if name in found:
                    raise ValueError(f"two statements are named {name}")
                found[name] = sql.strip().rstrip(";")
    return found


@cache
def query(name: str) -> TextClause:
    """The statement of that name.

    Raises:
        KeyError: there is none.
    """
    return text(_all()[name])

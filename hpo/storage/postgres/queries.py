"""Load named SQL statements from the `.sql` files beside the modules that run them.

Each statement stands under a line `-- name: the_name` and is read once.
"""

from __future__ import annotations

import re
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import TextClause

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


class Queries:
    """The statements of the `.sql` file that lies beside a module and has its name.

    Args:
        module: the module's own `__name__`: no other one runs its statements.
    """

    def __init__(self, module: str) -> None:
        self._package, _, self._stem = module.rpartition(".")

    def __getitem__(self, name: str) -> TextClause:
        """The statement of that name.

        Raises:
            KeyError: there is none.
        """
        return self._statements[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)

    @cached_property
    def _statements(self) -> dict[str, TextClause]:
        file = files(self._package).joinpath(f"{self._stem}.sql")
        _, *parts = _NAME.split(file.read_text(encoding="utf-8"))
        found: dict[str, TextClause] = {}
        for name, sql in zip(parts[::2], parts[1::2], strict=True):
            if name in found:
                raise ValueError(f"two statements of {file} are named {name}")
            found[name] = text(sql.strip().rstrip(";"))
        return found

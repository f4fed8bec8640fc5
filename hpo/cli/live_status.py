"""A study's status in a terminal, drawn anew in its place; knows no command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self


def can_draw() -> bool:
    """Whether stdout is a terminal that can go back to a line that it has shown."""
    if not sys.stdout.isatty():
        return False
    from rich.console import Console

    return not Console().is_dumb_terminal


class LiveStatus:
    """The status as a table; only where `can_draw`."""

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(auto_refresh=False)
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, document: dict[str, Any]) -> None:
        """Draw it anew."""
        from hpo.cli.status_view import status_view

        self._live.update(status_view(document), refresh=True)

    def say(self, text: str) -> None:
        """Print a line that stays, above the table."""
        self._live.console.print(f"hpo: {text}", markup=False)

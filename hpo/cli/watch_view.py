"""What a person sees of `hpo status --watch`: drawn in a terminal, else printed as it changes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.common import print_view
from hpo.cli.launch_view import Lines
from hpo.cli.live_status import LiveStatus, can_draw
from hpo.cli.status_view import status_view

if TYPE_CHECKING:
    from typing import Self


def watch_view() -> LiveStatus | Printed:
    """Drawn where the terminal can go back to a line that it has shown."""
    return LiveStatus() if can_draw() else Printed()


class Printed:
    """The status in a file or a pipe: as a whole where more than figures changed, else lines."""

    def __init__(self) -> None:
        self._said = io.StringIO()
        self._lines = Lines(self._said)
        self._seen: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to give back."""

    def show(self, document: dict[str, Any]) -> None:
        """Print what is new in it, at once: somebody may follow the file."""
        self._said.seek(0)
        self._said.truncate()
        self._lines.show(document)
        seen, self._seen = self._seen, _beside_figures(document)
        if seen != self._seen:
            print_view(status_view(document))
        elif lines := self._said.getvalue():
            click.echo(lines, nl=False)


def _beside_figures(document: dict[str, Any]) -> dict[str, Any]:
    """What changes a few times in a study, and not with every epoch."""
    kept = ("state", "warnings", "champion", "decided")
    finals = document["finals"] or {}
    counted = {key: value for key, value in finals.items() if key != "workers"}
    error = document["mirror"].get("error")
    return {key: document.get(key) for key in kept} | {"finals": counted, "mirror": error}

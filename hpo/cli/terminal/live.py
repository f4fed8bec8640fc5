"""What a person sees while a study runs: a live table, or lines where there is no terminal."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.options import print_view
from hpo.cli.terminal.views import duration, number_text, status_view

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
        """Draw the table anew from the document of `hpo status --json`."""
        self._live.update(status_view(document), refresh=True)

    def say(self, text: str) -> None:
        """Print a line that stays, above the table."""
        self._live.console.print(f"hpo: {text}", markup=False)


def follower(*, as_json: bool) -> LiveStatus | Lines:
    """A live table in a terminal, else lines; on stderr where stdout is for JSON."""
    if not as_json and can_draw():
        return LiveStatus()
    return Lines(sys.stderr if as_json else sys.stdout)


class Lines:
    """A line for each new epoch or ended trial, where there is no terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._seen: dict[str, tuple[Any, Any]] = {}
        self._ended = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Give nothing back: lines hold no terminal."""

    def show(self, document: dict[str, Any]) -> None:
        """Print a line for each epoch and each end that is new in the status document."""
        best = document["best"]
        tail = f"best {number_text(best['value'])} (trial {best['number']})" if best else ""
        if document["eta_s"] is not None:
            tail += f"  about {duration(document['eta_s'])} to go"
        for worker in document["workers"]:
            now = (worker["trial"], worker["epoch"])
            if worker["trial"] is None or self._seen.get(worker["worker"]) == now:
                continue
            self._seen[worker["worker"]] = now
            self._print(
                f"trial {worker['trial']}: epoch {worker['epoch'] or 0}/"
                f"{document['budget']['epochs'] or '?'}  {document['metric']} "
                f"{number_text(worker['value'])}  {tail}"
            )
        counts = document["counts"]
        ended = counts["complete"] + counts["pruned"] + counts["failed"]
        if ended != self._ended:
            self._ended = ended
            self._print(f"{ended} of {document['budget']['trials']} trials ended  {tail}")

    def say(self, text: str) -> None:
        """Print a message that is no progress, on stderr as other messages are."""
        click.echo(f"hpo: {text}", err=True)

    def _print(self, line: str) -> None:
        click.echo(line.rstrip(), file=self._stream)


def watch_view() -> LiveStatus | Printed:
    """A live table where the terminal can go back to a shown line, else printed lines."""
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
        """Give nothing back: a file or a pipe holds no terminal."""

    def show(self, document: dict[str, Any]) -> None:
        """Print what is new in the status document, at once: somebody may follow the file."""
        self._said.seek(0)
        self._said.truncate()
        self._lines.show(document)
        seen, self._seen = self._seen, _beside_figures(document)
        if seen != self._seen:
            print_view(status_view(document))
        elif lines := self._said.getvalue():
            click.echo(lines, nl=False)


def _beside_figures(document: dict[str, Any]) -> dict[str, Any]:
    """The part of a status that changes a few times in a study, not with every epoch."""
    kept = ("state", "warnings", "champion", "decided")
    finals = document["finals"] or {}
    counted = {key: value for key, value in finals.items() if key != "workers"}
    error = document["mirror"].get("error")
    return {key: document.get(key) for key in kept} | {"finals": counted, "mirror": error}

"""What a person sees while `hpo launch` runs: a live table, or lines where there is no terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.live_status import LiveStatus, can_draw

if TYPE_CHECKING:
    from typing import Self


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
        """Nothing to give back."""

    def show(self, document: dict[str, Any]) -> None:
        """Print what is new in it."""
        from hpo.cli.status_view import duration, number_text

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
        """Print what is no progress; on stderr, as other messages are."""
        click.echo(f"hpo: {text}", err=True)

    def _print(self, line: str) -> None:
        click.echo(line.rstrip(), file=self._stream)

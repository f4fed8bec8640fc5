"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from hpo.errors import UsageError
from hpo.host.serialization import finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from hpo.settings import Settings

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
)
PATIENCE_S = 2.0  # nothing is said of what takes less
COUNT = click.IntRange(min=1)
FILE_COLUMNS = 240  # of a table that goes into a file or a pipe, where nobody wants folded lines
study_option = click.option(
    "--study",
    "study_name",
    metavar="NAME",
    help="The study meant (default: HPO_STUDY, else the only open one).",
)


def key_value(item: str, option: str, example: str) -> tuple[str, Any]:
    """Key and value of `KEY=VALUE`; the value is YAML, read as in a study file.

    Raises:
        UsageError: it has another form.
    """
    from search_spaces.yaml_text import parse_yaml

    key, mark, text = item.partition("=")
    if not mark or not key.strip():
        raise UsageError(f"{option}{item!r} is not KEY=VALUE, e.g. {example}")
    value, faults = parse_yaml(text)
    if faults:
        raise UsageError(f"{option}{item!r}: the value is no YAML, e.g. {example}")
    return key.strip(), value


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; NaN and infinities become null, as JSON has neither."""
    click.echo(json.dumps(finite(document), indent=2, default=str, allow_nan=False))


def show(as_json: bool, document: Any, text: Callable[[], None]) -> None:
    """Print `document` as JSON, or call `text`, which prints for a person."""
    if as_json:
        print_json(document)
    else:
        text()


def print_view(view: RenderableType) -> None:
    """Print a table or text for a person, folded to the width of a terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_COLUMNS)
    console.print(view)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function that tells stderr every two seconds how far a work is."""
    yield partial(tell_progress(), what)


def tell_progress() -> Callable[[str, int, int], None]:
    """A function that tells stderr what is done now, and every two seconds how far a count is.

    It is called with (what is done, how many are done, how many in all or 0 where unknown); 0 of 0
    is said at once. A count that begins anew is silent for two seconds, like the first.
    """
    told, before = time.monotonic(), 0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal told, before
        now = time.monotonic()
        if not done and not total:
            click.echo(f"hpo: {what}", err=True)
        elif done < before:
            told = now
        elif now - told >= PATIENCE_S:
            told = now
            click.echo(f"{what}: {done}" + (f" of {total}" if total else ""), err=True)
        before = done

    return tell


stall_option = click.option(
    "--stall-timeout", metavar="T", default="2h", show_default=True,
    help="A training without an epoch for so long fails as hung.",
)  # fmt: skip
grace_option = click.option(
    "--grace", metavar="T", default="30s", show_default=True,
    help="Asked to leave, let the epoch end within this time.",
)  # fmt: skip
checkpoint_option = click.option(
    "--checkpoint-every", type=click.IntRange(min=0), metavar="N",
    help="Epochs between two checkpoints, 0 for none (default: HPO_CHECKPOINT_EVERY, else 1).",
)  # fmt: skip


def with_checkpoints(settings: Settings, every: int | None) -> Settings:
    """The settings, with `--checkpoint-every` where it was given."""
    return settings if every is None else replace(settings, checkpoint_every=every)

"""Ctrl-C and SIGTERM for commands that run workers: first in order, then at once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def drain_on_signals(drain: Callable[[], None], text: str) -> list[int]:
    """The first SIGINT or SIGTERM calls `drain`; the second leaves now.

    Args:
        drain: lets the present epochs end and leaves.
        text: said on stderr at the first one.

    Returns:
        The list that the signals heard are put into.
    """
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        del frame
        heard.append(number)
        if len(heard) > 1:
            raise KeyboardInterrupt
        click.echo(f"hpo: {text}; again to leave now", err=True)
        drain()

    signal.signal(signal.SIGINT, hear)
    signal.signal(signal.SIGTERM, hear)
    return heard

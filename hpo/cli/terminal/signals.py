"""Ctrl-C, SIGTERM and a closed terminal, for commands that run workers: in order, then at once."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def drain_on_signals(drain: Callable[[], None], text: str) -> list[int]:
    """The first SIGINT, SIGTERM or SIGHUP calls `drain`; the second leaves now.

    Closing a terminal may send more than one SIGHUP, which count as one. A command under `nohup`
    ignores them.

    Args:
        drain: lets the present epochs end and leaves.
        text: said on stderr at the first one.

    Returns:
        The list that the signals heard are put into.
    """
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP:
            if number in heard:
                return
            _leave_terminal()
        heard.append(number)
        if len(heard) > 1:
            raise KeyboardInterrupt
        click.echo(f"hpo: {text}; again to leave now", err=True)
        drain()

    signal.signal(signal.SIGINT, hear)
    signal.signal(signal.SIGTERM, hear)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hear)
    return heard


def _leave_terminal() -> None:
    """Write to nowhere what would go to the closed terminal, where writing fails."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        if os.isatty(number) or _was_terminal(number):
            os.dup2(nowhere, number)
    os.close(nowhere)


def _was_terminal(number: int) -> bool:
    try:
        os.ttyname(number)
    except OSError as error:
        return error.errno == errno.EIO  # of a closed one; a file or pipe gives ENOTTY
    return True

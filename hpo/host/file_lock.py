"""Lock a file between processes; the lock ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpo.errors import HpoError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLL_S = 0.05


@contextmanager
def file_lock(path: Path, *, wait_s: float) -> Iterator[int]:
    """Hold the lock of `path` inside the block; yields its file descriptor.

    The lock is flock's: it belongs to the open file, so it parts threads as well as processes,
    follows the descriptor into a child that inherits it, and ends with its last holder.

    Args:
        path: the lock's file; it is created and never removed, since removing it would let a
            third process lock a new file beside a second one that waits on the old.
        wait_s: seconds to wait for another holder.

    Raises:
        HpoError: the file cannot be opened, or another process held it for `wait_s` seconds.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise HpoError(
            f"{path} belongs to another user: this one may not lock it",
            hint="Run as the user who made the folder, or set HPO_HOME to a folder of your own.",
        ) from error
    try:
        deadline = time.monotonic() + wait_s
        while not try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise HpoError(
                    f"another process has held {path} for {wait_s:g} s",
                    hint=f"See who: `fuser -v {path}`. When it hangs, end it and try again.",
                )
            time.sleep(POLL_S)
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file when it is free; False when another holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

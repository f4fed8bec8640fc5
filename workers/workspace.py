"""Give a worker a folder of its own for its runs, which does not outlive it.

A worker that was killed leaves its folder behind, with states of tens of megabytes. The lock that
it held there ended with it: the next worker that starts removes the folders whose lock is free.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.host.file_lock import file_lock, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "worker-"
_LOCK = ".lock"
_WAIT_S = 60.0  # for other workers that start at this moment


@contextmanager
def own_folder(runs: Path) -> Iterator[Path]:
    """A folder below `runs`, gone at the end of the block; those of dead workers are removed.

    Raises:
        OSError: it cannot be made.
    """
    runs.mkdir(parents=True, exist_ok=True)
    # No other worker takes the folder for a dead one's before its lock is held
    with file_lock(runs / _LOCK, wait_s=_WAIT_S):
        for folder in runs.glob(f"{PREFIX}*"):
            _remove_if_dead(folder)
        own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=runs))
        lock = os.open(own / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try_lock(lock)
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        os.close(lock)


def _remove_if_dead(folder: Path) -> None:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # killed before it locked, or removed by its worker just now
        shutil.rmtree(folder, ignore_errors=True)
        return
    except PermissionError:  # another user's, who removes it
        return
    try:
        if try_lock(lock):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)

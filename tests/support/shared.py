"""What all processes of one test run share: made once, by whoever needs it first, under a lock."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpo.host.file_lock import file_lock

if TYPE_CHECKING:
    from collections.abc import Callable

# Names the run's folder to the processes that pytest-xdist starts
VARIABLE = "TESTS_OF_ONE_RUN"
WAIT_S = 550.0  # for another process to make it: a training of 30 epochs on a loaded machine


class Shared:
    """A folder of the whole run, gone after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def once(self, name: str, make: Callable[[Path], str]) -> str:
        """What `make` returned to the first caller of the run.

        Args:
            name: of what is made.
            make: gets an empty folder of that name, which stays until the run's end.
        """
        said, place = self.folder / f"{name}.made", self.folder / name
        with file_lock(self.folder / f"{name}.lock", wait_s=WAIT_S):
            if not said.exists():
                shutil.rmtree(place, ignore_errors=True)  # what somebody began who failed
                place.mkdir()
                said.write_text(make(place), encoding="utf-8")
            return said.read_text(encoding="utf-8")


def begin() -> None:
    """Make the folder; called by the run's first process before it starts others."""
    os.environ[VARIABLE] = tempfile.mkdtemp(prefix="hpo-tests-")


def end() -> None:
    """Stop the server that the run has started, drop what it left on a given one."""
    from support.postgres import end_of_run

    folder = Path(os.environ[VARIABLE])
    end_of_run(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared() -> Shared:
    """What this process shares with the run's others."""
    return Shared(Path(os.environ[VARIABLE]))

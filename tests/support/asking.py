"""What a command answers: its exit code and what it printed.

Most commands run in this process, just as the console script runs them: an interpreter's start
costs more than all that they do. The others are real processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.command_line import HPO

from hpo.cli.main import cli
from hpo.cli.terminal.errors import run_guarded

if TYPE_CHECKING:
    from support.command_line import Project


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


def ask(project: Project, *arguments: str, **variables: str) -> Said:
    """What `hpo ARGUMENTS` answers, in this process."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(project.folder)
        for name in os.environ.keys() - project.env.keys():
            patch.delenv(name)
        for name, value in (project.env | variables).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["hpo", *arguments])
        patch.setattr(sys, "stdin", StringIO())
        return Said(run_guarded(cli), out.getvalue(), err.getvalue())


def spawn(project: Project, *arguments: str, **variables: str) -> Said:
    """What `hpo ARGUMENTS` answers, in a process of its own."""
    done = subprocess.run(
        [HPO, *arguments], cwd=project.folder, env=project.env | variables, capture_output=True,
        text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Said(done.returncode, done.stdout, done.stderr)


def refused(said: Said, code: int, words: str) -> None:
    """One message on stderr that starts with the program's name or click's usage; no more."""
    assert said.code == code, said
    assert words in said.err, said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    starts = [line for line in said.err.splitlines() if line.startswith(("hpo: ", "Error: "))]
    assert len(starts) == 1, said.err

"""What a command answers: its exit code and what it printed.

Most commands run in this process, just as the console script runs them: an interpreter's start
costs more than all that they do. The others are real processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.command_line import HPO

from hpo.cli.main import cli
from hpo.cli.terminal.errors import run_guarded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from support.command_line import Project


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


def in_process(
    folder: Path, env: Mapping[str, str], *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `hpo ARGUMENTS` in this process, in a folder and with these variables alone.

    Not for `hpo worker`, which listens to signals.
    """
    out, err, given = (TextIOWrapper(BytesIO(), "utf-8", write_through=True) for _ in range(3))
    given.buffer.write(stdin.encode())
    given.seek(0)
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["hpo", *arguments])
        patch.setattr(sys, "stdin", given)
        try:
            replace_environment(env)
            code = run_guarded(cli)
        finally:
            replace_environment(before)
    return subprocess.CompletedProcess(arguments, code, written(out), written(err))


def replace_environment(env: Mapping[str, str]) -> None:
    """Let a process have these variables and no other."""
    os.environ.clear()
    os.environ.update(env)


def written(stream: TextIOWrapper) -> str:
    """All that was written into it."""
    stream.seek(0)
    return stream.read()


def ask(project: Project, *arguments: str, **variables: str) -> Said:
    """What `hpo ARGUMENTS` answers, in this process."""
    done = in_process(project.folder, project.env | variables, *arguments)
    return Said(done.returncode, done.stdout, done.stderr)


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

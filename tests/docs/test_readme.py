"""README's commands: they exist, and those of a team and of a cluster are what the tests run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from support.containers import TEAM
from support.ray_nodes import HEAD, NODE

from hpo.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shell_lines(page: Path) -> list[str]:
    """The commands of a page's shell blocks, without comments, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    text = "".join(blocks).replace("\\\n", " ")
    return [" ".join(shlex.split(line, comments=True)) for line in text.splitlines()]


def after(line: str, program: str) -> list[str] | None:
    """The words behind `program` where it is what the line runs."""
    words = line.split()
    for start in (["docker", "compose", "run", "--rm"], []):
        if words[: len(start) + 1] == [*start, program]:
            return words[len(start) + 1 :]
    return None


COMMANDS = [(page.name, line) for page in PAGES for line in shell_lines(page) if after(line, "hpo")]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{p}: {c}" for p, c in COMMANDS])
def test_every_command_shown_is_one_that_hpo_knows(page: str, line: str) -> None:
    """No page shows a command or an option that was renamed or never was."""
    del page
    words = [word for word in after(line, "hpo") or [] if word not in ("&&", "|")]
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"{words[0]}: no such command"
        command, words = found, words[1:]
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    used = {word.partition("=")[0] for word in words if word.startswith("-") and len(word) > 1}
    assert used <= known | {"--help"}


def test_the_teams_commands_are_those_that_the_container_test_runs() -> None:
    """`make test-deploy` goes the way of README, line by line."""
    lines = shell_lines(ROOT / "README.md")
    start = lines.index("deploy/make-env")
    assert tuple(lines[start : start + len(TEAM)]) == TEAM


def test_the_clusters_nodes_start_as_those_of_the_tests_do() -> None:
    """`make test-cluster` gives `ray start` the same options, beside addresses of its own."""
    lines = [line for line in shell_lines(ROOT / "README.md") if line.startswith("ray start")]
    head, node = (
        {word for word in line.split()[2:] if not word.startswith(("--port", "--address"))}
        for line in lines
    )
    assert head == {*HEAD, *NODE, "--num-cpus=0"}
    assert node == {*NODE}

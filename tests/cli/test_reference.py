"""Every command has help, a place in docs/cli.md and, where it prints results, `--json`."""

from __future__ import annotations

import click
import pytest
from support.sources import ROOT

from hpo.cli.main import COMMANDS, cli
from hpo.cli.reference import reference, walk

CONTEXTS = {context.command_path: context for context in walk(cli, None, "hpo")}
LEAVES = {
    path: context
    for path, context in CONTEXTS.items()
    if not isinstance(context.command, click.Group)
}
# Commands that have no result to print, each with its reason
WITHOUT_JSON = {
    "hpo init": "writes a file and names it",
}


def parameters(context: click.Context) -> list[click.Parameter]:
    """What the command itself declares, without --help."""
    return [one for one in context.command.params if one.name != "help"]


def test_the_reference_is_what_the_commands_say() -> None:
    """docs/cli.md cannot drift from the commands."""
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == reference(), "`make docs` writes it anew"


@pytest.mark.parametrize("path", CONTEXTS)
def test_a_command_says_what_it_does(path: str) -> None:
    """Its help has a first line that fits a listing and ends as a sentence."""
    text = CONTEXTS[path].command.help or ""
    first = text.partition("\n\n")[0]
    assert first.endswith(".")
    assert first[0].isupper()


@pytest.mark.parametrize("path", CONTEXTS)
def test_every_option_says_what_it_means(path: str) -> None:
    """No option is left to be guessed."""
    silent = [
        one.opts[0]
        for one in parameters(CONTEXTS[path])
        if isinstance(one, click.Option) and not one.help
    ]
    assert not silent


@pytest.mark.parametrize("name", COMMANDS)
def test_the_listing_says_the_same_as_the_command(name: str) -> None:
    """The lines of `hpo --help` stand apart so that it imports no command; they stay the same."""
    listed = COMMANDS[name][2]
    command = CONTEXTS[f"hpo {name}"].command
    own = (command.short_help or command.help or "").partition("\n\n")[0]
    assert listed == " ".join(own.split())


def test_a_command_bears_the_name_it_is_listed_by() -> None:
    """Errors and usage lines name the command as the user typed it."""
    names = {
        name: CONTEXTS[f"hpo {name}"].command.name
        for name in COMMANDS
        if CONTEXTS[f"hpo {name}"].command.name != name
    }
    assert names == {}


@pytest.mark.parametrize("path", LEAVES)
def test_results_can_be_read_by_programs(path: str) -> None:
    """Every command that prints results takes --json."""
    has = any("--json" in one.opts for one in parameters(LEAVES[path]))
    assert has != (path in WITHOUT_JSON)


@pytest.mark.parametrize("path", LEAVES)
def test_a_command_has_few_options(path: str) -> None:
    """More than a dozen options are two commands."""
    assert len(parameters(LEAVES[path])) <= 12

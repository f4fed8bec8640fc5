"""Every command has help, a place in docs/cli.md and, where it prints results, `--json`."""

from __future__ import annotations

from functools import cache

import click
from support.sources import ROOT

from hpo.cli.main import COMMANDS, cli
from hpo.cli.reference import reference, walk

# Commands that have no result to print, each with its reason
WITHOUT_JSON = {
    "hpo init": "writes a file and names it",
}


@cache
def contexts() -> dict[str, click.Context]:
    """Every command and group by its path; all of them are imported for it."""
    return {context.command_path: context for context in walk(cli, None, "hpo")}


def leaves() -> dict[str, click.Context]:
    """Every command that is no group."""
    return {
        path: context
        for path, context in contexts().items()
        if not isinstance(context.command, click.Group)
    }


def parameters(context: click.Context) -> list[click.Parameter]:
    """What the command itself declares, without --help."""
    return [one for one in context.command.params if one.name != "help"]


def test_the_reference_is_what_the_commands_say() -> None:
    """docs/cli.md cannot drift from the commands."""
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == reference(), "`make docs` writes it anew"


def test_a_command_says_what_it_does() -> None:
    """Its help has a first line that fits a listing and ends as a sentence."""
    firsts = {
        path: (context.command.help or "").partition("\n\n")[0]
        for path, context in contexts().items()
    }
    assert [path for path, first in firsts.items() if not first.endswith(".")] == []
    assert [path for path, first in firsts.items() if not first[0].isupper()] == []


def test_every_option_says_what_it_means() -> None:
    """No option is left to be guessed."""
    silent = [
        f"{path} {one.opts[0]}"
        for path, context in contexts().items()
        for one in parameters(context)
        if isinstance(one, click.Option) and not one.help
    ]
    assert silent == []


def test_the_listing_says_the_same_as_the_command() -> None:
    """The lines of `hpo --help` stand apart so that it imports no command; they stay the same."""
    commands = {name: contexts()[f"hpo {name}"].command for name in COMMANDS}
    own = {
        name: " ".join((one.short_help or one.help or "").partition("\n\n")[0].split())
        for name, one in commands.items()
    }
    assert {name: COMMANDS[name][2] for name in COMMANDS} == own


def test_a_command_bears_the_name_it_is_listed_by() -> None:
    """Errors and usage lines name the command as the user typed it."""
    names = {
        name: contexts()[f"hpo {name}"].command.name
        for name in COMMANDS
        if contexts()[f"hpo {name}"].command.name != name
    }
    assert names == {}


def test_results_can_be_read_by_programs() -> None:
    """Every command that prints results takes --json."""
    without = {
        path
        for path, context in leaves().items()
        if not any("--json" in one.opts for one in parameters(context))
    }
    assert without == WITHOUT_JSON.keys()


def test_a_command_has_few_options() -> None:
    """More than a dozen options are two commands."""
    many = {path: len(parameters(context)) for path, context in leaves().items()}
    assert [path for path, count in many.items() if count > 12] == []

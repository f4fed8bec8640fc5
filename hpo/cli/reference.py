"""Write docs/cli.md from the commands' own help (`make docs`); a test compares the two."""

from __future__ import annotations

from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.main import cli
from hpo.settings import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = """\
# Command line

Written by `make docs` from the commands' own help; edit it there.

`hpo COMMAND --help` shows the same. With `--json` a command prints one JSON document on stdout and
nothing else, progress goes to stderr; with `--watch --json` one document a line. `.hpo` is looked
for upward from the current folder; only `create-study`, `init`, `up` and `data` make one.

| exit code | means |
| --- | --- |
| 0 | done |
| 1 | the thing asked for failed |
| 2 | wrong usage or input |
| 3 | a service cannot be reached |
| 130 | interrupted |
"""


def walk(
    command: click.Command, parent: click.Context | None, name: str
) -> Iterator[click.Context]:
    """The contexts of all commands below `command`, in the order of `hpo --help`."""
    context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    if parent is not None:
        yield context
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            if child is None:
                raise LookupError(f"`{context.command_path}` lists {child_name!r} but has it not")
            if not child.hidden:
                yield from walk(child, context, child_name)


def reference() -> str:
    """The whole page as Markdown."""
    contexts = list(walk(cli, None, "hpo"))
    sections = [HEAD, "\n".join(_contents(contexts)), *map(_section, contexts), _environment()]
    return "\n".join(sections)


def _contents(contexts: list[click.Context]) -> Iterator[str]:
    yield "| command | does |"
    yield "| --- | --- |"
    for context in contexts:
        path = context.command_path
        line = context.command.get_short_help_str(limit=200)
        yield f"| [`{path}`](#{path.replace(' ', '-')}) | {line} |"
    yield ""


def _section(context: click.Context) -> str:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [
        f"## {context.command_path}",
        "",
        "```",
        usage,
        "```",
        "",
        cleandoc(command.help or ""),
        "",
    ]
    rows = [_row(parameter, context) for parameter in command.get_params(context)]
    rows = [row for row in rows if row]
    if rows:
        lines += ["| option | means |", "| --- | --- |", *rows, ""]
    return "\n".join(lines)


def _row(parameter: click.Parameter, context: click.Context) -> str:
    record: Any = parameter.get_help_record(context)
    if record is None or not record[1] or "--help" in parameter.opts:
        return ""  # arguments are explained by the text, and every command has --help
    names, text = (part.replace("|", "\\|") for part in record)
    return f"| `{names}` | {text} |"


def _environment() -> str:
    rows = [f"| `{name}` | {text} |" for name, text in VARIABLES.items()]
    return "\n".join(
        ["## Environment", "", ("An option on the command line beats the variable, which beats the "
         "default."), "", "| variable | means |", "| --- | --- |", *rows, ""]
    )  # fmt: skip


if __name__ == "__main__":
    click.echo(reference(), nl=False)

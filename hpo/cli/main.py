"""The command `hpo`: a lazy group, so that `--help` pays for no command's imports."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from hpo import __version__
from hpo.cli.terminal.errors import run_guarded

# command -> (module, attribute, one line for `hpo --help`). The help stands here so that listing
# the commands imports none of them; a test compares it with the command's own.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "init": ("hpo.cli.create", "init", "Write a commented study file to start from."),
    "create-study": (
        "hpo.cli.create",
        "create_study",
        "Check a study file as a whole and create the study.",
    ),
    "worker": (
        "hpo.cli.worker",
        "worker",
        "Run one worker here: it claims trials and trains them until the study is finished.",
    ),
    "launch": ("hpo.cli.launch", "launch", "Run workers on Ray and follow their progress."),
    "list": (
        "hpo.cli.status",
        "list_studies",
        "List all studies, the newest first, and the finals of each below it.",
    ),
    "status": (
        "hpo.cli.status",
        "status",
        "Show where a study stands: counts, best trial, workers, mirror, champion.",
    ),
    "trials": (
        "hpo.cli.status",
        "trials",
        "List a study's trials with their values and parameters.",
    ),
    "show": (
        "hpo.cli.status",
        "show_trial",
        "Show one trial: parameters, every epoch, files, takeovers.",
    ),
    "enqueue": (
        "hpo.cli.steering",
        "enqueue",
        "Put a trial with given parameters in the queue, within the budget.",
    ),
    "retry": (
        "hpo.cli.steering",
        "retry",
        "Queue the parameters of trial NUMBER again, as a new trial within the budget.",
    ),
    "extend": (
        "hpo.cli.steering",
        "extend",
        "Raise a study's budget to a new total of trials; a finished one opens again.",
    ),
    "stop": (
        "hpo.cli.steering",
        "stop",
        "Stop a study: its workers leave at their next epoch; `hpo resume` goes on.",
    ),
    "resume": ("hpo.cli.steering", "resume", "Let workers go on with a stopped study."),
    "delete": (
        "hpo.cli.steering",
        "delete",
        "Delete a study, its trials and its finals; registered models and MLflow's runs stay.",
    ),
    "export": (
        "hpo.cli.backup",
        "export_study",
        "Write a whole study as one file: spec, trials, epochs, finals, promotions.",
    ),
    "import": ("hpo.cli.backup", "import_study", "Restore a study from a file of `hpo export`."),
    "doctor": (
        "hpo.cli.doctor",
        "doctor",
        "Check what a study needs on this machine, and say how to mend what is not well.",
    ),
    "finalize": (
        "hpo.cli.promotion",
        "finalize",
        "Look again at a study's best trials and promote one if it beats the champion, once.",
    ),
    "promote": (
        "hpo.cli.promotion",
        "promote",
        "Promote trial NUMBER past the gate; it is recorded as an override, with the reason.",
    ),
    "champion": (
        "hpo.cli.champion",
        "champion",
        "Show the champion of a registered model: version, trial, value and when it was decided.",
    ),
    "rollback": (
        "hpo.cli.champion",
        "rollback",
        "Move the champion's alias back to the champion before, or to another version.",
    ),
    "predict": (
        "hpo.cli.predict",
        "predict",
        "Find boxes in images with a registered model, and draw them.",
    ),
    "mirror": (
        "hpo.cli.mirror",
        "mirror",
        "Bring MLflow to equal PostgreSQL, and prove that it does.",
    ),
    "reproduce": (
        "hpo.cli.reproduce",
        "reproduce",
        "Train trial NUMBER again and say how like the record it is.",
    ),
    "space": ("hpo.cli.space", "space", "List, show and check search spaces."),
    "data": ("hpo.cli.data", "data", "Make, fingerprint, check and push datasets."),
    "provision": (
        "hpo.cli.provision",
        "provision_command",
        "Make roles, databases, tables, rights and the bucket.",
    ),
    "up": ("hpo.cli.services", "up", "Start PostgreSQL, MLflow and optuna-dashboard here."),
    "down": ("hpo.cli.services", "down", "Stop what `hpo up` and others left running here."),
    "env": ("hpo.cli.services", "env", "Print the variables that other tools need."),
}


class LazyGroup(click.Group):
    """Commands by name in COMMANDS; each module is imported when its command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hpo")
def cli() -> None:
    """Hyperparameter search for object detectors on machines that fail.

    Start with `hpo create-study`, then `hpo launch --workers 2`.
    """


def main() -> None:
    """Entry point of the console script; turns errors into messages and exit codes."""
    sys.exit(run_guarded(cli))

"""`hpo reproduce`: train a trial again, and say whether it comes out the same."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.terminal.options import COUNT, json_option, show, stall_option, study_option

if TYPE_CHECKING:
    from workers.reproduce.report import ComparedEpoch, Reproduction
    from workers.reproduce.run import Recorded

DIFFERENT = 1  # exit code


@click.command()
@click.argument("number", type=int)
@click.option(
    "--tolerance", type=click.FloatRange(min=0.0), default=0.01, show_default=True,
    help="The largest difference of the objective that counts as close.",
)  # fmt: skip
@click.option("--epochs", type=COUNT, metavar="E", help="Train and compare the first E only.")
@click.option(
    "--device", default="auto", show_default=True,
    help="auto (the kind that the trial had, where this machine has one), cpu, cuda or cuda:N.",
)  # fmt: skip
@stall_option
@study_option
@json_option
def reproduce(
    *,
    number: int,
    tolerance: float,
    epochs: int | None,
    device: str,
    stall_timeout: str,
    study_name: str | None,
    as_json: bool,
) -> int:
    """Train trial NUMBER again and say how like the record it is.

    It gets the study's stored spec and the trial's parameters and seed. Each epoch is equal (every
    metric, to the last bit), close (the objective within --tolerance) or different. Then come
    the weights, the arguments in use, and what differs between the machine that trained it and this
    one. Nothing is written to the study, MLflow or the store. Exit code 1: it came out different.
    """
    from hpo.cli.terminal.context import opened, the_study
    from hpo.cli.worker import seconds_of
    from hpo.studies.status import is_simulated
    from workers.reproduce.report import Sameness
    from workers.reproduce.run import read_trial
    from workers.reproduce.run import reproduce as train

    stall_timeout_s = seconds_of("--stall-timeout", stall_timeout)
    with opened() as (settings, engine):
        study = the_study(settings, engine, study_name, writing=False)
        recorded = read_trial(engine, study, number)
    found = train(
        settings, recorded, watch=_Lines(recorded, sys.stderr if as_json else sys.stdout),
        device=device, tolerance=tolerance, until=epochs, stall_timeout_s=stall_timeout_s,
    )  # fmt: skip
    document = found.to_dict() | {"simulated": is_simulated(study)}
    show(as_json, document, lambda: _tell(found, simulated=document["simulated"]))
    return DIFFERENT if found.verdict is Sameness.DIFFERENT else 0


class _Lines:
    """One line an epoch, with the record beside it."""

    def __init__(self, recorded: Recorded, stream: Any) -> None:
        self._recorded, self._stream = recorded, stream

    def __call__(self, epoch: ComparedEpoch) -> None:
        from hpo.cli.terminal.views import number_text

        recorded = self._recorded
        click.echo(
            f"trial {recorded.number}: epoch {epoch.number}/{recorded.length}  "
            f"{recorded.study.spec.objective.metric} {number_text(epoch.now)}  "
            f"recorded {number_text(epoch.recorded)}  {epoch.sameness.value}",
            file=self._stream,
        )


def _tell(found: Reproduction, *, simulated: bool) -> None:
    from hpo.cli.terminal.views import SIMULATED

    sentence = found.sentence()
    click.echo(f"{sentence[0].upper()}{sentence[1:]}.")
    if simulated:
        click.echo(SIMULATED)
    if found.weights is not None:
        click.echo(f"weights: {_weights(found.weights)}")
    for line in found.arguments:
        click.echo(f"argument in use: {line}")
    for line in found.environment:
        click.echo(f"environment: {line}")
    if not found.environment:
        click.echo("environment: nothing that was recorded differs here")
    for note in found.notes:
        click.echo(f"note: {note}")


def _weights(weights: dict[str, Any]) -> str:
    before, now = weights["recorded"][:12], weights["now"][:12]
    if weights["equal"]:
        return f"equal (sha256 {now})"
    files = f"sha256 {before} -> {now}"
    if weights["arrays"]:
        return f"every stored number is equal; what the files note beside them is not ({files})"
    return f"different ({files}){': ' * bool(weights['note'])}{weights['note']}"

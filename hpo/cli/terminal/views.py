"""Status, trials and one trial as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import RenderableType

    from hpo.studies.trials import TrialSummary

SIMULATED = "SIMULATED: no model is trained, the figures mean nothing"


def status_view(document: Mapping[str, Any]) -> RenderableType:
    """`hpo status` for a person."""
    budget, counts, metric = document["budget"], document["counts"], document["metric"]
    parts: list[RenderableType] = [
        Text.assemble(
            (document["study"], "bold"),
            f"  {document['state']}  {budget['claimed']}/{budget['trials']} trials claimed",
        )
    ]
    if document["simulated"]:
        parts.append(Text(SIMULATED, style="yellow"))
    parts.append(Text("  ".join(f"{count} {name}" for name, count in counts.items() if count)))
    best = document["best"]
    if best:
        parts.append(
            Text(
                f"best: trial {best['number']}  {metric} {best['value']:.4f} at epoch "
                f"{best['epoch']}  {params_text(best['params'])}"
            )
        )
    if document["workers"]:
        parts.append(workers_table(document["workers"], metric, budget["epochs"]))
    parts += _finals(document)
    parts += [Text(f"warning: {text}", style="yellow") for text in document["warnings"]]
    if document["eta_s"] is not None:
        parts.append(Text(f"about {duration(document['eta_s'])} to go"))
    parts += _mirror(document)
    over = document["state"] == "finished" and not finals_go_on(document)
    if over and not document["decided"]:
        parts.append(Text("not promoted yet: `hpo finalize`", "yellow"))
    champion = document["champion"]
    if champion:
        parts.append(
            Text(
                f"champion: {champion['model']} version {champion['version']}, trial "
                f"{champion['trial']} of {champion['study']}"
            )
        )
    return Group(*parts)


def _finals(document: Mapping[str, Any]) -> list[RenderableType]:
    """How far the finals are, and who is at them."""
    finals = document["finals"]
    if not finals:
        return []
    text = f"finals: {finals['done']} of {finals['trials']} evaluated"
    if finals["failed"]:
        text += f", {finals['failed']} failed"
    if not finals["workers"]:
        return [Text(text)]
    return [Text(text), workers_table(finals["workers"], document["metric"], None)]


def _mirror(document: Mapping[str, Any]) -> list[RenderableType]:
    """How far MLflow is behind, and why."""
    behind, counts, finals = document["mirror"]["behind"], document["counts"], document["finals"]
    parts: list[RenderableType] = []
    if behind and (document["workers"] or (finals and finals["workers"])):  # they are at it
        parts.append(Text(f"MLflow is {_trials(behind)} behind", "dim"))
    elif behind and (counts["complete"] + counts["pruned"] + counts["failed"]):
        text = f"MLflow is {_trials(behind)} behind: `hpo mirror sync` catches up"
        parts.append(Text(text, "yellow"))
    if reason := document["mirror"].get("error"):
        parts.append(Text(f"warning: {reason}", style="yellow"))
    return parts


def finals_go_on(document: Mapping[str, Any]) -> bool:
    """Whether there are finals that have not ended."""
    finals = document["finals"]
    return bool(finals and (finals["running"] or finals["waiting"]))


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def workers_table(workers: Iterable[Mapping[str, Any]], metric: str, epochs: int | None) -> Table:
    """Who runs what."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("worker", "device", "trial", "epoch", metric):
        table.add_column(name)
    for worker in workers:
        trial, epoch = worker["trial"], worker["epoch"]
        of = f"/{epochs}" if epochs else ""
        table.add_row(
            worker["worker"],
            worker["device"],
            "-" if trial is None else str(trial),
            "-" if trial is None else f"{epoch or 0}{of}",
            number_text(worker["value"]),
        )
    return table


def trials_view(rows: Iterable[TrialSummary], metric: str, *, simulated: bool) -> RenderableType:
    """`hpo trials` for a person."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("trial", "state", metric, "epochs", "parameters", "worker", "takeovers"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            str(row.number),
            row.state if not row.reason else f"{row.state} ({row.reason.partition(':')[0]})",
            number_text(row.value),
            str(row.epochs),
            params_text(row.params),
            row.worker or "-",
            str(row.takeovers or "-"),
        )
    return Group(Text(SIMULATED, style="yellow"), table) if simulated else table


def number_text(value: float | None) -> str:
    """Four decimals, or a dash."""
    return "-" if value is None else f"{value:.4f}"


def params_text(params: Mapping[str, Any]) -> str:
    """`a=1 b=0.0123`."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:  # noqa: PLR2004 - below a minute and a half, seconds say more
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 - as above, for hours


HOW = {
    "told": "ended the trial",
    "released": "gave it back",
    "silent": "fell silent",
    None: "has it now",
}


def trial_view(details: Mapping[str, Any], metric: str) -> RenderableType:
    """`hpo show N` for a person."""
    lines = [
        f"trial {details['number']}: {details['state']}",
        f"{metric}: {number_text(details['value'])} at epoch {details['best_epoch'] or '-'}",
        f"parameters: {params_text(details['params'])}",
        f"worker: {details['worker'] or '-'}, takeovers: {details['takeovers']}",
        f"MLflow run: {details['run_id'] or '-'}",
    ]
    if details["reason"]:
        lines.append(f"failed: {details['reason']}")
    if details["simulated"]:
        lines.insert(1, SIMULATED)
    parts: list[RenderableType] = [Text("\n".join(lines))]
    if details["history"]:
        names = [name for name in details["history"][0] if name not in ("epoch", "at")]
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("epoch", *names):
            table.add_column(name)
        for row in details["history"]:
            table.add_row(str(row["epoch"]), *(number_text(row.get(name)) for name in names))
        parts.append(table)
    if len(details["attempts"]) > 1:
        parts += [Text(attempt_text(attempt)) for attempt in details["attempts"]]
    parts += [
        Text(
            f"checkpoint of epoch {kept['epoch']}  {kept['bytes']} bytes, best epoch "
            f"{kept['best_epoch'] or '-'}"
        )
        for kept in details["checkpoints"]
    ]
    parts += [
        Text(f"{file['name']}  {file['bytes']} bytes  sha256 {file['sha256'][:12]}")
        for file in details["files"]
    ]
    return Group(*parts)


def attempt_text(attempt: Mapping[str, Any]) -> str:
    """`attempt 2: host:pid went on after epoch 4, gave it back at 12:01:02`."""
    epoch, ended, note = attempt["resumed_epoch"], attempt["ended"], attempt["note"]
    start = f"went on after epoch {epoch}" if epoch else "began at the start"
    at = f" (noticed at {ended:%Y-%m-%d %H:%M:%S})" if attempt["how"] == "silent" else ""
    at = at or (f" at {ended:%Y-%m-%d %H:%M:%S}" if ended else "")
    text = f"attempt {attempt['attempt']}: {attempt['worker']} {start}, {HOW[attempt['how']]}{at}"
    return f"{text} ({note})" if note else text

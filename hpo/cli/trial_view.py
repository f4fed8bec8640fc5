"""One trial as `hpo show N` prints it; knows no database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from hpo.cli.status_view import SIMULATED, number_text, params_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

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

"""The record of a decision, as a row of hpo.promotion and as the text of decision.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.database.queries import query
from hpo.promotion.decision import Decision, Outcome

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from hpo.study import Study

SHOWN = 10  # trials in the table
METRICS = ("mAP50", "mAP50-95", "precision", "recall")  # shown of the best epoch where they exist


@dataclass(frozen=True)
class TrialFigures:
    """One ended trial.

    Attributes:
        state: `COMPLETE`, `PRUNED` or `FAIL`.
        value: the objective's, of the best epoch; None where there is none.
        metrics: every figure of the best epoch.
        params: its parameters.
        train_s: seconds of training and validation, of all its epochs.
    """

    number: int
    state: str
    value: float | None
    best_epoch: int | None
    metrics: dict[str, float | None]
    params: dict[str, Any]
    train_s: float


def figures(connection: Connection, study: Study, params: dict[int, Any]) -> list[TrialFigures]:
    """Every ended trial of a study, by number; `params` are the trials' parameters by number."""
    rows = connection.execute(query("promotion_figures"), {"study_id": study.study_id})
    return [
        TrialFigures(
            row.number, row.state, None if row.state == "FAIL" else row.value, row.best_epoch,
            row.metrics or {}, params.get(row.number, {}), row.train_s or 0.0,
        )
        for row in rows
    ]  # fmt: skip


def recorded(connection: Connection, promotion_id: uuid.UUID) -> Decision | None:
    """The decision of that name; None when it has not been recorded."""
    row = connection.execute(
        query("promotion_by_id"), {"promotion_id": str(promotion_id)}
    ).one_or_none()
    return None if row is None else Decision.from_row(row)


def insert(
    connection: Connection, study: Study, promotion_id: uuid.UUID, decision: Decision
) -> None:
    """Record a decision; one of that name stays as it is."""
    connection.execute(
        query("insert_promotion"),
        {
            "promotion_id": str(promotion_id), "study_id": study.study_id,
            "study_name": decision.study, "outcome": decision.outcome.value,
            "model": decision.model, "alias": decision.alias, "trial_number": decision.trial,
            "version": decision.version, "previous_version": decision.previous_version,
            "evidence": json.dumps(decision.evidence, allow_nan=False),
        },
    )  # fmt: skip


def as_markdown(study: Study, decision: Decision, trials: Sequence[TrialFigures]) -> str:
    """decision.md: what was decided, on which figures, and how to undo it."""
    parts = [
        f"# {decision.model}: decision on the study {study.name}",
        _warning(decision),
        f"**{decision.sentence()}.**",
        "## The trial", _trial(study, decision, trials),
        "## The best trials", _table(study, trials),
        "## The champion", _champion(decision),
        "## Cost", _cost(trials),
        "## How to load it", _load(decision),
        "## How to undo it", _undo(decision),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _warning(decision: Decision) -> str:
    if not decision.simulated:
        return ""
    return "> SIMULATED: the trainer made these figures up; no model was trained."


def _trial(study: Study, decision: Decision, trials: Sequence[TrialFigures]) -> str:
    evidence, objective = decision.evidence, study.spec.objective
    lines = [
        f"- trial {decision.trial}, best epoch {evidence['best_epoch']}",
        f"- {objective.metric} ({objective.direction}): {evidence['value']:.5f}",
        *_gain(study, evidence["value"], trials),
        f"- MLflow run: {evidence.get('run_id')}",
        f"- weights: {evidence['weights_name']}, sha256 {evidence['weights_sha256']}",
        f"- spec sha256: {study.spec_sha256}",
        f"- dataset fingerprint: {study.fingerprint or 'none, the trainer needs no data'}",
        f"- trainer: {study.spec.trainer} ({study.code_version}), model {study.spec.model}",
    ]
    params = [(f"`{name}`", f"`{value}`") for name, value in evidence["params"].items()]
    return "\n".join(lines) + "\n\n" + _grid(("parameter", "value"), params)


def _gain(study: Study, value: float, trials: Sequence[TrialFigures]) -> list[str]:
    """The gain over the best baseline. Baselines are the trials that a study was created with."""
    objective = study.spec.objective
    ran = [
        trial
        for trial in trials
        if trial.number < len(study.spec.baselines) and trial.value is not None
    ]
    if not ran:
        return ["- no baseline ran to compare with"]
    best = _ranked(study, ran)[0]
    sign = 1 if objective.direction == "maximize" else -1
    gain = sign * (value - (best.value or 0.0))
    state = "" if best.state == "COMPLETE" else f", {best.state.lower()}"
    return [f"- baseline: {best.value:.5f} (trial {best.number}{state}); gain {gain:+.5f}"]


def _table(study: Study, trials: Sequence[TrialFigures]) -> str:
    best = _ranked(study, [trial for trial in trials if trial.value is not None])[:SHOWN]
    metrics = [name for name in METRICS if any(name in trial.metrics for trial in best)]
    names = list(dict.fromkeys(name for trial in best for name in trial.params))
    head = ("trial", "state", study.spec.objective.metric, "best epoch")
    shown = [name for name in metrics if name != study.spec.objective.metric]
    rows = [
        (
            trial.number, trial.state.lower(), _figure(trial.value), trial.best_epoch,
            *(_figure(trial.metrics.get(name)) for name in shown),
            *(trial.params.get(name, "") for name in names),
        )
        for trial in best
    ]  # fmt: skip
    return _grid((*head, *shown, *(f"`{name}`" for name in names)), rows)


def _ranked(study: Study, trials: Sequence[TrialFigures]) -> list[TrialFigures]:
    """Complete ones first, as only they compete; then the best first, the earliest on a tie."""
    sign = -1 if study.spec.objective.direction == "maximize" else 1
    return sorted(
        trials, key=lambda one: (one.state != "COMPLETE", sign * (one.value or 0.0), one.number)
    )


def _champion(decision: Decision) -> str:
    before = decision.previous_version
    value = decision.evidence.get("champion_value")
    how = ", evaluated on this study's data" if decision.evidence.get("champion_evaluated") else ""
    figure = f" ({decision.evidence['metric']} {value:.5f}{how})" if value is not None else ""
    return (
        f"- before: {f'version {before}{figure}' if before else 'none'}\n"
        f"- after: version {decision.version}\n"
        f"- why: {decision.reason}"
    )


def _cost(trials: Sequence[TrialFigures]) -> str:
    states: dict[str, int] = {}
    for trial in trials:
        states[trial.state.lower()] = states.get(trial.state.lower(), 0) + 1
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    spent = sum(trial.train_s for trial in trials)
    return f"{len(trials)} trials ({counts}), {spent:.1f} s of training and validation."


def _load(decision: Decision) -> str:
    return (
        "```python\n"
        "# `hpo env` prints the MLFLOW_TRACKING_URI that this needs\n"
        "import mlflow\n"
        "import pandas as pd\n\n"
        f'model = mlflow.pyfunc.load_model("models:/{decision.model}@{decision.alias}")\n'
        'boxes = model.predict(pd.DataFrame({"image": ["photo.jpg"]}))\n'
        "```"
    )


def _undo(decision: Decision) -> str:
    name, alias = json.dumps(decision.model), json.dumps(decision.alias)
    if decision.outcome is Outcome.KEPT:
        return "Nothing was changed: there is nothing to undo."
    if decision.previous_version is None:
        what, call = (
            "There was no champion before: remove the alias.",
            (f"MlflowClient().delete_registered_model_alias({name}, {alias})"),
        )
    else:
        what, call = (
            f"Set the alias back to version {decision.previous_version}.",
            (
                f"MlflowClient().set_registered_model_alias({name}, {alias}, "
                f'"{decision.previous_version}")'
            ),
        )
    return f"{what}\n\n```python\nfrom mlflow import MlflowClient\n\n{call}\n```"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _grid(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(item) for item in line) + " |" for line in lines)


def _cell(item: Any) -> str:
    return str(item).replace("|", "\\|").replace("\n", " ")

"""Commands to load, serve, try and undo what was decided, ready to be copied."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpo.promotion.report.context import ReportContext

PORT = 5001  # MLflow's own server is likely at 5000


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        title: what it does.
        text: what to know; "" for nothing.
        language: of the code, for highlighting.
        code: to be copied; "" for none.
    """

    title: str
    text: str
    language: str = ""
    code: str = ""


def steps(context: ReportContext) -> list[Step]:
    """Everything that can be done after this decision."""
    decision = context.decision
    found = []
    if decision.version is not None:
        first, *others = use(context, _champion_uri(context))
        # Which is not the trial that was decided about, where that was not promoted
        found = [_with_lead("The champion", first), *others]
    return [*found, undo(context)]


def use(context: ReportContext, uri: str) -> list[Step]:
    """How to load and serve a version.

    Args:
        context: the decision.
        uri: `models:/…`, of the version.
    """
    return [_load(uri), *_weights(context, uri), *_serve(uri)]


def own_steps(context: ReportContext) -> list[Step]:
    """How to load and serve the very version that a decision made, for its card."""
    decision = context.decision
    if decision.version is not None:
        return use(context, f"models:/{decision.model}/{decision.version}")
    # A card goes into the version, whose number MLflow gives when it is whole
    first, *others = use(context, _champion_uri(context))
    later = f"later with its number, models:/{decision.model}/NUMBER"
    return [_with_lead(f"While it is {decision.alias} ({later})", first), *others]


def undo(context: ReportContext) -> Step:
    """How to take the decision back, or past the gate."""
    decision = context.decision
    model = shlex.quote(decision.model)
    alias = "" if decision.alias == "champion" else f" --alias {shlex.quote(decision.alias)}"
    if decision.outcome.value == "promoted":
        after = (
            f"The alias goes back to version {decision.previous_version}."
            if decision.previous_version is not None
            else "There was no champion before: the alias is removed."
        )
        code = f"hpo rollback --model {model}{alias} --why 'what went wrong'"
        return Step("How to undo it", f"{after} The roll-back is recorded too.", "sh", code)
    if decision.outcome.value in ("kept", "inconclusive") and decision.trial is not None:
        return Step(
            "How to undo it",
            "Nothing was changed: there is nothing to undo. A person may promote the trial past "
            "the gate, which is recorded as such:",
            "sh",
            f"hpo promote {decision.trial} --study {shlex.quote(decision.study)} "
            "--why 'what the gate does not know'",
        )
    if decision.outcome.value == "rolled_back":
        target = decision.previous_version
        if target is not None:
            code = f"hpo rollback --model {model}{alias} --to {target} --why 'why'"
            return Step("How to undo it", "Go to the version that was left:", "sh", code)
    return Step("How to undo it", "Nothing was changed: there is nothing to undo.")


def _with_lead(lead: str, step: Step) -> Step:
    return replace(step, text=f"{lead}, {step.text[0].lower()}{step.text[1:]}")


def _load(uri: str) -> Step:
    code = (
        "# `hpo env` prints the MLFLOW_TRACKING_URI that this needs\n"
        "import mlflow\n"
        "import pandas as pd\n\n"
        f"model = mlflow.pyfunc.load_model({_quoted(uri)})\n"
        'boxes = model.predict(pd.DataFrame({"image": ["photo.jpg"]}))'
    )
    return Step("How to load it", "Anywhere with MLflow, without this package:", "python", code)


def _weights(context: ReportContext, uri: str) -> list[Step]:
    if not context.weights_loader:
        return []
    code = context.weights_loader.replace("{uri}", _quoted(uri))
    text = "They lie beside it, as they were trained:"
    return [Step("How to load the weights alone", text, "python", code)]


def _serve(uri: str) -> list[Step]:
    serve = (
        ". .venv/bin/activate  # MLflow starts `uvicorn` by its name: it must be on PATH\n"
        'eval "$(hpo env)"\n'
        f"mlflow models serve --env-manager local -m {shlex.quote(uri)} -p {PORT}"
    )
    ask = (
        """printf '{"dataframe_split": {"columns": ["image"], "data": [["%s"]]}}' \\\n"""
        """  "$(base64 < photo.jpg | tr -d '\\n')" |\n"""
        "  curl --silent --show-error -H 'Content-Type: application/json' --data @- \\\n"
        f"  http://127.0.0.1:{PORT}/invocations"
    )
    return [
        Step("How to serve it", "On this machine, with what is installed here:", "sh", serve),
        Step("How to ask it", "An image as base64 text, from another terminal:", "sh", ask),
    ]


def _champion_uri(context: ReportContext) -> str:
    return f"models:/{context.decision.model}@{context.decision.alias}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

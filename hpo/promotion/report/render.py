"""Render the documents of a decision from templates: decision.html, decision.md, the model card.

Whatever a name holds is shown and is no markup: HTML is escaped by Jinja's autoescape, a text in
Markdown by the filter `plain`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from hpo.promotion.report import charts, tables
from hpo.promotion.report.formatting import (
    SIMULATED,
    by_person,
    counted,
    difference_sentence,
    figure,
    headline,
    key_facts,
    outcome_word,
    reason_sentence,
    span,
    test_images,
    validation_note,
)
from hpo.promotion.report.images import matrices, samples
from hpo.promotion.report.usage import own_steps, steps

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.nodes import EvalContext

    from hpo.promotion.report.context import ReportContext

# Nothing may be loaded from anywhere and no script may run, whatever a name smuggled in.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SIGNS = {"promoted": "✓", "kept": "✕", "inconclusive": "?", "rolled_back": "↩", "none": "·"}
# Characters that no HTML document may hold, whatever a class was named
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
FEW_IMAGES = 100  # in a test split: below this the card warns
FEW_BOXES = 20  # of a class in it


def as_html(context: ReportContext) -> str:
    """The whole page, which loads nothing."""
    return _rendered(
        "decision.html",
        context,
        policy=_POLICY,
        sign=_SIGNS[context.decision.outcome.value],
        facts=key_facts(context),
        differences=charts.differences(context),
        finalists=charts.finalists(context),
        samples=samples(context),
        matrices=matrices(context),
        curves=charts.curves(context.curve, context.metric, context.evidence.best_epoch),
        baseline=tables.baseline_sentence(context),
        steps=steps(context),
    )


def as_markdown(context: ReportContext) -> str:
    """The whole document."""
    return _rendered(
        "decision.md",
        context,
        candidate=candidate(context),
        champion=_champion(context),
        steps=steps(context),
    )


def model_card(context: ReportContext) -> str:
    """The card of the version that a decision made, as Markdown for its folder."""
    return _rendered(
        "model_card.md",
        context,
        what=_what(context),
        data=_data(context),
        candidate=candidate(context),
        limits=limits(context),
        licence=_licence(context),
        steps=own_steps(context),
    )


def _rendered(template: str, context: ReportContext, **values: Any) -> str:
    """The template with what each document says, and these values."""
    decision = context.decision
    text = (
        _environment()
        .get_template(template)
        .render(
            context=context,
            decision=decision,
            tables=tables,
            simulated=SIMULATED,
            outcome=outcome_word(decision),
            headline=headline(decision),
            reason=reason_sentence(decision),
            by_person=by_person(decision),
            difference=difference_sentence(context),
            cost=tables.cost_sentence(context),
            **values,
        )
    )
    return text.strip() + "\n"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("hpo.promotion.report"),
        autoescape=select_autoescape(["html"]),  # Markdown has the filter `plain`
        undefined=StrictUndefined,
        finalize=_shown(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "block": _block, "cell": _cell, "figure": figure, "plain": plain, "version": _version,
        "ruled": lambda _: "---",
    }  # fmt: skip
    return environment


def _shown() -> Any:
    """What Jinja calls for each value before it is escaped: takes out what HTML may not hold."""
    from jinja2 import pass_eval_context

    @pass_eval_context
    def shown(context: EvalContext, value: Any) -> Any:
        if not context.autoescape or not isinstance(value, str):
            return value
        return type(value)(_FORBIDDEN.sub("\ufffd", value))

    return shown


def plain(text: Any) -> str:
    """A text that Markdown shows as it is: names of classes and studies are anyone's."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("`", "\\`")
    return " ".join(escaped.replace("](", "]\\(").split("\n"))


def _cell(text: str) -> str:
    return plain(text).replace("|", "\\|")


def _block(text: str) -> str:
    """A part of a document, with an empty line below it; "" for none."""
    return f"{text.strip()}\n\n" if text.strip() else ""


def _version(number: int | None) -> str:
    return "none" if number is None else f"version {number}"


def candidate(context: ReportContext) -> list[str]:
    """The candidate's run and figures; empty where there is no candidate."""
    evidence, objective = context.evidence, context.study.spec.objective
    if context.decision.trial is None:
        return []
    value = figure(evidence.value, tables.DIGITS)
    note = validation_note(context, tables.DIGITS)
    run = evidence.run_id  # a card is written before it is in the evidence
    return [
        f"trial {context.decision.trial}",
        *([f"MLflow run: {run}"] if run else []),
        f"{objective.metric} in validation ({objective.direction}): {value} ({note})",
        tables.baseline_sentence(context),
        *(
            f"{fact.name}: {fact.value}" + (f" ({fact.note})" if fact.note else "")
            for fact in key_facts(context)
            if not fact.name.endswith("in validation")
        ),
    ]


def _champion(context: ReportContext) -> list[str]:
    """Who was champion before the decision, and who is after it."""
    decision, champion = context.decision, context.evidence.champion
    before = _version(decision.previous_version)
    if decision.previous_version is not None and champion is not None:
        again = ", evaluated again" if champion.evaluated else ""
        if champion.value is not None:
            before += (
                f" (trial {champion.trial} of {champion.study}; {context.metric} "
                f"{figure(champion.value)} on this test split{again})"
            )
    return [f"before: {before}", f"after: {_version(decision.version)}"]


def limits(context: ReportContext) -> list[str]:
    """What the figures do not say."""
    images, found = test_images(context), []
    if context.decision.simulated:
        trainer = context.study.spec.trainer
        found.append(f"It is no model: the trainer `{trainer}` made its figures up.")
    if images is None:
        found.append("It was not evaluated on held-out images.")
    else:
        found.append(
            f"It was tested on {counted(images, 'image')} of the same collection as its training "
            "images, and on none from elsewhere: other cameras, places, weather or populations are "
            "untested."
        )
        if images < FEW_IMAGES:
            found.append(
                f"{counted(images, 'test image')} {'is' if images == 1 else 'are'} few: "
                f"{_sampling(context)}a difference of the interval's width is luck."
            )
    found += _scarce(context)
    if context.decision.override:
        found.append(
            "A person promoted it past the gate: "
            f"{context.decision.why or 'no reason was given'} ({context.decision.actor})."
        )
    settings = {} if context.evaluation is None else context.evaluation.settings
    if "imgsz" in settings:
        found.append(f"Its figures hold for images scaled to {settings['imgsz']} px.")
    found.append(
        "It was chosen as the best of several trials in validation, so its validation figure "
        "flatters it; the test split did not choose it."
    )
    return found


def _what(context: ReportContext) -> str:
    spec, decision = context.study.spec, context.decision
    kind = "A stand-in for a detector" if decision.simulated else "An object detector"
    return (
        f"{kind} ({spec.model}, trained by {context.study.code_version}): trial {decision.trial} "
        f"of the hyperparameter search {context.study.name}. {reason_sentence(decision)}"
    )


def _data(context: ReportContext) -> list[str]:
    study, images = context.study, test_images(context)
    names = _class_names(context)
    return [
        f"dataset: {_data_name(study.spec.data)}",
        f"fingerprint: {study.fingerprint or 'none'}",
        "test split: "
        + ("not evaluated" if images is None else counted(images, "image"))
        + f", fingerprint {context.evidence.test_fingerprint or study.test_fingerprint}",
        *([f"classes: {', '.join(names)}"] if names else []),
    ]


def _data_name(data: str | None) -> str:
    """The dataset's name; a card travels, so of a path only what says something elsewhere."""
    if data is None:
        return "none, the trainer needs none"
    return "/".join(data.replace("\\", "/").split("/")[-2:])


def _class_names(context: ReportContext) -> list[str]:
    if context.challenger is not None:
        return list(context.challenger.names)
    return [one.name for one in context.evidence.classes]


def _sampling(context: ReportContext) -> str:
    ends = "" if context.finalist is None else span(context.finalist.interval)
    if not ends:
        return ""
    value = figure(context.evidence.test_value)
    return f"with others like them {context.metric} {value} may be anywhere in {ends}, and "


def _scarce(context: ReportContext) -> list[str]:
    """Classes of which the test split has few or no objects."""
    found = context.challenger
    if found is None:
        return []
    counts = {name: int((found.true_kind == at).sum()) for at, name in enumerate(found.names)}
    few = [f"{name} ({count})" for name, count in counts.items() if count < FEW_BOXES]
    if not few:
        return []
    shown = ", ".join(few[:10]) + (f" and {len(few) - 10} more" if len(few) > 10 else "")  # noqa: PLR2004 - a line's worth
    return [f"Classes with fewer than {FEW_BOXES} true boxes in the test split: {shown}."]


def _licence(context: ReportContext) -> str:
    if not context.licence:
        return "Not stated: the trainer names none."
    return f"{context.licence}. {context.licence_note}".strip()

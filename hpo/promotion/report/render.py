"""The documents of a decision: decision.html, decision.md and the model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.promotion.report import charts, tables
from hpo.promotion.report.charts import curves
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
from hpo.promotion.report.markup import paragraph, section, step, table, text
from hpo.promotion.report.usage import own_steps, steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.promotion.report.context import Exhibit
    from hpo.promotion.report.tables import Table
    from hpo.promotion.report.usage import Step

# Nothing may be loaded from anywhere and no script may run, whatever a name smuggled in.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SIGNS = {"promoted": "✓", "kept": "✕", "inconclusive": "?", "rolled_back": "↩", "none": "·"}


def as_html(exhibit: Exhibit) -> str:
    """The whole page."""
    title = f"{exhibit.decision.model}: {outcome_word(exhibit.decision).lower()}"
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{style}</style></head>\n"
        f"<body>{_header(exhibit)}\n<main>{_main(exhibit)}</main>\n{_footer(exhibit)}</body></html>\n"
    )


def _header(exhibit: Exhibit) -> str:
    decision = exhibit.decision
    outcome = decision.outcome.value
    facts = "".join(
        f'<div class="fact"><dt>{text(fact.name)}</dt><dd>{text(fact.value)}'
        f'<div class="note">{text(fact.note)}</div></dd></div>'
        for fact in key_facts(exhibit)
    )
    return (
        f'<header><span class="outcome {outcome}"><span aria-hidden="true">{_SIGNS[outcome]} '
        f"</span>{text(outcome_word(decision))}</span><h1>{text(headline(decision))}</h1>"
        + (paragraph(SIMULATED, "simulated") if decision.simulated else "")
        + paragraph(reason_sentence(decision))
        + paragraph(by_person(decision), "person")
        + (f'<dl class="facts">{facts}</dl>' if facts else "")
        + "</header>"
    )


def _main(exhibit: Exhibit) -> str:
    decision = exhibit.decision
    return "\n".join(
        part
        for part in (
            section("The difference", charts.differences(exhibit),
                    paragraph(difference_sentence(exhibit), "note")),
            section("The rules", table(tables.rules(exhibit), kind="rules")),
            section("The finalists", charts.finalists(exhibit),
                    table(tables.finalists(exhibit, brief=True), kind="finalists")),
            section("The classes", table(tables.classes(exhibit))),
            section("What they find", samples(exhibit)),
            section("What they take for what", matrices(exhibit)),
            section("The challenger's training", _training(exhibit)),
            section("The best trials", table(tables.trials(exhibit), kind="wide")),
            section("The champion", _champion(exhibit)),
            section("Cost", paragraph(tables.cost_sentence(exhibit)), table(tables.cost(exhibit))),
            section("How to use it" if decision.version else "What can be done",
                    *(step(one) for one in steps(exhibit))),
            section("Names and fingerprints", table(tables.identity(exhibit), kind="names")),
        )
        if part
    )  # fmt: skip


def _training(exhibit: Exhibit) -> str:
    evidence = exhibit.evidence
    if exhibit.decision.trial is None:
        return ""
    shown = curves(exhibit.curve, exhibit.metric, evidence.best_epoch)
    sentence = tables.baseline_sentence(exhibit)
    return shown + paragraph(f"In validation, {sentence}.") + table(tables.parameters(exhibit))


def _champion(exhibit: Exhibit) -> str:
    decision, champion = exhibit.decision, exhibit.evidence.champion
    before = "none" if decision.previous_version is None else f"version {decision.previous_version}"
    if champion is not None and champion.value is not None:
        before += (
            f", trial {champion.trial} of {champion.study}: {exhibit.metric} "
            f"{figure(champion.value)} on this test split"
            + (", evaluated again for this decision" if champion.evaluated else "")
        )
    after = "none" if decision.version is None else f"version {decision.version}"
    return paragraph(f"Before: {before}.") + paragraph(f"After: {after}.")


def _footer(exhibit: Exhibit) -> str:
    decision = exhibit.decision
    return (
        f"<footer>Decision {text(exhibit.decision_id)} on {text(decision.model)} by the study "
        f"{text(decision.study)}.</footer>"
    )


def as_markdown(exhibit: Exhibit) -> str:
    """The whole document."""
    decision = exhibit.decision
    parts = [
        f"# {plain(decision.model)}: {outcome_word(decision).lower()}",
        f"> {SIMULATED}" if decision.simulated else "",
        f"**{plain(headline(decision))}**",
        plain(reason_sentence(decision)),
        plain(by_person(decision)),
        *_section("The candidate", candidate(exhibit), grid(tables.parameters(exhibit))),
        *_section("The rules", grid(tables.rules(exhibit))),
        *_section("The difference", plain(difference_sentence(exhibit))),
        *_section("The finalists", grid(tables.finalists(exhibit))),
        *_section("The classes", grid(tables.classes(exhibit))),
        *_section("The best trials", grid(tables.trials(exhibit))),
        *_section("The champion", _champion_lines(exhibit)),
        *_section("Cost", tables.cost_sentence(exhibit), grid(tables.cost(exhibit))),
        *(part for step in steps(exhibit) for part in _section(step.title, *_step(step))),
        *_section("Names and fingerprints", grid(tables.identity(exhibit))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def candidate(exhibit: Exhibit) -> str:
    """The candidate's run and figures, as a list; "" where there is no candidate."""
    evidence, objective = exhibit.evidence, exhibit.study.spec.objective
    if exhibit.decision.trial is None:
        return ""
    value = figure(evidence.value, tables.DIGITS)
    note = validation_note(exhibit, tables.DIGITS)
    run = evidence.run_id  # a card is written before it is in the evidence
    lines = [
        f"trial {exhibit.decision.trial}",
        *([f"MLflow run: {run}"] if run else []),
        f"{objective.metric} in validation ({objective.direction}): {value} ({note})",
        tables.baseline_sentence(exhibit),
        *(
            f"{fact.name}: {fact.value}" + (f" ({fact.note})" if fact.note else "")
            for fact in key_facts(exhibit)
            if not fact.name.endswith("in validation")
        ),
    ]
    return "\n".join(f"- {plain(line)}" for line in lines)


def grid(table: Table | None) -> str:
    """A table; "" for none. Rows that stand out are bold."""
    if table is None:
        return ""
    rows = [
        tuple(f"**{cell}**" if cell and at in table.marked else cell for cell in map(_cell, row))
        for at, row in enumerate(table.rows)
    ]
    lines = [tuple(map(_cell, table.head)), ("---",) * len(table.head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(text: Any) -> str:
    """A text that Markdown shows as it is: names of classes and studies are anyone's."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("`", "\\`")
    return " ".join(escaped.replace("](", "]\\(").split("\n"))


def code(step: Step) -> str:
    """A step's code as a block; "" for none."""
    return f"```{step.language}\n{step.code}\n```" if step.code else ""


def _champion_lines(exhibit: Exhibit) -> str:
    decision, champion = exhibit.decision, exhibit.evidence.champion
    before = "none"
    if decision.previous_version is not None:
        before = f"version {decision.previous_version}"
        if champion is not None and champion.value is not None:
            again = ", evaluated again" if champion.evaluated else ""
            before += (
                f" (trial {champion.trial} of {champion.study}; {exhibit.metric} "
                f"{figure(champion.value)} on this test split{again})"
            )
    after = "none" if decision.version is None else f"version {decision.version}"
    return plain(f"- before: {before}") + "\n" + plain(f"- after: {after}")


def _section(title: str, *parts: str) -> Sequence[str]:
    """A title and what stands below it; nothing where nothing does."""
    return [f"## {title}", *parts] if any(parts) else []


def _step(step: Step) -> tuple[str, str]:
    return plain(step.text), code(step)


def _cell(text: str) -> str:
    return plain(text).replace("|", "\\|")


FEW_IMAGES = 100  # in a test split: below this the card warns
FEW_BOXES = 20  # of a class in it


def model_card(exhibit: Exhibit) -> str:
    """The card of the version that a decision made, as Markdown for its folder."""
    decision = exhibit.decision
    version = "" if decision.version is None else f" version {decision.version}"
    parts = [
        f"# {plain(decision.model)}{version}",
        f"> {SIMULATED}" if decision.simulated else "",
        plain(_what(exhibit)),
        "## Data", _data(exhibit),
        "## Figures", candidate(exhibit), plain(difference_sentence(exhibit)),
        grid(tables.classes(exhibit)),
        "## Limits", "\n".join(f"- {plain(limit)}" for limit in limits(exhibit)),
        "## Licence", _licence(exhibit),
        "## How to use it",
        *(part for step in own_steps(exhibit)
          for part in (f"### {step.title}", plain(step.text), code(step))),
        "## Where it comes from", grid(tables.identity(exhibit)),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def limits(exhibit: Exhibit) -> list[str]:
    """What the figures do not say."""
    images, found = test_images(exhibit), []
    if exhibit.decision.simulated:
        trainer = exhibit.study.spec.trainer
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
                f"{_sampling(exhibit)}a difference of the interval's width is luck."
            )
    found += _scarce(exhibit)
    if exhibit.decision.override:
        found.append(
            "A person promoted it past the gate: "
            f"{exhibit.decision.why or 'no reason was given'} ({exhibit.decision.actor})."
        )
    settings = {} if exhibit.evaluation is None else exhibit.evaluation.settings
    if "imgsz" in settings:
        found.append(f"Its figures hold for images scaled to {settings['imgsz']} px.")
    found.append(
        "It was chosen as the best of several trials in validation, so its validation figure "
        "flatters it; the test split did not choose it."
    )
    return found


def _what(exhibit: Exhibit) -> str:
    spec, decision = exhibit.study.spec, exhibit.decision
    kind = "A stand-in for a detector" if decision.simulated else "An object detector"
    return (
        f"{kind} ({spec.model}, trained by {exhibit.study.code_version}): trial {decision.trial} "
        f"of the hyperparameter search {exhibit.study.name}. {reason_sentence(decision)}"
    )


def _data(exhibit: Exhibit) -> str:
    study, images = exhibit.study, test_images(exhibit)
    names = _class_names(exhibit)
    lines = [
        f"dataset: {_data_name(study.spec.data)}",
        f"fingerprint: {study.fingerprint or 'none'}",
        "test split: "
        + ("not evaluated" if images is None else counted(images, "image"))
        + f", fingerprint {exhibit.evidence.test_fingerprint or study.test_fingerprint}",
        *([f"classes: {', '.join(names)}"] if names else []),
    ]
    return "\n".join(f"- {plain(line)}" for line in lines)


def _data_name(data: str | None) -> str:
    """The dataset's name; a card travels, so of a path only what says something elsewhere."""
    if data is None:
        return "none, the trainer needs none"
    return "/".join(data.replace("\\", "/").split("/")[-2:])


def _class_names(exhibit: Exhibit) -> list[str]:
    if exhibit.challenger is not None:
        return list(exhibit.challenger.names)
    return [one.name for one in exhibit.evidence.classes]


def _sampling(exhibit: Exhibit) -> str:
    ends = "" if exhibit.finalist is None else span(exhibit.finalist.interval)
    if not ends:
        return ""
    value = figure(exhibit.evidence.test_value)
    return f"with others like them {exhibit.metric} {value} may be anywhere in {ends}, and "


def _scarce(exhibit: Exhibit) -> list[str]:
    """Classes of which the test split has few or no objects."""
    found = exhibit.challenger
    if found is None:
        return []
    counts = {name: int((found.true_kind == at).sum()) for at, name in enumerate(found.names)}
    few = [f"{name} ({count})" for name, count in counts.items() if count < FEW_BOXES]
    if not few:
        return []
    shown = ", ".join(few[:10]) + (f" and {len(few) - 10} more" if len(few) > 10 else "")  # noqa: PLR2004 - a line's worth
    return [f"Classes with fewer than {FEW_BOXES} true boxes in the test split: {shown}."]


def _licence(exhibit: Exhibit) -> str:
    if not exhibit.licence:
        return "Not stated: the trainer names none."
    return plain(f"{exhibit.licence}. {exhibit.licence_note}".strip())

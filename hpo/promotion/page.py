"""decision.html: the decision on one page that needs no network and no other file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpo.promotion import forest, tables
from hpo.promotion.curves import curves
from hpo.promotion.exhibit import champion_of
from hpo.promotion.markup import paragraph, section, step, table, text
from hpo.promotion.matrices import matrices
from hpo.promotion.samples import samples
from hpo.promotion.usage import steps
from hpo.promotion.wording import (
    SIMULATED,
    by_person,
    difference_sentence,
    figure,
    headline,
    key_facts,
    outcome_word,
    reason_sentence,
)

if TYPE_CHECKING:
    from hpo.promotion.exhibit import Exhibit

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
            section("The difference", forest.differences(exhibit),
                    paragraph(difference_sentence(exhibit), "note")),
            section("The rules", table(tables.rules(exhibit), kind="rules")),
            section("The finalists", forest.finalists(exhibit),
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
    shown = curves(exhibit.curve, exhibit.metric, evidence.get("best_epoch"))
    sentence = tables.baseline_sentence(exhibit)
    return shown + paragraph(f"In validation, {sentence}.") + table(tables.parameters(exhibit))


def _champion(exhibit: Exhibit) -> str:
    decision, champion = exhibit.decision, champion_of(exhibit.evidence)
    before = "none" if decision.previous_version is None else f"version {decision.previous_version}"
    if champion.get("value") is not None:
        before += (
            f", trial {champion.get('trial')} of {champion.get('study')}: {exhibit.metric} "
            f"{figure(champion['value'])} on this test split"
            + (", evaluated again for this decision" if champion.get("evaluated") else "")
        )
    after = "none" if decision.version is None else f"version {decision.version}"
    return paragraph(f"Before: {before}.") + paragraph(f"After: {after}.")


def _footer(exhibit: Exhibit) -> str:
    decision = exhibit.decision
    return (
        f"<footer>Decision {text(exhibit.decision_id)} on {text(decision.model)} by the study "
        f"{text(decision.study)}.</footer>"
    )

"""decision.md: what was decided, on which figures, and how to use and undo it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.promotion import tables
from hpo.promotion.exhibit import champion_of
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
    validation_note,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.promotion.exhibit import Exhibit
    from hpo.promotion.tables import Table
    from hpo.promotion.usage import Step


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
        *_section("The champion", _champion(exhibit)),
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
    value = figure(evidence.get("value"), tables.DIGITS)
    note = validation_note(exhibit, tables.DIGITS)
    run = evidence.get("run_id")  # a card is written before it is in the evidence
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


def _champion(exhibit: Exhibit) -> str:
    decision, champion = exhibit.decision, champion_of(exhibit.evidence)
    before = "none"
    if decision.previous_version is not None:
        before = f"version {decision.previous_version}"
        if champion.get("value") is not None:
            again = ", evaluated again" if champion.get("evaluated") else ""
            before += (
                f" (trial {champion.get('trial')} of {champion.get('study')}; {exhibit.metric} "
                f"{figure(champion['value'])} on this test split{again})"
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

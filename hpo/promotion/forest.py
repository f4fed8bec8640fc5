"""The forest plot of a decision: differences against none, and finalists on the test split.

Each row is a text, a plot and the figures. The plot is an SVG whose horizontal places are shares of
its width, so that the page's texts keep their size on any screen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.promotion.exhibit import champion_of
from hpo.promotion.markup import text
from hpo.promotion.wording import difference_of, figure, signed, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.promotion.exhibit import Exhibit

SHOWN_CLASSES = 12
_MARGIN = 0.06  # of the plot's width, left free on both sides
_TICKS = 5


@dataclass(frozen=True)
class Row:
    """One line of the plot.

    Attributes:
        label: what it is.
        value: where its mark is.
        low, high: ends of its interval; None for none.
        figures: the same in figures.
        kind: CSS class of the mark: `main`, `other` or `champion`.
    """

    label: str
    value: float
    figures: str
    low: float | None = None
    high: float | None = None
    kind: str = "other"


@dataclass(frozen=True)
class Line:
    """A vertical line through all rows: where, and its CSS class."""

    value: float
    kind: str


def differences(exhibit: Exhibit) -> str:
    """The gain over the champion with its interval, and the difference of each class."""
    found = difference_of(exhibit.evidence)
    if not found or found.get("value") is None:
        return ""
    low, high = found.get("low"), found.get("high")
    figures = f"{signed(found['value'])} {span((low, high), sign=True)}"
    gain = Row(f"Gain in {exhibit.metric}", found["value"], figures, low, high, kind="main")
    rows, left_out = _class_rows(exhibit)
    rules = exhibit.study.spec.promotion
    lines = [Line(0.0, "zero")]
    notes = ["Right of the solid line the challenger is better."]
    if rules.min_gain:
        lines.append(Line(rules.min_gain, "wanted"))
        notes.append(f"Dashed: the gain wanted, {rules.min_gain:+g}.")
    if rules.max_class_loss is not None and rows:
        lines.append(Line(-rules.max_class_loss, "loss"))
        notes.append(f"Dotted: no class may lose more than {rules.max_class_loss:g}.")
    if left_out:
        notes.append(f"The {len(rows)} classes that changed most; {left_out} are not shown.")
    return _figure("Challenger against champion on the test split", [gain, *rows], lines, notes)


def finalists(exhibit: Exhibit) -> str:
    """The objective of each finalist on the test split, with its interval."""
    rows = []
    for one in exhibit.evidence.get("finalists") or ():
        value = ((one.get("evaluation") or {}).get("metrics") or {}).get(exhibit.metric)
        if value is None:
            continue
        main = one["trial"] == exhibit.decision.trial
        label = f"trial {one['trial']}" + (" (challenger)" if main else "")
        low, high = one.get("interval") or (None, None)
        figures = f"{figure(value)} {span((low, high))}"
        rows.append(Row(label, value, figures, low, high, kind="main" if main else "other"))
    if not rows:
        return ""
    lines, notes = [], ["Best in validation first: the test split did not choose the challenger."]
    champion = champion_of(exhibit.evidence)
    if champion.get("value") is not None:
        label = f"version {champion['version']} (champion)"
        rows.append(Row(label, champion["value"], figure(champion["value"]), kind="champion"))
        lines.append(Line(champion["value"], "wanted"))
        notes.append("Dashed: the champion.")
    return _figure(f"{exhibit.metric} of the finalists on the test split", rows, lines, notes)


def ticks(low: float, high: float) -> list[float]:
    """Round values from `low` to `high`, about five."""
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def _class_rows(exhibit: Exhibit) -> tuple[list[Row], int]:
    compared = [
        one for one in exhibit.evidence.get("classes") or () if one["difference"] is not None
    ]
    most = sorted(compared, key=lambda one: -abs(one["difference"]))[:SHOWN_CLASSES]
    rows = [
        Row(f"AP50 of {one['name']}", one["difference"], signed(one["difference"]))
        for one in sorted(most, key=lambda one: -one["difference"])
    ]
    return rows, len(compared) - len(rows)


def _figure(caption: str, rows: Sequence[Row], lines: Sequence[Line], notes: Sequence[str]) -> str:
    scale = _Scale.of(rows, lines)
    body = "".join(_row(row, lines, scale) for row in rows)
    return (
        f'<figure class="forest"><figcaption>{text(caption)}</figcaption>{body}'
        f'<div class="row axis" aria-hidden="true"><span></span>{scale.axis()}<span></span></div>'
        f'<p class="note">{text(" ".join(notes))}</p></figure>'
    )


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    @classmethod
    def of(cls, rows: Sequence[Row], lines: Sequence[Line]) -> _Scale:
        every: list[Any] = [end for row in rows for end in (row.low, row.value, row.high)]
        values = [value for value in every if value is not None] + [line.value for line in lines]
        low, high = min(values), max(values)
        if high - low < 1e-9:  # noqa: PLR2004 - all alike: any width will do
            low, high = low - 0.05, high + 0.05
        return cls(low, high)

    def at(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * (_MARGIN + share * (1 - 2 * _MARGIN)):.2f}%"

    def axis(self) -> str:
        marks = "".join(
            f'<line x1="{self.at(value)}" x2="{self.at(value)}" y1="0" y2="5"/>'
            f'<text x="{self.at(value)}" y="18" text-anchor="middle">{value:g}</text>'
            for value in ticks(self.low, self.high)
        )
        return f'<svg height="22">{marks}</svg>'


def _row(row: Row, lines: Sequence[Line], scale: _Scale) -> str:
    ruled = "".join(
        f'<line class="{line.kind}" x1="{scale.at(line.value)}" x2="{scale.at(line.value)}" '
        'y1="0" y2="100%"/>'
        for line in lines
    )
    interval = ""
    if row.low is not None and row.high is not None:
        low, high = scale.at(row.low), scale.at(row.high)
        interval = (
            f'<line class="span" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
            f'<line class="span" x1="{low}" x2="{low}" y1="30%" y2="70%"/>'
            f'<line class="span" x1="{high}" x2="{high}" y1="30%" y2="70%"/>'
        )
    mark = f'<circle cx="{scale.at(row.value)}" cy="50%" r="{6 if row.kind == "main" else 4}"/>'
    label = text(f"{row.label}: {row.figures}")
    return (
        f'<div class="row {row.kind}"><span class="label">{text(row.label)}</span>'
        f'<svg height="32" role="img" aria-label="{label}">{ruled}{interval}{mark}</svg>'
        f'<span class="figures">{text(row.figures)}</span></div>'
    )

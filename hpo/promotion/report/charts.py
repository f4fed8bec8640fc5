"""Charts of a decision as SVG: the forest plot, and the curves of a training.

Each row is a text, a plot and the figures. The plot is an SVG whose horizontal places are shares of
its width, so that the page's texts keep their size on any screen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.promotion.report.formatting import figure, signed, span
from hpo.promotion.report.markup import text
from hpo.trainer import DETECTION_METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpo.promotion.report.context import Exhibit

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
    found = exhibit.evidence.gain
    if found is None or math.isnan(found.value):
        return ""
    low, high = found.low, found.high
    figures = f"{signed(found.value)} {span((low, high), sign=True)}"
    gain = Row(f"Gain in {exhibit.metric}", found.value, figures, low, high, kind="main")
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
    for one in exhibit.evidence.finalists:
        value = one.test_value(exhibit.metric)
        if value is None:
            continue
        main = one.trial == exhibit.decision.trial
        label = f"trial {one.trial}" + (" (challenger)" if main else "")
        low, high = one.interval or (None, None)
        figures = f"{figure(value)} {span((low, high))}"
        rows.append(Row(label, value, figures, low, high, kind="main" if main else "other"))
    if not rows:
        return ""
    lines, notes = [], ["Best in validation first: the test split did not choose the challenger."]
    champion = exhibit.evidence.champion
    if champion is not None and champion.value is not None:
        label = f"version {champion.version} (champion)"
        rows.append(Row(label, champion.value, figure(champion.value), kind="champion"))
        lines.append(Line(champion.value, "wanted"))
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
        (one.difference, one.name) for one in exhibit.evidence.classes if one.difference is not None
    ]
    most = sorted(compared, key=lambda one: -abs(one[0]))[:SHOWN_CLASSES]
    rows = [
        Row(f"AP50 of {name}", change, signed(change))
        for change, name in sorted(most, key=lambda one: -one[0])
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


MOST_LOSSES = 5
_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34  # room around the lines
_STYLES = ("", "7 4", "2 3", "9 3 2 3")  # no line is told from another by its colour alone


@dataclass(frozen=True)
class Panel:
    """Series that share a scale, each with a value or None for each epoch."""

    title: str
    series: Mapping[str, Sequence[float | None]]


def curves(curve: Sequence[Mapping[str, Any]], metric: str, best_epoch: int | None) -> str:
    """All panels; "" where no epoch is known.

    Args:
        curve: `epoch` and `metrics` of each epoch.
        metric: the objective's, drawn first.
        best_epoch: marked by a line.
    """
    if not curve:
        return ""
    epochs = [int(point["epoch"]) for point in curve]
    drawn = "".join(_panel(panel, epochs, best_epoch) for panel in panels(curve, metric))
    return f'<div class="panels">{drawn}</div>' if drawn else ""


def panels(curve: Sequence[Mapping[str, Any]], metric: str) -> list[Panel]:
    """The figures together, then each loss with training and validation together."""
    names = list(dict.fromkeys(name for point in curve for name in point["metrics"]))
    first = [metric] if metric in names else []
    shown = first + [name for name in DETECTION_METRICS if name in names and name != metric]
    found = [Panel("Figures in validation", _series(curve, shown))] if shown else []
    losses = [name for name in names if "loss" in name and name not in shown]
    stems = dict.fromkeys(name.rpartition("/")[2] for name in losses)
    for stem in list(stems)[:MOST_LOSSES]:
        mine = [name for name in losses if name.rpartition("/")[2] == stem]
        found.append(Panel(stem, _series(curve, mine)))
    return [panel for panel in found if _known(panel)]


def _series(
    curve: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, list[float | None]]:
    return {name: [_finite(point["metrics"].get(name)) for point in curve] for name in names}


def _panel(panel: Panel, epochs: Sequence[int], best_epoch: int | None) -> str:
    values = _known(panel)
    low, high = min(values), max(values)
    if high - low < 1e-9:  # noqa: PLR2004 - a flat line: any height will do
        low, high = low - 0.05, high + 0.05
    place = _Place(epochs[0], epochs[-1], low, high)
    lines = "".join(
        _line(series, epochs, place, at) for at, series in enumerate(panel.series.values())
    )
    best = ""
    if best_epoch is not None and best_epoch in epochs:
        best = _best(best_epoch, panel, epochs, place)
    keys = "".join(_key(name, at) for at, name in enumerate(panel.series))
    title = text(f"{panel.title} by epoch: {', '.join(panel.series)}")
    return (
        f"<figure><figcaption>{text(panel.title)}</figcaption>"
        f'<svg class="curves" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">'
        f"{place.grid()}{best}{lines}</svg>"
        f'<p class="keys">{keys}</p></figure>'
    )


@dataclass(frozen=True)
class _Place:
    """Epochs and values -> px of the panel."""

    first: int
    last: int
    low: float
    high: float

    def x(self, epoch: int) -> float:
        share = (epoch - self.first) / ((self.last - self.first) or 1)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> str:
        values = "".join(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{self.y(value):.1f}" '
            f'y2="{self.y(value):.1f}"/><text x="{_LEFT - 5}" y="{self.y(value) + 4:.1f}" '
            f'text-anchor="end">{value:g}</text>'
            for value in ticks(self.low, self.high)
        )
        marks = sorted({round(one) for one in self._epochs()})
        epochs = "".join(
            f'<text x="{self.x(epoch):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{epoch}</text>'
            for epoch in marks
        )
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        name = f'<text x="{middle}" y="{_HEIGHT - 3}" text-anchor="middle">epoch</text>'
        return values + epochs + name

    def _epochs(self) -> list[float]:
        if self.last == self.first:
            return [self.first]
        between = (one for one in ticks(self.first, self.last) if self._inside(one))
        return [self.first, *between, self.last]

    def _inside(self, epoch: float) -> bool:
        # Far enough from both ends for its number to be read
        room = (self.last - self.first) * 0.08
        return self.first + room <= epoch <= self.last - room


def _line(series: Sequence[float | None], epochs: Sequence[int], place: _Place, at: int) -> str:
    """A series, interrupted where it has no value."""
    pieces: list[list[str]] = [[]]
    for epoch, value in zip(epochs, series, strict=True):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{place.x(epoch):.1f},{place.y(value):.1f}")
    dash = f' stroke-dasharray="{_STYLES[at % len(_STYLES)]}"' if at % len(_STYLES) else ""
    drawn = []
    for points in pieces:
        if len(points) == 1:
            x, y = points[0].split(",")
            drawn.append(f'<circle class="line{at % 4}" cx="{x}" cy="{y}" r="3"/>')
        elif points:
            drawn.append(f'<polyline class="line{at % 4}"{dash} points="{" ".join(points)}"/>')
    return "".join(drawn)


def _best(best_epoch: int, panel: Panel, epochs: Sequence[int], place: _Place) -> str:
    x, at = place.x(best_epoch), epochs.index(best_epoch)
    here = [series[at] for series in panel.series.values()]
    known = [value for value in here if value is not None] or [place.high]
    # Where the lines are not
    high = sum(known) / len(known) < (place.low + place.high) / 2
    y = _TOP + 10 if high else _HEIGHT - _BOTTOM - 6
    anchor, shift = ("end", -4) if x > _WIDTH / 2 else ("start", 4)
    return (
        f'<line class="best" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text x="{x + shift:.1f}" y="{y}" text-anchor="{anchor}">'
        f"best: {best_epoch}</text>"
    )


def _key(name: str, at: int) -> str:
    dash = f' stroke-dasharray="{_STYLES[at % len(_STYLES)]}"' if at % len(_STYLES) else ""
    return (
        '<span class="key"><svg width="28" height="10" aria-hidden="true">'
        f'<line class="line{at % 4}"{dash} x1="0" x2="28" y1="5" y2="5"/></svg>{text(name)}</span>'
    )


def _known(panel: Panel) -> list[float]:
    return [value for series in panel.series.values() for value in series if value is not None]


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

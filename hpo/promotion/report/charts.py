"""Geometry of a decision's charts: the forest plot, and the curves of a training.

The templates draw them as SVG. Each row of a forest plot is a text, a plot and the figures; the
plot's horizontal places are shares of its width, so that texts keep their size on any screen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hpo.promotion.report.formatting import figure, signed, span
from hpo.trainer import DETECTION_METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpo.promotion.report.context import ReportContext

SHOWN_CLASSES = 12
_MARGIN = 0.06  # of the plot's width, left free on both sides
_TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a forest plot.

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


@dataclass(frozen=True)
class Forest:
    """A forest plot.

    Attributes:
        caption: what it shows.
        rows: its lines, the first one uppermost.
        lines: through all of them.
        notes: what the lines mean, in sentences.
    """

    caption: str
    rows: Sequence[Row]
    lines: Sequence[Line]
    notes: Sequence[str]

    @cached_property
    def _span(self) -> tuple[float, float]:
        ends = [end for row in self.rows for end in (row.low, row.value, row.high)]
        values = [end for end in ends if end is not None] + [line.value for line in self.lines]
        return _apart(min(values), max(values))

    def place(self, value: float) -> str:
        """Where a value is, as a share of the plot's width."""
        low, high = self._span
        share = (value - low) / (high - low)
        return f"{100 * (_MARGIN + share * (1 - 2 * _MARGIN)):.2f}%"

    @property
    def ticks(self) -> list[float]:
        """The values beside the axis."""
        return ticks(*self._span)


def differences(context: ReportContext) -> Forest | None:
    """The gain over the champion with its interval, and the difference of each class."""
    found = context.evidence.gain
    if found is None or math.isnan(found.value):
        return None
    low, high = found.low, found.high
    figures = f"{signed(found.value)} {span((low, high), sign=True)}"
    label = f"Gain in {context.metric}"
    gain = Row(label=label, value=found.value, figures=figures, low=low, high=high, kind="main")
    rows, left_out = _class_rows(context)
    rules = context.study.spec.promotion
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
    return Forest("Challenger against champion on the test split", [gain, *rows], lines, notes)


def finalists(context: ReportContext) -> Forest | None:
    """The objective of each finalist on the test split, with its interval."""
    rows = []
    for one in context.evidence.finalists:
        value = one.test_value(context.metric)
        if value is None:
            continue
        main = one.trial == context.decision.trial
        label = f"trial {one.trial}" + (" (challenger)" if main else "")
        low, high = one.interval or (None, None)
        figures = f"{figure(value)} {span((low, high))}"
        kind = "main" if main else "other"
        rows.append(Row(label=label, value=value, figures=figures, low=low, high=high, kind=kind))
    if not rows:
        return None
    lines, notes = [], ["Best in validation first: the test split did not choose the challenger."]
    champion = context.evidence.champion
    if champion is not None and champion.value is not None:
        label = f"version {champion.version} (champion)"
        figures = figure(champion.value)
        rows.append(Row(label=label, value=champion.value, figures=figures, kind="champion"))
        lines.append(Line(champion.value, "wanted"))
        notes.append("Dashed: the champion.")
    return Forest(f"{context.metric} of the finalists on the test split", rows, lines, notes)


def _apart(low: float, high: float) -> tuple[float, float]:
    """Ends of a scale; where all is alike any width will do."""
    if high - low < 1e-9:  # noqa: PLR2004 - less than is drawn
        return low - 0.05, high + 0.05
    return low, high


def ticks(low: float, high: float) -> list[float]:
    """Round values from `low` to `high`, about five."""
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def _class_rows(context: ReportContext) -> tuple[list[Row], int]:
    compared = [
        (one.difference, one.name) for one in context.evidence.classes if one.difference is not None
    ]
    most = sorted(compared, key=lambda one: -abs(one[0]))[:SHOWN_CLASSES]
    rows = [
        Row(label=f"AP50 of {name}", value=change, figures=signed(change))
        for change, name in sorted(most, key=lambda one: -one[0])
    ]
    return rows, len(compared) - len(rows)


MOST_LOSSES = 5
_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34  # room around the lines
_STYLES = ("", "7 4", "2 3", "9 3 2 3")  # no line is told from another by its colour alone


@dataclass(frozen=True)
class Panel:
    """Series that share a scale, each with a value or None for each epoch."""

    title: str
    series: Mapping[str, Sequence[float | None]]


def curves(
    curve: Sequence[Mapping[str, Any]], metric: str, best_epoch: int | None
) -> list[PanelDrawing]:
    """All panels as they are drawn; empty where no epoch is known.

    Args:
        curve: `epoch` and `metrics` of each epoch.
        metric: the objective's, drawn first.
        best_epoch: marked by a line.
    """
    epochs = [int(point["epoch"]) for point in curve]
    return [PanelDrawing.of(panel, epochs, best_epoch) for panel in panels(curve, metric)]


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


@dataclass(frozen=True)
class Mark:
    """A figure beside an axis: its place in px, that of its text's foot, and the text."""

    at: str
    text: str
    text_at: str = ""


@dataclass(frozen=True, kw_only=True)
class BestEpoch:
    """The line at the best epoch, and its text where the curves are not; places in px."""

    epoch: int
    x: str
    text_x: str
    y: int
    anchor: str


@dataclass(frozen=True)
class DrawnSeries:
    """A series as lines.

    Attributes:
        name: of the series.
        kind: CSS class, which has its colour.
        dash: pattern of the line; "" for none.
        pieces: points in px of each part without a gap; one alone is a dot.
    """

    name: str
    kind: str
    dash: str
    pieces: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True, kw_only=True)
class PanelDrawing:
    """A panel as it is drawn, in px.

    Attributes:
        title: what its series are.
        values, epochs: figures beside the axes.
        best: the best epoch; None where it is not among those drawn.
        lines: the series.
    """

    title: str
    values: list[Mark]
    epochs: list[Mark]
    best: BestEpoch | None
    lines: list[DrawnSeries]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = _HEIGHT - _BOTTOM

    @classmethod
    def of(cls, panel: Panel, epochs: Sequence[int], best_epoch: int | None) -> PanelDrawing:
        """The panel with its epochs, best epoch marked."""
        values = _known(panel)
        low, high = _apart(min(values), max(values))
        place = _Place(epochs[0], epochs[-1], low, high)
        return cls(
            title=panel.title,
            values=place.value_marks(),
            epochs=place.epoch_marks(),
            best=_best(best_epoch, panel, epochs, place),
            lines=[
                _drawn(name, series, epochs, place, at)
                for at, (name, series) in enumerate(panel.series.items())
            ],
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

    def value_marks(self) -> list[Mark]:
        return [
            Mark(f"{self.y(value):.1f}", f"{value:g}", f"{self.y(value) + 4:.1f}")
            for value in ticks(self.low, self.high)
        ]

    def epoch_marks(self) -> list[Mark]:
        epochs = sorted({round(one) for one in self._epochs()})
        return [Mark(f"{self.x(epoch):.1f}", str(epoch)) for epoch in epochs]

    def _epochs(self) -> list[float]:
        if self.last == self.first:
            return [self.first]
        between = (one for one in ticks(self.first, self.last) if self._inside(one))
        return [self.first, *between, self.last]

    def _inside(self, epoch: float) -> bool:
        # Far enough from both ends for its number to be read
        room = (self.last - self.first) * 0.08
        return self.first + room <= epoch <= self.last - room


def _drawn(
    name: str, series: Sequence[float | None], epochs: Sequence[int], place: _Place, at: int
) -> DrawnSeries:
    """A series, interrupted where it has no value."""
    pieces: list[list[tuple[str, str]]] = [[]]
    for epoch, value in zip(epochs, series, strict=True):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((f"{place.x(epoch):.1f}", f"{place.y(value):.1f}"))
    kept = tuple(tuple(points) for points in pieces if points)
    return DrawnSeries(name, f"line{at % len(_STYLES)}", _STYLES[at % len(_STYLES)], kept)


def _best(
    best_epoch: int | None, panel: Panel, epochs: Sequence[int], place: _Place
) -> BestEpoch | None:
    if best_epoch is None or best_epoch not in epochs:
        return None
    x, at = place.x(best_epoch), epochs.index(best_epoch)
    here = [series[at] for series in panel.series.values()]
    known = [value for value in here if value is not None] or [place.high]
    # Where the lines are not
    high = sum(known) / len(known) < (place.low + place.high) / 2
    y = _TOP + 10 if high else _HEIGHT - _BOTTOM - 6
    anchor, shift = ("end", -4) if x > _WIDTH / 2 else ("start", 4)
    return BestEpoch(epoch=best_epoch, x=f"{x:.1f}", text_x=f"{x + shift:.1f}", y=y, anchor=anchor)


def _known(panel: Panel) -> list[float]:
    return [value for series in panel.series.values() for value in series if value is not None]


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

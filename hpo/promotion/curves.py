"""The curves of a training as SVG: its figures and its losses by epoch; knows no decision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.promotion.forest import ticks
from hpo.promotion.markup import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIGURES = ("mAP50", "mAP50-95", "precision", "recall")
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
    shown = first + [name for name in FIGURES if name in names and name != metric]
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

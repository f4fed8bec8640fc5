"""Confusion matrices of a challenger and a champion as HTML, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.evaluation.confusion import CONFIDENCE, OVERLAP, confusion
from hpo.promotion.markup import paragraph, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hpo.evaluation.detections import Detections
    from hpo.promotion.exhibit import Exhibit

MOST_CLASSES = 10
BACKGROUND = "background"
_WIDE = 7  # from so many columns on they stand below each other


def matrices(exhibit: Exhibit) -> str:
    """The challenger's beside the champion's; "" where no detections are known."""
    shown = [
        (title, found)
        for title, found in (
            ("Challenger", exhibit.challenger),
            (f"Champion, version {exhibit.decision.previous_version}", exhibit.champion),
        )
        if found is not None
    ]
    if not shown:
        return ""
    kept = _frequent(shown[0][1])
    drawn = "".join(_matrix(title, found, kept) for title, found in shown)
    note = (
        "A row is a true class, a column what was found in its place: detections above "
        f"{CONFIDENCE:g} confidence that overlap a true box by more than {OVERLAP:g}. Each row "
        "adds "
        "up to 100%, the small figures are counts. Column background: missed. Row background: "
        "found where nothing is."
    )
    kind = "matrices wide" if len(kept) + 1 >= _WIDE else "matrices"
    return f'<div class="{kind}">{drawn}</div>{paragraph(note, "note")}'


def _frequent(found: Detections) -> list[int]:
    """The classes with the most true boxes, in the order of the classes."""
    counts = np.bincount(found.true_kind, minlength=len(found.names))
    return sorted(np.argsort(-counts, kind="stable")[:MOST_CLASSES].tolist())


def _matrix(title: str, found: Detections, kept: list[int]) -> str:
    counts = confusion(found)
    names = [found.names[kind] for kind in kept if kind < len(found.names)]
    if len(found.names) > len(names):
        counts = _merged(counts, kept)
        names.append(f"{len(found.names) - len(kept)} others")
    names.append(BACKGROUND)
    head = "".join(
        f'<th scope="col" title="{text(name)}"><span>{text(name)}</span></th>' for name in names
    )
    rows = "".join(_row(name, line) for name, line in zip(names, counts, strict=True))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(title)}">'
        f'<table class="matrix"><caption>{text(title)}</caption><thead><tr>'
        f'<td class="corner">true ↓ found →</td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _merged(counts: NDArray[Any], kept: list[int]) -> NDArray[Any]:
    """The matrix with all classes but the kept ones as one."""
    last = len(counts) - 1
    group = np.full(len(counts), len(kept))
    group[kept] = np.arange(len(kept))
    group[last] = len(kept) + 1
    merged = np.zeros((len(kept) + 2, len(kept) + 2), dtype=np.int64)
    np.add.at(merged, (group[:, None], group[None, :]), counts)
    return merged


def _row(name: str, counts: Sequence[int] | NDArray[Any]) -> str:
    total = int(sum(counts))
    cells = "".join(_cell(int(count), total) for count in counts)
    return f'<tr><th scope="row">{text(name)}</th>{cells}</tr>'


def _cell(count: int, total: int) -> str:
    if not count:
        return "<td>·</td>"
    share = count / total
    return f'<td style="--share:{share:.3f}">{share * 100:.0f}%<small>{count}</small></td>'

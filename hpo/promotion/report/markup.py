"""Build HTML of a decision's page: escaped texts, tables, code and pictures."""

from __future__ import annotations

import base64
import re
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.promotion.report.tables import Table
    from hpo.promotion.report.usage import Step

# Characters that no HTML document may hold, whatever a class was named
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_NUMBER = re.compile(r"[-+]?[\d.,]+(%| ms| MB| h| s| min)?( ± [\d.]+)?|—|")


def text(value: Any) -> str:
    """A text as HTML, in elements and in quoted attributes."""
    return escape(_FORBIDDEN.sub("\ufffd", str(value)), quote=True)


def table(found: Table | None, *, kind: str = "") -> str:
    """A table that scrolls by itself where it is wider than the page; "" for none."""
    if found is None:
        return ""
    numeric = [
        all(_NUMBER.fullmatch(row[column]) for row in found.rows)
        for column in range(len(found.head))
    ]
    head = "".join(
        f'<th scope="col"{_right(number)}>{text(name)}</th>'
        for name, number in zip(found.head, numeric, strict=True)
    )
    rows = "".join(
        _row(row, numeric, marked=at in found.marked) for at, row in enumerate(found.rows)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(found.caption)}">'
        f'<table class="{kind}"><caption>{text(found.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph; "" where there is nothing to say."""
    return f'<p class="{kind}">{text(words)}</p>' if words else ""


def section(title: str, *parts: str) -> str:
    """A section with its title; "" where nothing stands in it."""
    inside = "".join(parts)
    return f"<section><h2>{text(title)}</h2>{inside}</section>" if inside else ""


def step(found: Step) -> str:
    """One thing to do, with its code."""
    code = f'<pre tabindex="0"><code>{text(found.code)}</code></pre>' if found.code else ""
    return f"<h3>{text(found.title)}</h3>{paragraph(found.text)}{code}"


def jpeg(content: bytes, alt: str, width: int, height: int) -> str:
    """A picture inside the page."""
    data = base64.b64encode(content).decode("ascii")
    return (
        f'<img alt="{text(alt)}" width="{width}" height="{height}" '
        f'src="data:image/jpeg;base64,{data}">'
    )


def _row(cells: tuple[str, ...], numeric: list[bool], *, marked: bool) -> str:
    first, *others = cells
    tail = "".join(
        f"<td{_right(number)}>{text(cell)}</td>"
        for cell, number in zip(others, numeric[1:], strict=True)
    )
    kind = ' class="marked"' if marked else ""
    return f'<tr{kind}><th scope="row"{_right(numeric[0])}>{text(first)}</th>{tail}</tr>'


def _right(number: bool) -> str:
    return ' class="number"' if number else ""

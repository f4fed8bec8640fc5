"""Suggest the nearest known name for an unknown one."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A sentence part that names the nearest known name, or all of them when none is near."""
    names = [str(name) for name in known]
    near = get_close_matches(str(given), names, n=1, cutoff=0.6)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" (known: {', '.join(sorted(names))})" if names else ""

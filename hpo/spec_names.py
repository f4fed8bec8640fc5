"""What a study, a registered model and its alias may be called; knows no file or MLflow."""

from __future__ import annotations

import re

LONGEST = 200  # characters; MLflow's and Optuna's columns hold 256 and 512

_ALIAS = re.compile(r"[\w-]+")
# MLflow answers `models:/NAME@latest` and `@v3` itself
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)


def name_fault(name: str, forbidden: str) -> str:
    """What is wrong with the name of a study or model, or "".

    Args:
        name: the name given.
        forbidden: characters that it must not have.
    """
    if not name:
        return "is empty, a name is expected"
    if name != name.strip() or not name.isprintable():
        return f"{name!r} must have no space at its ends, no line break and no control character"
    if found := [mark for mark in forbidden if mark in name]:
        return f"{name!r} must not have {' or '.join(repr(mark) for mark in found)}"
    if name.startswith(("-", ".")):
        return f"{name!r} must not start with {name[0]!r}"  # an option; MLflow refuses `..`
    if len(name) > LONGEST:
        return f"has {len(name)} characters, at most {LONGEST} are expected"
    return ""


def alias_fault(alias: str) -> str:
    """What is wrong with an alias of the MLflow Model Registry, or ""."""
    if _RESERVED.fullmatch(alias):
        return f"{alias!r} is reserved by MLflow; take another, e.g. champion"
    if not _ALIAS.fullmatch(alias) or len(alias) > LONGEST:
        return f"{alias!r} is none that MLflow takes: letters, digits, - and _ are expected"
    return ""

"""Check names of studies, registered models and aliases, and name a trial's area in the store."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uuid

    from hpo.studies.fields import Fields

LONGEST = 200  # characters; MLflow's and Optuna's columns hold 256 and 512

_ALIAS = re.compile(r"[\w-]+")
# MLflow answers `models:/NAME@latest` and `@v3` itself
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
PREVIOUS = "previous"  # the alias of the champion before


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


def take_name(fields: Fields, key: str, default: str, forbidden: str, required: str = "") -> str:
    """The name at `key` of a study file; its faults are noted there. See `name_fault`."""
    name: str = fields.take(key, str, default, required=required)
    fault = name_fault(name, forbidden) if name or isinstance(fields.values.get(key), str) else ""
    if fault:
        fields.fault(key, fault)
    return name


def alias_fault(alias: str) -> str:
    """What is wrong with an alias of the MLflow Model Registry, or ""."""
    if alias.lower() == PREVIOUS:
        return f"{alias!r} is kept for the champion before; take another, e.g. champion"
    if _RESERVED.fullmatch(alias):
        return f"{alias!r} is reserved by MLflow; take another, e.g. champion"
    if not _ALIAS.fullmatch(alias) or len(alias) > LONGEST:
        return f"{alias!r} is none that MLflow takes: letters, digits, - and _ are expected"
    return ""


def area_of(study: uuid.UUID, number: int, token: uuid.UUID) -> str:
    """Where an attempt's checkpoints lie in the store."""
    return f"checkpoints/{study}/{number:04d}-{token.hex[:12]}"

"""Bugs that the suite must see: what replaces a function of the product, by the bug's name."""

from __future__ import annotations

import shutil
from typing import Any


def _fetch_unchecked(_real: Any) -> Any:
    def fetch(self: Any, sha256: str, target: Any, area: str = "objects") -> Any:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._place(sha256, area), target)
        return target

    return fetch


def _find_nothing(_real: Any) -> Any:
    def find(_self: Any, _decision: str) -> None:
        return None

    return find


def _record_nothing(_real: Any) -> Any:
    def keep(_self: Any, _claim: Any, _kept: Any) -> Any:
        from hpo.claims.claims import LeaseStatus

        return LeaseStatus.GO

    return keep


# Name -> (module, qualified name, what makes the replacement of the real function).
BUGS: dict[str, tuple[str, str, Any]] = {
    "content is not checked": (
        "hpo.storage.artifacts.folder",
        "FolderStore.fetch",
        _fetch_unchecked,
    ),
    "checkpoints are not recorded": (
        "hpo.claims.claims",
        "Claims.record_checkpoint",
        _record_nothing,
    ),
    "a version is not looked up": ("hpo.tracking.registry", "Registry.find", _find_nothing),
}


def planted(name: str) -> tuple[str, str, Any]:
    """The bug of that name, its spaces written as underscores."""
    return BUGS[name.replace("_", " ")]

"""The files of a decision, from MLflow to a folder; writes no decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.promotion.files import METADATA, write_files
from hpo.storage.postgres.engine import storage_url
from hpo.tracking.client import open_client
from hpo.tracking.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.promotion.decision import Decision
    from hpo.settings import Settings


NAMES = ("decision.md", "decision.html", "metrics.json", METADATA)


def fetch_files(settings: Settings, decision: Decision, folder: Path) -> None:
    """Write what the decision's run holds of it into a folder; each file at once or not at all.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    registry = Registry(open_client(settings, storage_url(settings)))
    write_files(folder, registry.read_texts(decision.evidence["run_id"], NAMES))

"""Check on a node whether it can run a launch's workers, without claiming a trial."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.util import get_node_ip_address
from sqlalchemy.exc import DBAPIError

from hpo.errors import HpoError, NodesError, ServiceError, UsageError, WeightsError
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres import schema
from hpo.storage.postgres.engine import connect
from hpo.storage.postgres.errors import explain
from hpo.studies.store import find_study
from workers.device import choose_device
from workers.ray_launcher.node_settings import NodeSettings

if TYPE_CHECKING:
    from hpo.settings import Settings


def fault_here(node_settings: dict[str, Any], *, gpus: bool) -> tuple[str, bool] | None:
    """What this node lacks, in words, and whether that is a service which cannot be reached now.

    None where it can run workers.

    Args:
        node_settings: fields of `NodeSettings`.
        gpus: whether workers train on GPUs.
    """
    try:
        _require_fit(NodeSettings(**node_settings), gpus=gpus)
    except HpoError as error:
        return f"{error}. {error.hint}".removesuffix(". "), isinstance(error, ServiceError)
    except OSError as error:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), False
    return None


def require_fit(node_settings: NodeSettings, *, gpus: bool) -> None:
    """Say by the node's address what it lacks.

    Raises:
        NodesError: it cannot run workers.
    """
    if found := fault_here(vars(node_settings), gpus=gpus):
        fault, passing = found
        told = [f"{get_node_ip_address()}: {fault}"]
        raise NodesError("a node cannot run workers", told, passing=passing)


def _require_fit(node_settings: NodeSettings, *, gpus: bool) -> None:
    settings = node_settings.here()
    if gpus:
        choose_device("cuda")
    _require_database(node_settings, settings)
    _require_store(node_settings, settings)


def _require_database(node_settings: NodeSettings, settings: Settings) -> None:
    """The launching machine's: studies of one name may be in several."""
    engine = connect(settings, pool_size=1)
    try:
        schema.check(engine)
        study = find_study(engine, node_settings.study)
    except DBAPIError as error:
        meaning = explain(error, str(engine.url))
        if meaning is None:
            raise
        raise meaning from error
    finally:
        engine.dispose()
    if study is None or str(study.uid) != node_settings.study_uid:
        has = "has no study" if study is None else "has another study"
        raise UsageError(
            "its HPO_STORAGE is not the launching machine's database: "
            f"it {has} '{node_settings.study}'",
            hint="Give the same HPO_STORAGE where Ray is started on that node.",
        )


def _require_store(node_settings: NodeSettings, settings: Settings) -> None:
    """The launching machine's: folders and buckets of one name may be on several servers."""
    store = open_store(settings)
    store.require_writable(make=False)
    if not node_settings.store_probe:
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            store.fetch(
                node_settings.store_probe,
                Path(folder) / "store-probe",
                node_settings.store_probe_area,
            )
        except WeightsError as error:
            raise UsageError(
                f"the artifacts in {store.place} here are not those of the launching machine",
                hint="A bucket: give the same AWS_ENDPOINT_URL where Ray is started on that node. "
                "A folder: share it with all nodes and set HPO_ARTIFACTS to where it is mounted on "
                "each.",
            ) from error

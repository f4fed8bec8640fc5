"""Whether this node of a cluster can run a launch's workers; runs on the node, claims nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.util import get_node_ip_address

from hpo.artifacts.opening import open_store
from hpo.database import schema
from hpo.database.engine import connect
from hpo.errors import HpoError, NodesError, UsageError
from workers.device import choose_device
from workers.ray_launcher.base import Base

if TYPE_CHECKING:
    from hpo.settings import Settings


def fault_here(base: dict[str, Any], *, gpus: bool) -> str | None:
    """What this node lacks, in words; None where it can run workers.

    Args:
        base: fields of `Base`.
        gpus: whether workers train on GPUs.
    """
    try:
        _require_fit(Base(**base), gpus=gpus)
    except HpoError as error:
        return f"{error}. {error.hint}".removesuffix(". ")
    except OSError as error:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return None


def require_fit(base: Base, *, gpus: bool) -> None:
    """Say by the node's address what it lacks.

    Raises:
        NodesError: it cannot run workers.
    """
    if fault := fault_here(vars(base), gpus=gpus):
        raise NodesError("a node cannot run workers", [f"{get_node_ip_address()}: {fault}"])


def _require_fit(base: Base, *, gpus: bool) -> None:
    settings = base.here()
    if gpus:
        choose_device("cuda")
    engine = connect(settings, pool_size=1)
    try:
        schema.check(engine)
    finally:
        engine.dispose()
    _require_store(base, settings)


def _require_store(base: Base, settings: Settings) -> None:
    if base.witness and not (Path(settings.artifacts) / base.witness).exists():
        raise UsageError(
            f"HPO_ARTIFACTS={settings.artifacts} is not the launching machine's folder here",
            hint="Set it to s3://BUCKET/PREFIX on the launching machine, or share the folder with "
            "all nodes and set it to where it is mounted on each.",
        )
    open_store(settings).require_writable(make=False)

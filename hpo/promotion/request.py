"""The request that `finalize` works on: study, services, override and options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection

    from hpo.promotion.champion_evaluation import TrainerRuntime
    from hpo.settings import Settings
    from hpo.storage.postgres.engine import Database
    from hpo.studies.store import Study


@dataclass(frozen=True)
class Override:
    """A person's wish to promote a trial past the gate.

    Attributes:
        trial: its number.
        why: what the person says.
        actor: who that is, `user@host`.
    """

    trial: int
    why: str
    actor: str


@dataclass(frozen=True, kw_only=True)
class FinalizeRequest:
    """What `finalize` was asked; its docstring explains each.

    Attributes:
        connection: holds the lock; what is read and recorded goes through it.
        scratch: a folder that is removed afterwards.
    """

    database: Database
    settings: Settings
    study: Study
    runtime: TrainerRuntime
    open_ok: bool
    dry_run: bool
    override: Override | None
    onnx: bool
    say: Callable[[str], None]
    device: str
    connection: Connection
    scratch: Path

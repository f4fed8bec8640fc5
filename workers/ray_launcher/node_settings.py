"""Send the launching machine's settings to the nodes, and complete them on each node.

A node of a cluster reads HPO_STORAGE, and HPO_HOME where it is set there, from its own environment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import UsageError
from hpo.settings import Settings

if TYPE_CHECKING:
    from typing import Self

    from hpo.studies.store import Study


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """What travels of the driver's settings; holds no password.

    Attributes:
        home: folder of the project's state, for nodes that name none of their own.
        artifacts: where weights, pictures and checkpoints go: a folder, or an S3 address.
        tracking_uri: MLflow, for nodes that name none; "" for the default.
        lease_s: seconds a lease lasts without renewal.
        checkpoint_every: epochs between two checkpoints; 0 makes none.
        external: whether the database is one that HPO_STORAGE names.
        private: whether all runs on this machine, in a private Ray.
        study: name of the study.
        study_uid: what it alone has among all databases, by which a node sees that its database is
            the same one.
        store_probe: sha256 of a file in the store's area `store_probe_area`, by which a node sees
            that its store is the same one; "" for none.
        store_probe_area: of this launch alone.
    """

    home: str
    artifacts: str
    tracking_uri: str
    lease_s: float
    checkpoint_every: int
    external: bool
    private: bool
    study: str
    study_uid: str
    store_probe: str = ""
    store_probe_area: str = ""

    @classmethod
    def of(cls, settings: Settings, study: Study, *, private: bool) -> Self:
        """What may travel of the driver's settings."""
        tracking = settings.tracking_uri or ""
        return cls(
            home=str(settings.home),
            artifacts=settings.artifacts,
            # A URL with a password in it is not handed on; the nodes know their own.
            tracking_uri="" if "@" in tracking else tracking,
            lease_s=settings.lease_s,
            checkpoint_every=settings.checkpoint_every,
            external=settings.storage is not None,
            private=private,
            study=study.name,
            study_uid=str(study.uid),
        )

    def here(self) -> Settings:
        """The settings of this node.

        Raises:
            UsageError: the node does not know the database, or no folder to work in.
        """
        settings = Settings.read()
        if self.external and settings.storage is None:
            raise UsageError(
                "it has no HPO_STORAGE in its environment",
                hint="Set it where Ray is started on that node: `HPO_STORAGE=… ray start …`.",
            )
        return replace(
            settings,
            home=self._home(settings),
            artifacts=self._artifacts(),
            lease_s=self.lease_s,
            checkpoint_every=self.checkpoint_every,
            tracking_uri=settings.tracking_uri or self.tracking_uri or None,
        )

    def _home(self, settings: Settings) -> Path:
        if self.private:
            return Path(self.home)
        named = bool(os.environ.get("HPO_HOME"))
        home = settings.home if named else Path(self.home)
        if not home.is_dir():
            told = "its HPO_HOME names" if named else "the launching machine works in"
            raise UsageError(
                f"it has no folder {home}, which {told}",
                hint="Set HPO_HOME, where Ray is started on that node, to a folder that is there.",
            )
        return home

    def _artifacts(self) -> str:
        """A folder may be mounted elsewhere on this node; whether it is the same one is seen."""
        own = os.environ.get("HPO_ARTIFACTS", "")
        shared = not self.private and own and "://" not in own + self.artifacts
        return str(Path(own).resolve()) if shared else self.artifacts

"""The named steps of a trial's life and of a promotion at which a process is killed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A call of a function, and whether the process dies before or after it.

    Attributes:
        name: for people.
        function: `module:qualified name`.
        place: `before` or `after`.
        latest: the call is picked from the first so many of a process.
    """

    name: str
    function: str
    place: str
    latest: int = 1

    def text(self, call: int = 1) -> str:
        """As HPO_TEST_KILL reads it."""
        return f"{self.function}:{self.place}:{call}"

    def __str__(self) -> str:
        return f"{self.place} {self.name}"


def _both(name: str, function: str, latest: int = 1) -> tuple[Step, Step]:
    return Step(name, function, "before", latest), Step(name, function, "after", latest)


# A worker is asked to leave for these, as nothing else leads there
RELEASE = _both("the release", "hpo.claims.claims:Claims.release")
TRIAL: tuple[Step, ...] = (
    *_both("the claim", "hpo.claims.claims:Claims.claim", 2),
    Step("the parameters are stored", "hpo.claims.claims:Claims._with_params", "before", 2),
    *_both("the attempt's beginning is recorded", "hpo.claims.claims:Claims.resume"),
    *_both("the report of an epoch", "hpo.claims.claims:Claims.report", 6),
    *_both("the upload of a checkpoint", "hpo.storage.artifacts.folder:FolderStore.put", 4),
    Step(
        "an uploaded draft is renamed",
        "hpo.storage.artifacts.folder:FolderStore._place",
        "before",
        4,
    ),
    *_both("the record of a checkpoint", "hpo.claims.claims:Claims.record_checkpoint", 4),
    *_both(
        "older checkpoints are removed", "hpo.storage.artifacts.folder:FolderStore.keep_only", 3
    ),
    *_both("the trial is told", "hpo.claims.claims:Claims.tell"),
    *_both("a trial goes to MLflow", "hpo.tracking.mirror:Mirror.sync_trial", 3),
    *_both("a run is made in MLflow", "hpo.tracking.runs:ensure_run", 2),
    *RELEASE,
)
# In the order of a promotion: who dies at one of them leaves the next ones to do
PROMOTION: tuple[Step, ...] = (
    *_both("the version is made", "hpo.tracking.registry:Registry.create"),
    *_both("decision.md is stored", "hpo.tracking.registry:Registry.log_text"),
    *_both("the alias is moved", "hpo.tracking.registry:Registry.move_alias"),
    *_both("the promotion is recorded", "hpo.promotion.ledger:write"),
)

"""Read once what a run left behind: the log, the tables and the uploads' trace."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from faults import audit
from sqlalchemy import text

from hpo.studies.store import load_study
from hpo.studies.trials import trial_rows

if TYPE_CHECKING:
    from faults.ordeal import Ordeal
    from faults.world import World

    from hpo.studies.store import Study

_LEASES = text("""
    select l.*, t.number, t.state::text as state, v.value as told_value
      from public.trials t
      left join hpo.lease l on l.trial_id = t.trial_id
      left join public.trial_values v on v.trial_id = t.trial_id
     where t.study_id = :study order by t.number
""")
_EPOCHS = text("""
    select e.* from hpo.epoch e join public.trials t on t.trial_id = e.trial_id
     where t.study_id = :study order by e.trial_id, e.epoch
""")


@dataclass
class Upload:
    """One upload of a checkpoint.

    Attributes:
        epoch: of the checkpoint.
        begin: in seconds since 1970.
        end: when it was done; None when it failed or was interrupted.
        next: when the attempt began its next one; None when it did not.
    """

    epoch: int
    begin: float
    end: float | None = None
    next: float | None = None


@dataclass
class Attempt:
    """One claim of a trial.

    Attributes:
        trial: its id.
        token: of the lease.
        claimed: the log's event.
        worker: its id.
        resumed: where it went on; None when it did not come that far.
        over: the event of the next claim of the trial, or of its end by another; None for none.
        ended: told, released, silent, or None.
        uploads: of checkpoints, the earliest first.
    """

    trial: int
    token: str
    claimed: Any
    worker: int
    resumed: int | None = None
    over: Any = None
    ended: str | None = None
    uploads: list[Upload] = field(default_factory=list)


@dataclass
class Record:
    """One study's run.

    Attributes:
        world: where it ran.
        ordeal: what was done to it.
    """

    world: World
    ordeal: Ordeal

    @cached_property
    def study(self) -> Study:
        """The study."""
        return load_study(self.world.engine, self.ordeal.task.name)

    @cached_property
    def leases(self) -> list[Any]:
        """Every trial with its lease, by number."""
        with self.world.engine.connect() as connection:
            return list(connection.execute(_LEASES, {"study": self.study.study_id}))

    @cached_property
    def numbers(self) -> dict[int, int]:
        """Trial id -> number."""
        with self.world.engine.connect() as connection:
            found = connection.execute(
                text("select trial_id, number from public.trials where study_id = :study"),
                {"study": self.study.study_id},
            )
            return {row.trial_id: row.number for row in found}

    @cached_property
    def epochs(self) -> dict[int, dict[int, dict[str, float]]]:
        """Trial id -> epoch -> metrics, as they are now."""
        found: dict[int, dict[int, dict[str, float]]] = defaultdict(dict)
        with self.world.engine.connect() as connection:
            for row in connection.execute(_EPOCHS, {"study": self.study.study_id}):
                found[row.trial_id][row.epoch] = row.metrics
        return found

    @cached_property
    def params(self) -> dict[int, dict[str, Any]]:
        """Trial number -> parameters."""
        with self.world.engine.connect() as connection:
            return {row.number: row.params for row in trial_rows(connection, self.study)}

    @cached_property
    def log(self) -> list[Any]:
        """Events of the study's trials, the earliest first."""
        return [one for one in audit.events(self.world.engine) if one.trial in self.numbers]

    def of(self, what: str, *, trial: int | None = None, before: Any = None) -> list[Any]:
        """Events of a table, of one trial, and before another event."""
        return [
            one for one in self._by_table[what]
            if (trial is None or one.trial == trial) and (before is None or one.id < before.id)
        ]  # fmt: skip

    @cached_property
    def _by_table(self) -> dict[str, list[Any]]:
        tables: dict[str, list[Any]] = defaultdict(list)
        for one in self.log:
            tables[one.what].append(one)
        return tables

    @cached_property
    def attempts(self) -> dict[str, Attempt]:
        """Token -> attempt, in the order of the claims."""
        found: dict[str, Attempt] = {}
        latest: dict[int, Attempt] = {}
        for one in self.of("attempt"):
            token = one.after["token"]
            if one.op == "INSERT":
                if one.trial in latest:
                    latest[one.trial].over = one
                found[token] = Attempt(one.trial, token, one, one.after["worker_id"])
                latest[one.trial] = found[token]
            elif one.after["ended"] is not None:
                found[token].ended = one.after["ended"]
            elif str(one.caller) == token:
                found[token].resumed = one.after["resumed_epoch"]
        self._read_trace(found)
        return found

    def _read_trace(self, attempts: dict[str, Attempt]) -> None:
        trace = self.world.folder / "trace"
        lines = trace.read_text().splitlines() if trace.exists() else []
        for line in lines:
            token, epoch, what, at = line.split()
            if token not in attempts:
                continue
            uploads = attempts[token].uploads
            if what == "begin":
                if uploads:
                    uploads[-1].next = float(at)
                uploads.append(Upload(int(epoch), float(at)))
            else:
                uploads[-1].end = float(at)

    def checkpoints(self, trial: int, before: Any) -> list[dict[str, Any]]:
        """The rows of a trial's checkpoints at an event, the newest first."""
        rows: dict[int, dict[str, Any]] = {}
        for one in self.of("checkpoint", trial=trial, before=before):
            if one.op == "DELETE":
                rows.pop(one.before["epoch"], None)
            else:
                rows[one.after["epoch"]] = one.after
        return [rows[epoch] for epoch in sorted(rows, reverse=True)]

    def made(self, attempt: Attempt) -> list[int]:
        """Epochs that an attempt recorded; a repeat for a lost acknowledgement is none."""
        own = (one.after["epoch"] for one in self.of("epoch", trial=attempt.trial)
               if str(one.caller) == attempt.token)  # fmt: skip
        return list(dict.fromkeys(own))

    def usable(self, row: dict[str, Any], at: float) -> bool:
        """Whether no fault had touched a checkpoint's files at that time."""
        files = ((row["token"], row["sha256"]), (row["token"], row["best_sha256"]))
        return all(self.ordeal.spoilt.get(file, at) >= at for file in files)

    def windows(self, *kinds: str) -> list[tuple[float, float]]:
        """When faults of these kinds were at work, in seconds since 1970."""
        return [(one.at, one.until) for one in self.ordeal.faults if one.kind in kinds]

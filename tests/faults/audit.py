"""The log that a run keeps inside its database, and how far its study is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Engine

SQL = Path(__file__).with_name("audit.sql")

_PROGRESS = text("""
    select h.trials, count(t.trial_id) as made,
           count(*) filter (where t.state in ('COMPLETE', 'PRUNED', 'FAIL')) as ended,
           coalesce(sum(case when t.state = 'RUNNING'
                        then (select max(e.epoch) from hpo.epoch e where e.trial_id = t.trial_id)
                        end), 0) / cast(:epochs as double precision) as running
      from hpo.study h left join trials t on t.study_id = h.study_id
     where h.name = :study group by h.study_id
""")
_HOLDERS = text("""
    select w.pid, l.trial_id, l.token, t.number,
           (select count(*) from chaos.log c
             where c.what = 'epoch' and c.caller = l.token) as epochs
      from hpo.lease l join hpo.worker w on w.worker_id = l.worker_id
      join trials t on t.trial_id = l.trial_id join hpo.study h on h.study_id = t.study_id
     where l.told_at is null and not l.released and l.expires_at > hpo.now() and h.name = :study
""")
_IDLE = text("""
    select w.pid from hpo.worker w join hpo.study h on h.study_id = w.study_id
     where h.name = :study and w.ended_at is null and w.seen_at > hpo.now() - interval '1 second'
       and not exists (select 1 from hpo.lease l
                        where l.worker_id = w.worker_id and l.told_at is null)
""")


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        budget: trials.
        made: trials that exist.
        ended: trials that ended.
        share: 0 to 1, with the epochs of those that run.
    """

    budget: int
    made: int
    ended: int
    share: float


def install(engine: Engine) -> None:
    """Begin the log."""
    with engine.begin() as connection:
        connection.exec_driver_sql(SQL.read_text(encoding="utf-8"))


def progress(engine: Engine, study: str, epochs: int) -> Progress:
    """How far the study is; `epochs` of each trial."""
    with engine.connect() as connection:
        row = connection.execute(_PROGRESS, {"study": study, "epochs": epochs}).one()
    return Progress(row.trials, row.made, row.ended, (row.ended + row.running) / row.trials)


def holders(engine: Engine, study: str) -> dict[int, Any]:
    """Process id -> its trial_id, number, token and how many epochs it recorded in this attempt."""
    with engine.connect() as connection:
        return {row.pid: row for row in connection.execute(_HOLDERS, {"study": study})}


def idle(engine: Engine, study: str) -> list[int]:
    """Process ids of workers that asked for a trial a moment ago and have none."""
    with engine.connect() as connection:
        return list(connection.scalars(_IDLE, {"study": study}))


def events(engine: Engine) -> list[Any]:
    """The whole log, the earliest first."""
    with engine.connect() as connection:
        return list(connection.exec_driver_sql("select * from chaos.log order by id").all())

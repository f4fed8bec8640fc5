"""A study's rows in PostgreSQL, and how they read beside the model of claims."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from support.claims import model

# Everything that PostgreSQL holds of a study's trials, as one JSON document by table
DUMP = text("""
with t as (select * from trials where study_id = :study)
select jsonb_build_object(
  'trials', (select jsonb_agg(to_jsonb(t) order by number) from t),
  'lease', (select jsonb_agg(to_jsonb(l) order by l.trial_id) from hpo.lease l
             where l.study_id = :study),
  'attempt', (select jsonb_agg(to_jsonb(a) order by a.trial_id, a.attempt) from hpo.attempt a
               where a.study_id = :study),
  'epoch', (select jsonb_agg(to_jsonb(e) order by e.trial_id, e.epoch)
              from hpo.epoch e join t using (trial_id)),
  'checkpoint', (select jsonb_agg(to_jsonb(c) order by c.trial_id, c.epoch)
                   from hpo.checkpoint c join t using (trial_id)),
  'steps', (select jsonb_agg(to_jsonb(v) order by v.trial_id, v.step)
              from trial_intermediate_values v join t using (trial_id)),
  'values', (select jsonb_agg(to_jsonb(v) order by v.trial_id)
               from trial_values v join t using (trial_id)),
  'params', (select jsonb_agg(to_jsonb(p) order by p.trial_id, p.param_name)
               from trial_params p join t using (trial_id)),
  'attrs', (select jsonb_agg(to_jsonb(a) order by a.trial_id, a.key)
              from trial_user_attributes a join t using (trial_id)),
  'system', (select jsonb_agg(to_jsonb(a) order by a.trial_id, a.key)
               from trial_system_attributes a join t using (trial_id)),
  'files', (select jsonb_agg(to_jsonb(a) order by a.trial_id, a.name)
              from hpo.artifact a join t using (trial_id)))
""")


def of(rows: list[dict[str, Any]], trials: dict[int, int], number: int) -> list[dict[str, Any]]:
    return [row for row in rows if trials[row["trial_id"]] == number]


def _seconds(moment: str | None, began: datetime) -> float | None:
    return None if moment is None else (datetime.fromisoformat(moment) - began).total_seconds()


def lease_seen(row: dict[str, Any], began: datetime) -> tuple[Any, ...]:
    reason = (row["reason"] or "").partition(":")[0]
    return (
        _seconds(row["expires_at"], began), row["deaths"], row["released"], row["cleared"],
        row["takeovers"], row["told_state"], row["value"], row["best_epoch"],
        reason if reason == "crashed" else None,
    )  # fmt: skip


def lease_expected(trial: model.Trial) -> tuple[Any, ...]:
    return (
        trial.expires, trial.deaths, trial.released, trial.cleared, len(trial.attempts) - 1,
        trial.told, trial.value, trial.best_epoch, trial.reason,
    )  # fmt: skip


def attempt_seen(row: dict[str, Any], began: datetime) -> tuple[Any, ...]:
    return (
        uuid.UUID(row["token"]), row["attempt"], _seconds(row["claimed_at"], began), row["ended"],
        _seconds(row["ended_at"], began), row["resumed_epoch"],
    )  # fmt: skip

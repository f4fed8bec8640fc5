"""A failed trial of a finals study, once more; knows no worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hpo.errors import UnknownStudyError, UsageError
from hpo.storage.postgres.queries import query
from hpo.study import insert_waiting

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.study import Study


def retry_final(engine: Engine, finals: Study, number: int) -> int:
    """Queue what a failed final was asked to do again, beside the budget; the new trial's number.

    The new trial takes the failed one's place among the finals: nobody waits for that any more.

    Raises:
        UsageError: there is no such trial, it did not fail, or it was tried again already.
        UnknownStudyError: the finals were deleted.
    """
    key = {"study_id": finals.study_id}
    with engine.begin() as connection:
        # Two at once: the second one finds the place taken.
        locked = connection.execute(query("lock_study"), key).one_or_none()
        if locked is None:
            raise UnknownStudyError(f"the study '{finals.name}' was deleted")
        row = connection.execute(query("final_to_retry"), key | {"number": number}).one_or_none()
        if row is None:
            raise UsageError(
                f"the study '{finals.name}' has no trial {number}",
                hint=f"`hpo trials --study {finals.name}` lists them.",
            )
        if row.state != "FAIL":
            raise UsageError(
                f"trial {number} of '{finals.name}' is {row.state.lower()}; "
                "of finals only a failed one is tried again",
                hint=f"`hpo trials --study {finals.name}` lists them.",
            )
        if not row.asked:
            raise UsageError(
                f"trial {number} of '{finals.name}' was tried again already",
                hint=f"`hpo trials --study {finals.name}` shows the trial in its place.",
            )
        made = insert_waiting(connection, finals.study_id, json.loads(row.params or "{}"))
        connection.execute(query("move_final"), key | {"trial_id": row.trial_id, "number": made})
        connection.execute(query("extend"), key | {"trials": locked.trials + 1})
    return made

"""Run the finals of a study in this process, as `hpo finalize` and `hpo promote` do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.errors import HpoError
from hpo.promotion.candidates import call_finals, study_completion
from workers.events import Watch, nobody
from workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from hpo.settings import Settings
    from hpo.studies.store import Study


def run_finals(
    settings: Settings,
    engine: Engine,
    study: Study,
    numbers: Sequence[int] | None = None,
    *,
    watch: Watch = nobody,
    on_start: Callable[[Callable[[], None]], object] | None = None,
) -> bool:
    """Look again at a study's best trials until that is done; nothing where it was done before.

    Args:
        settings: of this machine.
        engine: the database; its idle connections are closed while a worker has its own.
        study: the study, not its finals.
        numbers: the trials to look at; None for the best ones.
        watch: is told what happens.
        on_start: given the function that makes them leave early, before the first one runs.

    Returns:
        False where they were made to leave before they were over.

    Raises:
        UsageError: a trial of `numbers` is not complete.
        MismatchError: the test split is not here, or not as it was.
        HpoError: they are not over for another reason.
    """
    finals = call_finals(engine, study, numbers)
    if finals is None or _are_over(engine, finals):
        return True
    engine.dispose()  # idle by now: the worker has its own two connections
    worker = Worker(settings, finals.name, watch=watch, promote=False)
    if on_start is not None:
        on_start(worker.drain)
    why = worker.run().why
    if why not in ("finished", "drained"):
        raise HpoError(f"the finals of '{study.name}' are not over: {why}")
    return why == "finished"


def _are_over(engine: Engine, finals: Study) -> bool:
    with engine.connect() as connection:
        completion = study_completion(connection, finals)
    return completion is not None and not completion.open_because

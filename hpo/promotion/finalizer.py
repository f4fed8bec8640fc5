"""A study's best trial becomes the champion of a registered model, once, whoever asks.

The steps, in the order that makes each of them repeatable: the weights are checked, the version is
made (or found by the decision it is for), the alias is moved, decision.md is stored, and the row of
hpo.promotion is written last. Whoever is killed in between leaves what the next caller completes.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import TrackingError
from hpo.promotion import record
from hpo.promotion.candidate import best_candidate, standing
from hpo.promotion.decision import Decision, Outcome, none_id, promotion_id
from hpo.promotion.lock import promotion_lock
from hpo.tracking.client import error_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from hpo.promotion.candidate import Candidate, Standing
    from hpo.promotion.comparison import Workshop
    from hpo.promotion.contest import Order
    from hpo.settings import Settings
    from hpo.study import Study


def finalize(
    engine: Engine,
    settings: Settings,
    study: Study,
    workshop: Workshop,
    *,
    open_ok: bool = False,
    dry_run: bool = False,
    progress: Callable[[str], None] | None = None,
    device: str = "cpu",
) -> Decision:
    """Promote the study's best trial, or say why not; safe to call again, and by many at once.

    Args:
        engine: the database.
        settings: where the artifacts, the data and MLflow are.
        study: the study.
        workshop: the trainer's heavy verbs.
        open_ok: whether to decide by what is complete where the study is not finished, to try
            again where the champion could not be evaluated earlier, and to make a version again
            that MLflow lost; a person who asks wants all three.
        dry_run: whether to write nothing and say what would be done.
        progress: told what takes long.
        device: what the champion is evaluated on, where that is needed.

    Raises:
        WeightsError: the weights of the best trial are missing or not those that were stored.
        TrackingError: MLflow cannot be reached, or refuses; nothing is recorded.
        DatabaseError: PostgreSQL went away; a later call completes.
    """
    say = progress or (lambda _: None)
    model = study.spec.promotion.model
    wait = f"another promotion of '{model}' is under way; waiting for it"
    with (
        promotion_lock(engine, model, lambda: say(wait)) as connection,
        tempfile.TemporaryDirectory(prefix="hpo-finalize-") as scratch,
    ):
        from hpo.promotion.contest import Order

        order = Order(
            engine, settings, study, workshop, open_ok, dry_run, say, device, connection,
            Path(scratch),
        )  # fmt: skip
        return _decided(order)


def _decided(order: Order) -> Decision:
    """The decision; what MLflow refuses is told in our words."""
    try:
        return _decide(order)
    except Exception as error:
        if not error_code(error):
            raise
        model = order.study.spec.promotion.model
        raise TrackingError(
            f"MLflow refused to go on with the promotion to '{model}': {error}",
            hint="Nothing was recorded; mend it and run `hpo finalize` again.",
        ) from error


def _decide(order: Order) -> Decision:
    """Whether there is anything to decide; what needs MLflow comes after that."""
    connection, study = order.connection, order.study
    stands = standing(connection, study)
    if stands is None:
        return _nothing(order, "the study was deleted")
    if stands.open_because and not order.open_ok:
        return _nothing(order, f"the study is not finished: {stands.open_because}")
    candidate = best_candidate(connection, study)
    if candidate is None:
        return _record_nothing(order, stands)
    done = record.recorded(connection, promotion_id(study, candidate))
    return _contested(order, stands, candidate, done)


def _contested(
    order: Order, stands: Standing, candidate: Candidate, done: Decision | None
) -> Decision:
    """The decision about a candidate; `done` is what was recorded of it before."""
    if done is not None and not order.open_ok:
        return done
    from hpo.promotion.contest import Contest

    if done is None:
        return Contest(order, stands, candidate).decide()
    # A person who asks again may do so because MLflow lost the version.
    try:
        return Contest(order, stands, candidate).restore(done)
    except TrackingError as error:
        order.say(f"whether MLflow still holds it is not known: {error}")
        return done


def _nothing(order: Order, reason: str) -> Decision:
    target = order.study.spec.promotion
    return Decision(
        Outcome.NONE, order.study.name, target.model, target.alias, reason,
        evidence={"reason": reason}, dry_run=order.dry_run,
    )  # fmt: skip


def _record_nothing(order: Order, stands: Standing) -> Decision:
    """A finished study without a candidate is recorded, once for each state of its trials."""
    decision = _nothing(order, stands.no_candidate())
    if stands.open_because or order.dry_run:
        return decision
    name = none_id(order.study, stands.counts)
    before = record.recorded(order.connection, name)
    decision = replace(decision, evidence={**decision.evidence, "trials": stands.counts})
    if before is None:
        record.insert(order.connection, order.study, name, decision)
    return before or decision

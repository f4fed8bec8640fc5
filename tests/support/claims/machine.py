"""Workers at random: every verb of claims is a step, whose outcome the model tells beforehand."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from optuna.trial import TrialState
from sqlalchemy import text
from support.claims import model
from support.claims.rows import DUMP, attempt_seen, lease_expected, lease_seen, of
from support.studies import epoch, simulated_spec

from hpo.claims.claims import SQL, Claim, Claims, End, LeaseStatus, NoTrial, StoredCheckpoint
from hpo.errors import StudyClosedError
from hpo.storage.artifacts.store import Stored
from hpo.storage.postgres.engine import Database
from hpo.studies.store import delete_study, enqueue, extend, set_state, store_study

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.storages import RDBStorage
    from sqlalchemy import Engine
    from support.postgres import InjectedTime

LEASE_S = 10.0
WORKERS = (1, 2, 3)
# Which holder acts: mostly one that may, else one of the last few that may think so
BACK = st.sampled_from([None, None, None, 0, 1, 2])
ENQUEUED = {"x": 0.9, "y": 0.01, "kind": "a"}


@dataclass
class Holder:
    """A worker that got a trial; nothing says that it still has it."""

    claims: Claims
    claim: Claim
    last: int = 0  # the epoch that its own training has come to


class ClaimsMachine(RuleBasedStateMachine):
    """Workers that claim, train, fall silent and come back; each verb is one step."""

    def __init__(self, engine: Engine, time: InjectedTime, plain: RDBStorage) -> None:
        super().__init__()
        self.engine, self.time, self.plain = engine, time, plain
        self.holders: list[Holder] = []
        self.params: dict[int, dict[str, Any]] = {}
        self.last_answer: Any = None
        self.seen: dict[str, Any] | None = None  # what dump() read; None after a change

    @initialize(
        trials=st.integers(1, 5), baselines=st.integers(0, 1), timed=st.sampled_from([None, 60.0])
    )
    def create(self, trials: int, baselines: int, timed: float | None) -> None:
        spec = simulated_spec(
            study=f"s-{uuid.uuid4().hex}", trials=trials, baselines=(ENQUEUED,) * baselines
        )
        self.study, _ = store_study(self.engine, spec, fingerprint=None, code_version="1")
        with self.engine.begin() as connection:
            connection.execute(
                text("update hpo.study set timeout_s = :s where study_id = :study"),
                {"s": timed, "study": self.study.study_id},
            )
        self.began = self.time.now
        waiting = [model.Trial(number, "WAITING") for number in range(baselines)]
        self.model = model.Study(trials, LEASE_S, timed, trials=waiting)
        self.workers = [
            Claims(Database(self.engine, patience_s=0.0), self.study, worker, lease_s=LEASE_S)
            for worker in WORKERS
        ]

    def teardown(self) -> None:
        if hasattr(self, "study"):
            delete_study(self.engine, self.study)

    # What workers do

    @rule(worker=st.sampled_from(range(len(WORKERS))))
    def claim(self, worker: int) -> None:
        """Ask for a trial."""
        self.seen = None
        claims = self.workers[worker]
        got = self.last_answer = claims.claim()
        token = got.token if isinstance(got, Claim) else uuid.uuid4()
        expected = self.model.claim(token)
        if not isinstance(expected, model.Trial):
            assert got is NoTrial(expected)
            return
        assert isinstance(got, Claim), f"{got} instead of trial {expected.number}"
        assert got.number == expected.number
        assert got.takeovers == len(expected.attempts) - 1
        assert got.pruning_checked_to == max(expected.epochs, default=0)
        assert got.params == self.params.setdefault(got.number, got.params)
        self.holders.append(Holder(claims, got))

    @rule(worker=st.sampled_from(range(len(WORKERS))), times=st.integers(1, 3))
    def die_and_be_replaced(self, worker: int, times: int) -> None:
        """All workers fall silent for a lease, and one asks for a trial."""
        for _ in range(times):
            self.pass_time(LEASE_S)
            self.claim(worker)

    @precondition(lambda self: self.holders)
    @rule(
        back=BACK, again=st.booleans(),
        value=st.one_of(st.just(math.nan), st.sampled_from([0.0, 0.25, 0.5])),
    )  # fmt: skip
    def report(self, back: int | None, again: bool, value: float) -> None:
        """The next epoch, or the last one once more."""
        holder = self.holder(back)
        self.report_epoch(holder, max(1, holder.last + (not again)), value)

    def report_epoch(self, holder: Holder, number: int, value: float) -> None:
        got = self.write(holder, lambda: holder.claims.report(holder.claim, epoch(number, value)))
        assert got is LeaseStatus(self.model.report(holder.claim.token, number, value))
        if got is not LeaseStatus.LOST:
            holder.last = number

    @precondition(lambda self: self.holders)
    @rule(back=BACK)
    def keep(self, back: int | None) -> None:
        """A checkpoint of the epoch that it came to."""
        if self.holder(back).last:
            self.keep_checkpoint(self.holder(back))

    def keep_checkpoint(self, holder: Holder) -> None:
        token = holder.claim.token
        files = Stored(f"{holder.last:064d}", 7), Stored("b" * 64, 9)
        kept = StoredCheckpoint(
            epoch=holder.last, token=token, state=files[0], best_epoch=holder.last, weights=files[1]
        )
        got = self.write(holder, lambda: holder.claims.record_checkpoint(holder.claim, kept))
        assert got is (LeaseStatus.GO if self.model.keep(token, holder.last) else LeaseStatus.LOST)

    @precondition(lambda self: self.holders)
    @rule(back=BACK, epochs=st.integers(2, 3))
    def train(self, back: int | None, epochs: int) -> None:
        """Some epochs in a row, each with its checkpoint."""
        holder = self.holder(back)
        for number in range(holder.last + 1, holder.last + 1 + epochs):
            self.report_epoch(holder, number, number / 10)
            if holder.last:
                self.keep_checkpoint(holder)

    @precondition(lambda self: self.holders)
    @rule(back=BACK, choice=st.integers(0, 2))
    def resume(self, back: int | None, choice: int) -> None:
        """Begin at one of the checkpoints, or at the start."""
        holder = self.holder(back)
        kept = [one.epoch for one in holder.claims.checkpoints(holder.claim.trial_id)]
        start = [*kept, 0, 0, 0][choice]
        got = self.write(holder, lambda: holder.claims.resume(holder.claim, start, ""))
        assert got is self.model.resume(holder.claim.token, start)
        if got:
            holder.last = start

    @precondition(lambda self: self.holders)
    @rule(back=BACK)
    def renew(self, back: int | None) -> None:
        holder = self.holder(back)
        got = self.write(holder, lambda: holder.claims.renew(holder.claim))
        assert got is LeaseStatus(self.model.renew(holder.claim.token))

    @precondition(lambda self: self.holders)
    @rule(back=BACK, key=st.sampled_from(["rung_1", "rung_2"]))
    def store_rung(self, back: int | None, key: str) -> None:
        """What a pruner keeps with a trial."""
        holder = self.holder(back)
        fence = Claims._fence(holder.claim)
        row = {**fence, "attrs": json.dumps({key: f'"{fence["token"]}"'})}
        stored = self.write(
            holder, lambda: holder.claims.database.scalar(SQL["store_rungs"], **row)
        )
        trial = self.model.held(holder.claim.token)
        assert stored is (trial is not None)
        if trial is not None:
            trial.rungs[key] = fence["token"]

    @precondition(lambda self: self.holders)
    @rule(back=BACK, end=st.sampled_from(End), all_epochs=st.booleans())
    def tell(self, back: int | None, end: End, all_epochs: bool) -> None:
        """The end of a trial, with the epochs of this training or with all recorded ones."""
        holder = self.holder(back)
        last = None if all_epochs else holder.last
        trial = self.model.held(holder.claim.token)
        if trial is not None and trial.best(last) is None:
            end = End.FAIL  # a worker tells no trial complete that has no finite figure
        got = self.write(
            holder,
            lambda: holder.claims.tell(holder.claim, end, reason="error: so it was", last=last),
        )
        assert got is self.model.tell(holder.claim.token, end.value, last)

    @precondition(lambda self: self.holders)
    @rule(back=BACK)
    def release(self, back: int | None) -> None:
        holder = self.holder(back)
        got = self.write(holder, lambda: holder.claims.release(holder.claim))
        assert got is self.model.release(holder.claim.token)

    @precondition(lambda self: self.holders)
    @rule(back=BACK)
    def claim_again(self, back: int | None) -> None:
        """The answer to its claim was lost: the same token asks once more."""
        holder = self.holder(back)
        token = holder.claim.token
        values = {"study": self.study.study_id, "worker": 1, "token": str(token)}
        row = self.write(
            holder,
            lambda: holder.claims.database.fetch_one(SQL["claim"], **values, lease_s=LEASE_S),
        )
        if self.model.renew(token) == "lost":
            assert row.outcome == "lost"
        else:
            assert (row.outcome, row.kind, row.number) == ("trial", "again", holder.claim.number)

    # What else happens

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S, 3 * LEASE_S]))
    def pass_time(self, seconds: float) -> None:
        self.time.advance(seconds)
        self.model.now += seconds

    @rule(state=st.sampled_from(["open", "open", "stopped"]))
    def steer(self, state: str) -> None:
        self.seen = None
        set_state(self.engine, self.study, state)
        self.model.state = state

    @precondition(lambda self: self.model.budget < 7)
    @rule()
    def extend(self) -> None:
        self.seen = None
        self.model.budget += 1
        extend(self.engine, self.study, self.model.budget)

    @rule()
    def enqueue(self) -> None:
        self.seen = None
        waiting = sum(trial.state == "WAITING" for trial in self.model.trials)
        room = self.model.claimed + waiting < self.model.budget and not self.model.timed_out
        if not room:
            with pytest.raises(StudyClosedError):
                enqueue(self.engine, self.study, ENQUEUED, {})
            return
        number = enqueue(self.engine, self.study, ENQUEUED, {})
        assert number == len(self.model.trials)
        self.model.trials.append(model.Trial(number, "WAITING"))

    @precondition(lambda self: any(one.state == "RUNNING" for one in self.model.trials))
    @rule(which=st.integers(0, 5), state=st.sampled_from([TrialState.FAIL, TrialState.COMPLETE]))
    def end_by_another_hand(self, which: int, state: TrialState) -> None:
        """Somebody ends a trial through Optuna's own API, as optuna-dashboard does."""
        self.seen = None
        running = [trial for trial in self.model.trials if trial.state == "RUNNING"]
        trial = running[which % len(running)]
        trial_id = next(
            holder.claim.trial_id for holder in self.holders if holder.claim.number == trial.number
        )
        values = [0.99] if state is TrialState.COMPLETE else None
        assert self.plain.set_trial_state_values(trial_id, state, values)
        trial.state = state.name

    @rule()
    def clear_ended(self) -> None:
        """A worker removes what is left of ended trials, as at a study's end."""
        self.seen = None
        over = [t for t in self.model.trials if t.state in model.OVER and not t.cleared]
        found = self.workers[0].uncleared()
        assert [number for _, number in found] == [trial.number for trial in over]
        for (trial_id, _), trial in zip(found, over, strict=True):
            self.workers[0].set_cleared(trial_id)
            trial.cleared = True
            trial.checkpoints.clear()

    # What always holds

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        found = self.dump()
        self.the_database_is_as_the_model(found)
        self.the_promises_hold(found)

    def the_database_is_as_the_model(self, found: dict[str, Any]) -> None:
        trials = {row["trial_id"]: row["number"] for row in found["trials"]}
        states = [row["state"] for row in found["trials"]]
        assert states == [trial.state for trial in self.model.trials]
        for row in found["lease"]:
            trial = self.model.trials[trials[row["trial_id"]]]
            assert lease_seen(row, self.began) == lease_expected(trial), f"trial {trial.number}"
        for number, trial in enumerate(self.model.trials):
            mine = {name: of(found[name], trials, number) for name in ("epoch", "checkpoint")}
            assert [row["epoch"] for row in mine["epoch"]] == sorted(trial.epochs)
            kept = {row["epoch"]: uuid.UUID(row["token"]) for row in mine["checkpoint"]}
            assert kept == trial.checkpoints
            rungs = {
                row["key"]: json.loads(row["value_json"])
                for row in of(found["system"], trials, number)
                if row["key"].startswith("rung_")
            }
            assert rungs == trial.rungs
            seen = [attempt_seen(row, self.began) for row in of(found["attempt"], trials, number)]
            assert seen == [
                (uuid.UUID(str(one.token)), index, one.began, one.ended, one.ended_at, one.resumed)
                for index, one in enumerate(trial.attempts, 1)
            ]

    def the_promises_hold(self, found: dict[str, Any]) -> None:
        """Said of the rows alone, whatever the model thinks."""
        numbers = [row["number"] for row in found["trials"]]
        assert numbers == list(range(len(numbers))), "each number once"
        claimed = sum(row["state"] != "WAITING" for row in found["trials"])
        assert claimed <= self.model.budget, "the budget is exact"
        over = {row["trial_id"] for row in found["lease"] if row["told_state"]}
        assert not [row for row in found["checkpoint"] if row["trial_id"] in over]
        for lease in found["lease"]:
            attempts = [one for one in found["attempt"] if one["trial_id"] == lease["trial_id"]]
            assert len(attempts) == lease["takeovers"] + 1
            live = [one for one in attempts if one["ended"] is None]
            assert len(live) <= 1
            assert all(one["token"] == lease["token"] for one in live), "one live token"
            assert lease["deaths"] <= model.DEADLY
            for before, after in pairwise(attempts):
                assert before["ended_at"] <= after["claimed_at"], "claims overlap"
        if self.last_answer is NoTrial.FINISHED and not self.model.timed_out:
            assert claimed == self.model.budget or self.model.state == "stopped"
        self.last_answer = None

    # How it is done

    def holder(self, back: int | None) -> Holder:
        """The last that holds its trial, where one does; else one of the last that got one."""
        live = [one for one in self.holders if self.model.held(one.claim.token) is not None]
        if back is None and live:
            return live[-1]
        return self.holders[-1 - (back or 0) % len(self.holders)]

    def write(self, holder: Holder, verb: Callable[[], Any]) -> Any:
        """Do it; when the trial is not the holder's, no row may have changed by it."""
        before = None if self.model.held(holder.claim.token) else self.dump()
        self.seen = None
        answer = verb()
        assert before is None or self.dump() == before, "a stale token changed something"
        return answer

    def dump(self) -> dict[str, Any]:
        """Every row of the study's trials, read once a change."""
        if self.seen is None:
            with self.engine.connect() as connection:
                found = connection.scalar(DUMP, {"study": self.study.study_id})
            self.seen = {name: rows or [] for name, rows in found.items()}
        return self.seen

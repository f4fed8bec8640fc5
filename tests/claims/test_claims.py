"""Claims, leases and fenced writes on real PostgreSQL."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import optuna
from sqlalchemy import text
from support.studies import HYPERBAND, TPE, claimed, claims_of, epoch, expire, simulated_study

from hpo.claims.claims import Claim, Claims, End, LeaseStatus, NoTrial
from hpo.storage.postgres.engine import make_engine
from hpo.studies.store import enqueue, extend, set_state

if TYPE_CHECKING:
    from sqlalchemy import Engine


BASELINE = {"x": 0.2, "y": 0.1, "kind": "a"}


def run_to_end(claims: Claims, epochs: int = 2) -> int:
    """Claim and complete trials until there are none; returns how many."""
    count = 0
    while isinstance(claim := claims.claim(), Claim):
        for number in range(1, epochs + 1):
            claims.report(claim, epoch(number, number / 10))
        assert claims.tell(claim, End.COMPLETE)
        count += 1
    assert claim in (NoTrial.FINISHED, NoTrial.WAIT)
    return count


def test_the_budget_is_exact_with_many_workers(engine: Engine, database_url: str) -> None:
    """Sixteen workers at once make exactly the budget's trials, each number once."""
    study = simulated_study(engine, trials=40)
    workers = make_engine(database_url, pool_size=16)
    with ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(lambda n: run_to_end(claims_of(workers, study, n), 1), range(16)))
    workers.dispose()
    assert sum(counts) == 40
    plain = optuna.load_study(study_name=study.name, storage=database_url)
    assert sorted(trial.number for trial in plain.trials) == list(range(40))
    assert {trial.state.name for trial in plain.trials} == {"COMPLETE"}


def test_starting_workers_on_a_finished_study_makes_no_trial(engine: Engine) -> None:
    """A spent budget stays spent, however often a worker asks."""
    study = simulated_study(engine, trials=2)
    assert run_to_end(claims_of(engine, study)) == 2
    assert [claims_of(engine, study, n).claim() for n in range(4)] == [NoTrial.FINISHED] * 4


def test_what_claims_write_is_read_by_plain_optuna(engine: Engine, database_url: str) -> None:
    """Parameters, intermediate values, state, value and times read back through Optuna itself."""
    study = simulated_study(engine, trials=1)
    claims = claims_of(engine, study)
    claim = claimed(claims)
    for number, value in ((1, 0.1), (2, 0.4), (3, 0.4), (4, float("nan"))):
        assert claims.report(claim, epoch(number, value)) is LeaseStatus.GO
    assert claims.tell(claim, End.COMPLETE, attrs={"worker": "here", "effective": {"batch": 8}})
    trial = optuna.load_study(study_name=study.name, storage=database_url).trials[0]
    assert trial.params == claim.params
    assert trial.distributions.keys() == claim.params.keys()
    assert trial.value == 0.4
    steps = dict(trial.intermediate_values)
    assert str(steps.pop(4)) == "nan"
    assert steps == {1: 0.1, 2: 0.4, 3: 0.4}
    assert trial.user_attrs == {"worker": "here", "effective": {"batch": 8}}
    assert trial.duration is not None
    assert abs((trial.datetime_complete - _now()).total_seconds()) < 60
    assert _lease(engine, claim).best_epoch == 2, "the earliest epoch on a tie"


def _now() -> object:
    from datetime import datetime

    return datetime.now()  # noqa: DTZ005 - Optuna hands out naive local times


def _lease(engine: Engine, claim: Claim) -> object:
    with engine.connect() as connection:
        return connection.execute(
            text("select * from hpo.lease where trial_id = :id"), {"id": claim.trial_id}
        ).one()


def test_plain_optuna_continues_a_study_that_we_wrote(engine: Engine, database_url: str) -> None:
    """TPE in plain Optuna reads our trials as its own history."""
    study = simulated_study(engine, trials=5)
    run_to_end(claims_of(engine, study))
    plain = optuna.load_study(study_name=study.name, storage=database_url)
    plain.optimize(lambda trial: study.spec.space.suggest(trial)["x"], n_trials=2)
    assert [trial.number for trial in plain.trials] == list(range(7))


def test_baselines_come_first_with_every_parameter_stored(engine: Engine) -> None:
    """Baselines are claimed before anything is sampled, and count in the budget."""
    study = simulated_study(engine, trials=2, baselines=(BASELINE,))
    claims = claims_of(engine, study)
    assert claimed(claims).params == BASELINE
    assert claimed(claims).params != BASELINE
    assert claims.claim() is NoTrial.WAIT


def test_enqueued_trials_count_in_the_budget(engine: Engine) -> None:
    """Enqueued, baseline and sampled trials together are the budget, never more."""
    study = simulated_study(engine, trials=3, baselines=(BASELINE,))
    claims = claims_of(engine, study)
    enqueue(engine, study, {"x": 0.9, "y": 0.01, "kind": "a"}, {})
    assert run_to_end(claims) == 3


def test_a_dead_workers_trial_is_taken_over_with_its_number_and_parameters(engine: Engine) -> None:
    """The same trial goes to another worker once the lease ran out, and only then."""
    study = simulated_study(engine, trials=1)
    first, second = claims_of(engine, study, 1), claims_of(engine, study, 2)
    lost = claimed(first)
    first.report(lost, epoch(1, 0.3))
    assert second.claim() is NoTrial.WAIT
    expire(engine, lost)
    taken = claimed(second)
    assert (taken.number, taken.params) == (lost.number, lost.params)
    assert (taken.takeovers, taken.pruning_checked_to) == (1, 1)
    assert taken.token != lost.token


def test_a_lease_that_ran_out_and_nobody_took_is_still_the_holders(engine: Engine) -> None:
    """The fence is the token: a late renewal of an untaken lease goes through."""
    study = simulated_study(engine, trials=1)
    claims = claims_of(engine, study)
    claim = claimed(claims)
    expire(engine, claim)
    assert claims.renew(claim) is LeaseStatus.GO
    assert claims_of(engine, study, 2).claim() is NoTrial.WAIT


def test_only_one_worker_takes_a_trial_over(engine: Engine, database_url: str) -> None:
    """Of eight workers that see one expired lease, one gets it."""
    study = simulated_study(engine, trials=1)
    lost = claimed(claims_of(engine, study))
    expire(engine, lost)
    workers = make_engine(database_url, pool_size=8)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: claims_of(workers, study, n).claim(), range(8)))
    workers.dispose()
    assert sum(isinstance(item, Claim) for item in got) == 1


def test_a_running_trial_whose_lease_row_is_gone_is_taken_over(engine: Engine) -> None:
    """Half-written claims of ours are picked up."""
    study = simulated_study(engine, trials=1)
    lost = claimed(claims_of(engine, study))
    with engine.begin() as connection:
        connection.execute(text("delete from hpo.lease"))
    assert claimed(claims_of(engine, study, 2)).number == lost.number


def test_a_trial_of_a_foreign_optimize_is_left_alone(engine: Engine, database_url: str) -> None:
    """A trial that plain Optuna runs is not adopted, counts in the budget, holds nothing up."""
    study = simulated_study(engine, trials=2)
    foreign = optuna.load_study(study_name=study.name, storage=database_url).ask()
    claims = claims_of(engine, study)
    claim = claimed(claims)
    assert claim.number != foreign.number
    claims.report(claim, epoch(1, 0.1))
    claims.tell(claim, End.COMPLETE)
    assert claims.claim() is NoTrial.FINISHED


def test_a_trial_ended_by_another_hand_is_a_lost_lease(engine: Engine, database_url: str) -> None:
    """A trial finished in optuna-dashboard stops its worker, and its value is never ours."""
    study = simulated_study(engine, trials=2)
    claims = claims_of(engine, study)
    claim = claimed(claims)
    plain = optuna.load_study(study_name=study.name, storage=database_url)
    plain.tell(claim.number, 0.99)
    assert claims.report(claim, epoch(1, 0.2)) is LeaseStatus.LOST
    assert not claims.tell(claim, End.COMPLETE)
    assert _lease(engine, claim).told_state is None
    assert isinstance(claims.claim(), Claim), "the worker goes on with another one"


def test_a_study_deleted_by_another_hand_is_said_so(engine: Engine, database_url: str) -> None:
    """Deleting the study in Optuna ends claims and writes without an error."""
    study = simulated_study(engine)
    claims = claims_of(engine, study)
    claim = claimed(claims)
    optuna.delete_study(study_name=study.name, storage=database_url)
    assert claims.report(claim, epoch(1, 0.2)) is LeaseStatus.LOST
    assert claims.claim() is NoTrial.DELETED


def test_a_stopped_study_hands_out_nothing_and_goes_on_when_resumed(engine: Engine) -> None:
    """`stop` is heard at the next epoch; `resume` hands out the same trial again."""
    study = simulated_study(engine, trials=1)
    claims = claims_of(engine, study)
    claim = claimed(claims)
    set_state(engine, study, "stopped")
    assert claims.report(claim, epoch(1, 0.2)) is LeaseStatus.STOP
    assert claims.release(claim)
    assert claims.claim() is NoTrial.STOPPED
    set_state(engine, study, "open")
    assert claimed(claims).number == claim.number


def test_extending_a_finished_study_opens_it_again(engine: Engine) -> None:
    """`extend` raises the exact budget."""
    study = simulated_study(engine, trials=1)
    claims = claims_of(engine, study)
    assert run_to_end(claims) == 1
    extend(engine, study, 3)
    assert run_to_end(claims) == 2


def test_the_timeout_counts_from_the_first_claim_and_lets_trials_finish(engine: Engine) -> None:
    """After `budget.timeout` nothing new starts, and what runs may be finished."""
    study = simulated_study(engine, trials=5)
    with engine.begin() as connection:
        connection.execute(text("update hpo.study set timeout_s = 3600"))
    claims = claims_of(engine, study)
    claim = claimed(claims)
    with engine.begin() as connection:
        connection.execute(
            text("update hpo.study set first_claim_at = clock_timestamp() - interval '2 hours'")
        )
    assert claims.claim() is NoTrial.WAIT
    assert claims.report(claim, epoch(1, 0.2)) is LeaseStatus.GO
    assert claims.tell(claim, End.COMPLETE)
    assert claims.claim() is NoTrial.FINISHED


def test_verbs_repeated_after_a_lost_answer_change_nothing(engine: Engine) -> None:
    """A claim is found again by its token, a report replaces itself, a told trial stays told."""
    study = simulated_study(engine, trials=2)
    claims = claims_of(engine, study)
    claim = claimed(claims)
    with engine.begin() as connection:
        again = connection.execute(
            text("select * from hpo.claim(:study, 1, cast(:token as uuid), 30)"),
            {"study": study.study_id, "token": str(claim.token)},
        ).one()
    assert (again.outcome, again.number, again.kind) == ("trial", claim.number, "again")
    for _ in range(2):
        assert claims.report(claim, epoch(1, 0.2)) is LeaseStatus.GO
    for _ in range(2):
        assert claims.tell(claim, End.COMPLETE)


def test_suggestions_are_the_same_for_the_same_seed_and_history(engine: Engine) -> None:
    """Two studies of one name's seed and history suggest alike, trial by trial."""
    runs = []
    for _ in range(2):
        study = simulated_study(engine, trials=8, sampler=TPE, pruner=HYPERBAND)
        claims = claims_of(engine, study)
        seen = []
        while isinstance(claim := claims.claim(), Claim):
            seen.append(claim.params)
            claims.report(claim, epoch(1, claim.params["x"]))
            claims.tell(claim, End.COMPLETE)
        runs.append(seen)
        with engine.begin() as connection:
            connection.execute(text("delete from hpo.study"))
            connection.execute(text("update studies set study_name = study_name || '-old'"))
    assert runs[0] == runs[1]
    assert len({str(params) for params in runs[0]}) == 8


def test_a_lost_connection_in_a_claim_is_no_second_trial(engine: Engine) -> None:
    """Claims through connections that are killed again and again stay exact."""
    study = simulated_study(engine, trials=10)
    over = threading.Event()

    def kill() -> None:
        while not over.wait(random.uniform(0.02, 0.3)):
            with engine.connect() as connection:
                connection.execute(
                    text(
                        "select pg_terminate_backend(pid) from pg_stat_activity "
                        "where datname = current_database() and application_name = 'cut-me'"
                    )
                )

    workers = make_engine(
        engine.url.update_query_dict({"application_name": "cut-me"}).render_as_string(
            hide_password=False
        ),
        pool_size=2,
    )
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        count = run_to_end(claims_of(workers, study), 3)
    finally:
        over.set()
        killer.join()
        workers.dispose()
    assert count == 10
    with engine.connect() as connection:
        assert connection.scalar(text("select count(*) from trials")) == 10


def test_a_restart_of_the_server_costs_nobody_a_trial(engine: Engine) -> None:
    """Nobody could renew while it was away: a lease counts as run out a lease's time after it."""
    study = simulated_study(engine, trials=2)
    holder, other = claims_of(engine, study), claims_of(engine, study, 2)
    silent, given = claimed(holder), claimed(holder)
    expire(engine, silent)
    _started(engine, "now()")
    assert other.claim() is NoTrial.WAIT
    holder.release(given)
    assert claimed(other).number == given.number, "what was given back is nobody's"
    _started(engine, "now() - interval '31 s'")
    assert claimed(other).number == silent.number


def _started(engine: Engine, when: str) -> None:
    body = f"create or replace function hpo.up_since() returns timestamptz language sql volatile as $$ select {when} $$"  # noqa: E501 - two constants, on one line
    with engine.begin() as connection:
        connection.execute(text(body))

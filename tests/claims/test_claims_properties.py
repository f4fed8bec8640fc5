"""Claims, leases and takeovers at random against a model: real PostgreSQL, injected time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from optuna.storages import RDBStorage
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from support.claims.machine import ClaimsMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from support.postgres import InjectedTime

# More of them, and other ones each time: CLAIMS_EXAMPLES=2000 pytest …
EXAMPLES = int(os.environ.get("CLAIMS_EXAMPLES", "0"))


@pytest.fixture
def plain(database_url: str) -> Iterator[RDBStorage]:
    """Optuna's own view of the database, as others than this service have it."""
    storage = RDBStorage(database_url)
    yield storage
    storage.engine.dispose()


def drive(engine: Engine, time: InjectedTime, plain: RDBStorage, **changes: Any) -> None:
    """Run the machine; in tests always the same examples, by hand as many as wanted."""
    chosen = {
        "max_examples": EXAMPLES or 40,
        "derandomize": not EXAMPLES,
        "stateful_step_count": 50,
        "deadline": None,
        "database": None,
        "print_blob": False,
        "suppress_health_check": list(HealthCheck),
    }
    run_state_machine_as_test(
        lambda: ClaimsMachine(engine, time, plain), settings=settings(**{**chosen, **changes})
    )


def test_claims_do_what_the_model_does(
    engine: Engine, injected_time: InjectedTime, plain: RDBStorage
) -> None:
    """Whatever workers do and whenever: exact budgets, one live token, fenced writes."""
    drive(engine, injected_time, plain)


# What is planted -> (function, what stands in it, what stands there in its place)
BUGS = {
    "no token is asked for": ("guard", "and l.token = p_token", ""),
    "deaths are never forgotten": ("report", "set deaths = 0", "set deaths = l.deaths"),
    "a trial may kill for ever": ("claim", "if dead >= 3", "if dead >= 3000"),
    "one trial too many": ("claim", "claimed < s.trials", "claimed <= s.trials"),
    "a renewal renews nothing": ("renew", "hpo.seconds(p_lease_s)", "hpo.seconds(0)"),
    "a takeover is not noted": ("claim", "set ended = 'silent'", "set ended = null"),
}
# Found by more examples than a test run has time for
SUBTLE = {
    "a released lease can be renewed": ("guard", "and not l.released", ""),
    "an ended trial is written for": ("guard", "and t.state = 'RUNNING'", ""),
    "too old a checkpoint stays": ("checkpoint", "limit 2", "limit 3"),
    "checkpoints stay after the end": ("tell", "delete from hpo.checkpoint", "-- "),
    "a claim asked for again goes to nobody": ("claim", "where a.token = p_token", "where false"),
    "who was given up may tell it": ("give_up", "token = excluded.token", "token = l.token"),
}


@pytest.mark.faults
@pytest.mark.parametrize("bug", BUGS | SUBTLE if EXAMPLES else BUGS)
def test_the_model_sees_a_planted_bug(
    engine: Engine, injected_time: InjectedTime, plain: RDBStorage, bug: str
) -> None:
    """With one condition of the SQL taken out, the same examples fail."""
    name, right, wrong = (BUGS | SUBTLE)[bug]
    with engine.begin() as connection:
        source = connection.scalar(
            text("select pg_get_functiondef(p.oid) from pg_proc p join pg_namespace n "
                 "on n.oid = p.pronamespace where n.nspname = 'hpo' and p.proname = :name"),
            {"name": name},
        )  # fmt: skip
        assert right in source, f"hpo.{name} has changed: plant the bug anew"
        connection.exec_driver_sql(source.replace(right, wrong).replace("%", "%%"))
    with pytest.raises((AssertionError, IntegrityError)):
        drive(engine, injected_time, plain, phases=[Phase.generate], report_multiple_bugs=False)

"""The database's tables: made once, by many at once, beside Optuna's; refused when newer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import optuna
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool
from support.studies import simulated_study

from hpo.claims.claims import Claim, Claims, End
from hpo.errors import SchemaError
from hpo.storage.postgres import schema
from hpo.storage.postgres.engine import Database
from hpo.trainer import Epoch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Engine]:
    """A database with nothing in it."""
    engine = create_engine(empty_database_url, poolclass=NullPool)
    yield engine
    engine.dispose()


def tables(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(
            connection.scalars(
                text(
                    "select schemaname || '.' || tablename from pg_tables "
                    "where schemaname not in ('pg_catalog', 'information_schema') order by 1"
                )
            )
        )


def revisions(engine: Engine) -> tuple[str | None, str | None]:
    with engine.connect() as connection:
        return schema.revisions(connection)


def test_an_empty_database_is_refused_until_it_is_upgraded(empty: Engine) -> None:
    """A worker does not make tables; `upgrade` does, and twice changes nothing."""
    with pytest.raises(SchemaError, match="is at nothing, this version needs"):
        schema.check(empty)
    schema.upgrade(empty)
    made = tables(empty)
    assert {"hpo.study", "hpo.lease", "public.trials"} <= set(made)
    schema.check(empty)
    schema.upgrade(empty)
    assert tables(empty) == made
    assert revisions(empty) == (schema.OPTUNA_HEAD, schema.HEAD)


def test_eight_upgrades_at_once_make_the_tables_once(empty: Engine) -> None:
    """Workers that start together on a new database do not trip over each other."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: schema.upgrade(empty), range(8)))
    schema.check(empty)
    assert tables(empty).count("hpo.study") == 1


def test_studies_that_plain_optuna_made_before_stay(empty: Engine, empty_database_url: str) -> None:
    """The schema goes beside existing Optuna tables and leaves their studies alone."""
    old = optuna.create_study(study_name="old", storage=empty_database_url)
    old.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    schema.upgrade(empty)
    simulated_study(empty)
    again = optuna.load_study(study_name="old", storage=empty_database_url)
    assert [trial.params for trial in again.trials] == [trial.params for trial in old.trials]


def test_a_newer_schema_is_refused_with_the_command_that_mends_it(empty: Engine) -> None:
    """Neither `check` nor `upgrade` touches the tables of a newer version."""
    schema.upgrade(empty)
    with empty.begin() as connection:
        connection.execute(text("update hpo.version set version_num = '9999'"))
    for act in (schema.check, schema.upgrade):
        with pytest.raises(SchemaError, match="is at 9999, newer than") as caught:
            act(empty)
        assert "pip install --upgrade hpo-service" in caught.value.hint
    assert revisions(empty)[1] == "9999"


def test_tables_of_another_optuna_are_refused(empty: Engine, empty_database_url: str) -> None:
    """Our SQL writes them, so only the revision that it was written for will do."""
    optuna.create_study(study_name="old", storage=empty_database_url)
    with empty.begin() as connection:
        connection.execute(text("update alembic_version set version_num = 'v2.6.0.a'"))
    before = tables(empty)
    for act in (schema.upgrade, schema.check):
        with pytest.raises(SchemaError):
            act(empty)
    assert tables(empty) == before, "nothing half-made"
    with empty.begin() as connection:
        connection.execute(
            text("update alembic_version set version_num = :head"), {"head": schema.OPTUNA_HEAD}
        )
    schema.upgrade(empty)
    with empty.begin() as connection:
        connection.execute(text("update alembic_version set version_num = 'v2.6.0.a'"))
    with pytest.raises(SchemaError, match=r"Optuna's tables are at v2\.6\.0\.a"):
        schema.check(empty)


def test_a_user_called_hpo_gets_the_same_tables(empty: Engine, empty_database_url: str) -> None:
    """PostgreSQL looks into a schema of the user's name first: nothing lands in the wrong one."""
    assert make_url(empty_database_url).username == "hpo", "the private server's user"
    schema.upgrade(empty)
    schema.upgrade(empty)
    found = tables(empty)
    assert {"public.studies", "public.alembic_version", "hpo.version"} <= set(found)
    assert not {"hpo.studies", "hpo.alembic_version"} & set(found)
    study = simulated_study(empty, trials=1)
    claims = Claims(Database(empty, patience_s=30.0), study, 1, lease_s=30.0)
    claim = claims.claim()
    assert isinstance(claim, Claim)
    claims.report(claim, Epoch(1, {"mAP50": 0.5}))
    assert claims.tell(claim, End.COMPLETE)
    plain = optuna.load_study(study_name=study.name, storage=empty_database_url)
    assert plain.best_value == 0.5

"""The database's tables: made once, by many at once, beside Optuna's; refused when newer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import NullPool
from support.studies import simulated_study

from hpo.claims.claims import Claim, Claims, End
from hpo.errors import SchemaError
from hpo.services.dashboard import wait_for_tables
from hpo.storage.postgres import schema
from hpo.storage.postgres.engine import Database
from hpo.trainer import Epoch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from support.proxies import Server

# hpo.seconds as no version has it, and what a database says of the version that it has
OTHER_BODY = """
create or replace function hpo.seconds(p_s double precision) returns interval
language sql immutable as $$ select interval '1 year' $$
"""
BEFORE = "functions of hpo-service 0.0.9, sha256 0123"
SAME_VERSION = f"functions of hpo-service {schema.__version__}, sha256 0123"
AFTER = "functions of hpo-service 99.10.0rc1, sha256 0123"


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


def replaced(engine: Engine, mark: str | None) -> None:
    """Another version's functions are there, as that version notes it."""
    with engine.begin() as connection:
        connection.execute(text(OTHER_BODY))
        words = "null" if mark is None else f"'{mark}'"
        connection.execute(text(f"comment on function hpo.now() is {words}"))


def bodies(engine: Engine) -> list[tuple[Any, ...]]:
    """Every function with the rights on it and the note about all."""
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "select pg_get_functiondef(oid), proacl::text, obj_description(oid, 'pg_proc')"
                "  from pg_proc where pronamespace = 'hpo'::regnamespace order by oid"
            )
        )
        return [tuple(row) for row in found]


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


@pytest.mark.parametrize("mark", [None, BEFORE, SAME_VERSION])
def test_functions_of_another_version_are_replaced(empty: Engine, mark: str | None) -> None:
    """Also where the tables' revision is the same, and by eight at once."""
    schema.upgrade(empty)
    made = bodies(empty)
    replaced(empty, mark)
    assert bodies(empty) != made
    schema.check(empty)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: schema.upgrade(empty), range(8)))
    assert bodies(empty) == made


def test_functions_of_a_newer_version_stay(empty: Engine) -> None:
    """A machine with an older version does not undo what another one mended."""
    schema.upgrade(empty)
    replaced(empty, AFTER)
    newer = bodies(empty)
    schema.upgrade(empty)
    assert bodies(empty) == newer


def test_functions_are_replaced_by_their_owner_and_keep_their_rights(server: Server) -> None:
    """A role that only uses them goes on with what is there; grants outlive a replacement."""
    server.provision()
    owner, reader = server.engine("HPO_STORAGE"), server.engine("HPO_READER_STORAGE")
    made = bodies(owner)
    replaced(owner, None)
    schema.upgrade(reader)
    assert bodies(owner) != made
    schema.upgrade(owner)
    assert bodies(owner) == made
    with reader.connect() as connection:
        connection.execute(text("select hpo.now()"))
        with pytest.raises(ProgrammingError, match="permission denied for function give_up"):
            connection.execute(text("select hpo.give_up(1, 1)"))


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


def test_an_older_schema_is_refused_with_the_command_that_mends_it(
    empty: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is migrated behind anybody's back."""
    schema.upgrade(empty)
    monkeypatch.setattr(schema, "HEAD", "0006")
    with pytest.raises(SchemaError, match="is at 0005, this version needs 0006") as caught:
        schema.check(empty)
    assert "hpo up" in caught.value.hint


@pytest.mark.parametrize("revision", ["0001", "0004"])
def test_a_schema_of_before_the_first_release_is_refused(empty: Engine, revision: str) -> None:
    """Its migrations are gone; the way by a backup is named, and nobody waits for an upgrade."""
    schema.upgrade(empty)
    with empty.begin() as connection:
        connection.execute(text("update hpo.version set version_num = :it"), {"it": revision})
    before = bodies(empty)
    for act in (schema.check, schema.upgrade, wait_for_tables):
        with pytest.raises(SchemaError, match=f"is at {revision}, which was never rel") as caught:
            act(empty)
        assert "hpo export" in caught.value.hint
        assert "hpo import" in caught.value.hint
    assert (revisions(empty)[1], bodies(empty)) == (revision, before)


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

"""From one version of the schema to the next, with studies under way: real PostgreSQL."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text
from support.postgres import up_for_long
from support.studies import claimed, claims_of, epoch, expire, simulated_spec

from hpo.claims.checkpoints import clear_ended
from hpo.claims.claims import Claim, End, LeaseStatus, NoTrial
from hpo.errors import SchemaError
from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.postgres import schema
from hpo.studies import store as studies
from hpo.studies.status import champion_row
from hpo.studies.store import SQL, Study, insert_optuna_study, load_study
from hpo.studies.trials import trial_details, trial_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

MIGRATIONS = Path(schema.__file__).parent / "migrations"
BASELINE = {"x": 0.2, "y": 0.1, "kind": "a"}

# What a schema is made of, as PostgreSQL itself describes it
DESCRIPTION = {
    "columns": "select table_name, column_name, ordinal_position, column_default, is_nullable, "
    "data_type, is_identity from information_schema.columns where table_schema = 'hpo'",
    "constraints": "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) "
    "from pg_constraint where connamespace = 'hpo'::regnamespace",
    "indexes": "select tablename, indexname, indexdef from pg_indexes where schemaname = 'hpo'",
    "functions": "select p.oid::regprocedure::text, pg_get_functiondef(p.oid) from pg_proc p "
    "where p.pronamespace = 'hpo'::regnamespace",
    "triggers": "select event_object_table, trigger_name, action_statement "
    "from information_schema.triggers where trigger_schema = 'hpo'",
    "sequences": "select sequence_name from information_schema.sequences "
    "where sequence_schema = 'hpo'",
}


def migrate(connection: Connection, revision: str) -> None:
    """Bring Optuna's tables and the schema `hpo` to this revision."""
    from alembic import command
    from alembic.config import Config

    connection.execute(text("create schema if not exists hpo"))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


@pytest.fixture
def old(empty_database_url: str) -> Iterator[Engine]:
    """A database as the first version made it."""
    engine = create_engine(empty_database_url)
    schema._create_optuna_tables(engine)
    with engine.begin() as connection:
        migrate(connection, "0001")
    yield engine
    engine.dispose()


def old_study(engine: Engine, **changes: Any) -> int:
    """A study as the first version made it; its id."""
    spec = simulated_spec(**changes)
    with engine.begin() as connection:
        found = insert_optuna_study(connection, spec.study)
        connection.execute(SQL["insert_direction"], {"study_id": found, "direction": "MAXIMIZE"})
        connection.execute(
            text("insert into hpo.study (study_id, name, spec, spec_sha256, code_version, trials) "
                 "values (:study, :name, cast(:spec as jsonb), :sha256, 'simulated 1', :trials)"),
            {
                "study": found, "name": spec.study, "spec": json.dumps(spec.to_dict()),
                "sha256": spec.sha256(), "trials": spec.budget.trials,
            },
        )  # fmt: skip
        for baseline in spec.baselines:
            studies.insert_waiting(connection, int(found), baseline)
        return int(found)


def old_promotion(engine: Engine, outcome: str, version: int, at: str) -> None:
    """A decision about the model `m` as the first version recorded it."""
    with engine.begin() as connection:
        connection.execute(
            text("insert into hpo.promotion (promotion_id, study_id, study_name, decided_at, "
                 "outcome, model, alias, version, evidence) values (gen_random_uuid(), 1, 's', "
                 "cast(:at as timestamptz), :outcome, 'm', 'champion', :version, '{}')"),
            {"at": at, "outcome": outcome, "version": version},
        )  # fmt: skip


def test_promotions_of_before_keep_their_order_and_their_champion(old: Engine) -> None:
    """Rows of before are numbered by when they were decided, whatever order they lie in."""
    old_promotion(old, "promoted", 2, "2026-02-01")
    old_promotion(old, "promoted", 1, "2026-01-01")
    old_promotion(old, "kept", 2, "2026-03-01")
    with old.begin() as connection:
        migrate(connection, "head")
        rows = connection.execute(text("select version, outcome from hpo.promotion order by seq"))
        assert [tuple(row) for row in rows] == [(1, "promoted"), (2, "promoted"), (2, "kept")]
        champion = champion_row(connection, "m", None)
        assert champion is not None
        assert champion.version == 2


@dataclass
class OldClaim:
    """A claim made by the first version's functions, and its verbs."""

    engine: Engine
    trial_id: int
    number: int
    token: str

    @classmethod
    def of(cls, engine: Engine, study: int, params: dict[str, list[Any]] | None = None) -> OldClaim:
        token = str(uuid.uuid4())
        row = _one(
            engine, "select * from hpo.claim(:study, 1, cast(:token as uuid), 30)",
            study=study, token=token,
        )  # fmt: skip
        assert row.outcome == "trial"
        claim = cls(engine, row.trial_id, row.number, token)
        stored = json.dumps(params or {})
        assert claim.call("store_params", "cast(:a as jsonb), '{}'", a=stored)
        return claim

    def call(self, name: str, rest: str, **values: Any) -> Any:
        sql = f"select hpo.{name}(:trial, cast(:token as uuid), {rest}) as answer"
        return _one(self.engine, sql, trial=self.trial_id, token=self.token, **values).answer

    def report(self, number: int, value: float) -> None:
        answer = self.call("report", ":epoch, :value, '{}', 30", epoch=number, value=value)
        assert answer == "go"

    def complete(self) -> None:
        assert self.call("tell", "'COMPLETE', null, '{}', '{}'") == "told"


def _one(engine: Engine, sql: str, **values: Any) -> Any:
    with engine.begin() as connection:
        return connection.execute(text(sql), values).one()


def _params(x: float) -> dict[str, list[Any]]:
    """Parameters as the first version stored them."""
    limits = '{"step": null, "low": %s, "high": 1.0, "log": %s}'
    plain = '{"name": "FloatDistribution", "attributes": ' + limits + "}"
    kinds = '{"name": "CategoricalDistribution", "attributes": {"choices": ["a", "b"]}}'
    return {
        "x": [x, plain % ("0.0", "false")],
        "y": [0.1, plain % ("0.0001", "true")],
        "kind": [0, kinds],
    }


@pytest.fixture
def upgraded(old: Engine) -> tuple[Engine, Study, dict[str, OldClaim]]:
    """A study of five trials: told, running, silent, ended outside this service, waiting."""
    study_id = old_study(old, trials=6, epochs=3, baselines=(BASELINE,) * 5)
    names = ("told", "running", "silent", "foreign")
    claims = {name: OldClaim.of(old, study_id, _params(0.2)) for name in names}
    for claim in claims.values():
        claim.report(1, 0.3)
    claims["told"].complete()
    with old.begin() as connection:
        connection.execute(
            text("update hpo.lease set expires_at = clock_timestamp() where trial_id = :id"),
            {"id": claims["silent"].trial_id},
        )
        connection.execute(
            text("update trials set state = 'FAIL' where trial_id = :id"),
            {"id": claims["foreign"].trial_id},
        )
    schema.upgrade(old)
    up_for_long(old)
    return old, load_study(old, "simulated-test"), claims


def as_new(old: OldClaim) -> Claim:
    """The same claim in the hands of the new code, as after a lost connection."""
    return Claim(
        trial_id=old.trial_id,
        number=old.number,
        token=uuid.UUID(old.token),
        takeovers=0,
        pruning_checked_to=1,
        params=BASELINE,
    )


def test_a_study_under_way_goes_on(upgraded: tuple[Engine, Study, dict[str, OldClaim]]) -> None:
    """The silent trial is taken over, the waiting one runs, the budget stays exact."""
    engine, study, old = upgraded
    claims = claims_of(engine, study)
    taken = claimed(claims)
    assert (taken.number, taken.takeovers) == (old["silent"].number, 1)
    assert taken.pruning_checked_to == 1, "what was recorded before counts"
    assert claims.checkpoints(taken.trial_id) == [], "there is no checkpoint: it starts again"
    waiting, made = claimed(claims), claimed(claims)
    assert (waiting.number, waiting.params) == (4, BASELINE)
    assert made.number == 5
    assert claims.claim() is NoTrial.WAIT
    still = as_new(old["running"])
    assert claims.report(still, epoch(2, 0.4)) is LeaseStatus.GO, "its token is still the lease's"
    for claim in (taken, waiting, made, still):
        claims.report(claim, epoch(3, 0.5))
        assert claims.tell(claim, End.COMPLETE)
    assert claims.claim() is NoTrial.FINISHED
    with engine.connect() as connection:
        states = [row.state for row in trial_rows(connection, study)]
    assert states == ["complete"] * 3 + ["failed"] + ["complete"] * 2


def test_attempts_of_before_are_told_as_far_as_they_are_known(
    upgraded: tuple[Engine, Study, dict[str, OldClaim]], tmp_path: Path
) -> None:
    """One row for whoever had a trial last; what follows is counted on from there."""
    engine, study, old = upgraded
    taken = claimed(claims_of(engine, study))
    with engine.connect() as connection:
        details = {
            name: trial_details(connection, study, claim.number)["attempts"]
            for name, claim in old.items()
        }
    assert [one["how"] for one in details["told"]] == ["told"]
    assert [one["how"] for one in details["running"]] == [None]
    assert [(one["attempt"], one["how"]) for one in details["silent"]] == [(1, "silent"), (2, None)]
    expire(engine, taken)
    assert claimed(claims_of(engine, study)).takeovers == 2
    store = FolderStore(tmp_path / "artifacts")
    store.require_writable()
    clear_ended(claims_of(engine, study), store)
    left = claims_of(engine, study).uncleared()
    assert left == [], "trials that ended before there were checkpoints are cleared"


def test_studies_of_before_get_names_of_their_own_in_the_store(old: Engine) -> None:
    """Each its own, the same at every look."""
    names = ("first", "second")
    for name in names:
        old_study(old, study=name)
    schema.upgrade(old)
    found = {load_study(old, name).uid for name in names}
    assert len(found) == 2
    assert found == {load_study(old, name).uid for name in names}


def described(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return {
            name: sorted(tuple(row) for row in connection.execute(text(sql)))
            for name, sql in DESCRIPTION.items()
        }


def test_an_upgraded_database_equals_a_new_one(
    upgraded: tuple[Engine, Study, dict[str, OldClaim]], engine: Engine
) -> None:
    """Columns, constraints, indexes, functions, triggers: all the same."""
    new, grown = described(engine), described(upgraded[0])
    for name in DESCRIPTION:
        assert new[name], name
        assert grown[name] == new[name], name


def test_an_old_database_is_refused_with_the_command_that_mends_it(old: Engine) -> None:
    """Nothing is migrated behind anybody's back."""
    with pytest.raises(SchemaError, match="is at 0001") as caught:
        schema.check(old)
    assert "hpo up" in caught.value.hint


def test_an_upgrade_that_fails_leaves_the_old_version(
    old: Engine,
) -> None:
    """All of it is one transaction."""
    old_study(old)
    before = described(old)
    with old.begin() as connection:
        # Something in the way of the last statement of the tables' file
        connection.execute(text("create table hpo.checkpoint (unexpected int)"))
    with pytest.raises(Exception, match="already exists"):
        schema.upgrade(old)
    with old.begin() as connection:
        assert schema.revisions(connection)[1] == "0001"
        connection.execute(text("drop table hpo.checkpoint"))
    assert described(old) == before
    schema.upgrade(old)
    assert load_study(old, "simulated-test").trials == 6

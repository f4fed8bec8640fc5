"""From one version of the schema to the next, with studies under way: real PostgreSQL."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from support.command_line import HPO
from support.postgres import database_of
from support.studies import claimed, claims_of, epoch, expire

from hpo.claims.checkpoints import clear_ended
from hpo.claims.claims import Claim, End, LeaseStatus, NoTrial
from hpo.cli.main import cli
from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.postgres import schema
from hpo.studies.store import load_study

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

# A database and its artifacts as the first version with this revision left them; how they were
# made is told in the file.
KEPT_REVISION = "0005"
KEPT = Path(__file__).with_name(f"database-{KEPT_REVISION}.sql.gz")
KEPT_ARTIFACTS = Path(__file__).with_name(f"artifacts-{KEPT_REVISION}.tar.gz")
MODEL = "kept-detector"

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
    "sequences": "select sequencename, data_type::text, start_value, increment_by "
    "from pg_sequences where schemaname = 'hpo'",
}
SIGNATURES = (
    "select p.oid::regprocedure::text, pg_get_function_arguments(p.oid), "
    "pg_get_function_result(p.oid) from pg_proc p where p.pronamespace = 'hpo'::regnamespace"
)

# A migration to come: a table, a function that reads it, and a column whose default is that
LATER = """
from alembic import op

revision, down_revision, branch_labels, depends_on = "0006", "0005", None, None


def upgrade():
    op.execute("create table hpo.later (n integer)")
    op.execute("alter table hpo.lease add column later integer not null default hpo.later()")
"""
LATER_FUNCTION = """
create or replace function hpo.later() returns integer language sql as
$$ select count(*)::integer from hpo.later $$;
"""


def described(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return {
            name: sorted(tuple(row) for row in connection.execute(text(sql)))
            for name, sql in DESCRIPTION.items()
        }


def signatures(engine: Engine) -> set[tuple[Any, ...]]:
    with engine.connect() as connection:
        return {tuple(row) for row in connection.execute(text(SIGNATURES))}


def engine_on(url: str) -> Engine:
    return create_engine(url, poolclass=NullPool)


@pytest.fixture
def old(empty_database_url: str) -> Engine:
    """The kept database as it was left."""
    engine = engine_on(empty_database_url)
    with engine.begin() as connection, connection.connection.cursor() as cursor:
        cursor.execute(gzip.decompress(KEPT.read_bytes()).decode())
    return engine


@pytest.fixture
def kept(old: Engine) -> Engine:
    """The kept database after an upgrade to this version."""
    schema.upgrade(old)
    return old


@pytest.fixture
def new(postgres_url: str) -> Iterator[Engine]:
    """A database that this version made."""
    with database_of(postgres_url, "template1") as url:
        engine = engine_on(url)
        schema.upgrade(engine)
        yield engine


@pytest.fixture
def here(
    old: Engine, clean_env: pytest.MonkeyPatch, tmp_path: Path, mlflow_url: str
) -> pytest.MonkeyPatch:
    """The environment of a machine that has the kept artifacts and another MLflow."""
    home = tmp_path / ".hpo"
    FolderStore(home / "artifacts").require_writable()
    with tarfile.open(KEPT_ARTIFACTS) as archive:
        archive.extractall(home / "artifacts", filter="data")
    clean_env.chdir(tmp_path)
    clean_env.setenv("HPO_STORAGE", old.url.render_as_string(hide_password=False))
    clean_env.setenv("HPO_HOME", str(home))
    clean_env.setenv("HPO_LEASE_S", "2")
    clean_env.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    return clean_env


def answer(*words: str) -> Any:
    """The document of `hpo WORDS --json`."""
    result = CliRunner().invoke(cli, [*words, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_a_kept_database_equals_a_new_one(kept: Engine, new: Engine) -> None:
    """Columns, constraints, indexes, functions, triggers, sequences: all the same."""
    grown, made = described(kept), described(new)
    for name in DESCRIPTION:
        assert made[name], name
        assert grown[name] == made[name], name


def test_signatures_of_a_revision_stay(old: Engine, new: Engine) -> None:
    """A program of before with the same revision can call every function as it is now.

    Add a revision where this fails, as hpo/storage/postgres/migrations/env.py says.
    """
    if schema.HEAD == KEPT_REVISION:
        assert signatures(old) == signatures(new)


def test_the_bodies_of_all_functions_fit_the_tables(new: Engine) -> None:
    """PostgreSQL does not look into them when they are made, before the tables."""
    source = (schema.MIGRATIONS / "functions.sql").read_text(encoding="utf-8")
    created = re.findall(r"^create or replace function hpo\.(\w+)", source, re.MULTILINE)
    before = described(new)["functions"]
    made = [re.findall(r"(\w+)\(", name)[0] for name, _ in before]
    assert sorted(created) == sorted(made), "each stands there once"
    with new.begin() as connection, connection.connection.cursor() as cursor:
        cursor.execute(f"set local check_function_bodies = on;\n{source}")
    assert described(new)["functions"] == before


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The next version's folder of migrations, in place of this one's; it has one more."""
    folder = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, folder)
    (folder / "versions" / "0006_later.py").write_text(LATER)
    with (folder / "functions.sql").open("a") as file:
        file.write(LATER_FUNCTION)
    monkeypatch.setattr(schema, "MIGRATIONS", folder)
    monkeypatch.setattr(schema, "HEAD", "0006")
    return folder


@pytest.mark.usefixtures("later")
def test_a_later_version_brings_tables_and_functions(kept: Engine, new: Engine) -> None:
    """The same from nothing and from here on; studies stay and go on."""
    with kept.connect() as connection:
        assert schema.revisions(connection)[1] == "0006"
        assert connection.scalar(text("select max(later) from hpo.lease")) == 0
    assert described(kept) == described(new)
    assert claimed(claims_of(kept, load_study(kept, "under-way"))).number == 1


def test_an_upgrade_that_fails_leaves_the_old_version(old: Engine, later: Path) -> None:
    """Tables, functions and revision: all of it is one transaction."""
    before = described(old)
    file = later / "versions" / "0006_later.py"
    file.write_text(LATER + '    op.execute("create table hpo.study (n integer)")\n')
    with pytest.raises(DBAPIError, match="already exists"):
        schema.upgrade(old)
    assert described(old) == before
    with old.connect() as connection:
        assert schema.revisions(connection)[1] == KEPT_REVISION
    file.write_text(LATER)
    schema.upgrade(old)
    assert load_study(old, "under-way").trials == 5


@pytest.mark.usefixtures("here")
def test_commands_read_a_kept_database() -> None:
    """Before any upgrade: studies, trials, finals, decisions, champion, datasets."""
    names = {(one["study"], one["state"]) for one in answer("list")}
    assert names == {("kept", "finished"), ("kept/finals", "finished"), ("under-way", "open")}
    found = answer("status", "--study", "kept")
    states = {"complete": 4, "pruned": 5, "failed": 1, "running": 0, "waiting": 0}
    assert found["counts"] == states
    assert (found["best"]["number"], found["finals"]["done"]) == (3, 6)
    trials = answer("trials", "--study", "kept")
    assert [one["number"] for one in trials] == list(range(10))
    finals = answer("trials", "--study", "kept/finals")
    assert [one["state"] for one in finals] == ["complete"] * 6
    (dataset,) = answer("data", "list")
    assert dataset["images"] == {"train": 200, "val": 50, "test": 50}


@pytest.mark.usefixtures("here")
def test_decisions_of_before_keep_their_order_and_their_champion() -> None:
    """A promotion, an override, a rollback: the champion is the first one again."""
    history = answer("champion", "--model", MODEL, "--history")
    rows = [(one["outcome"], one["version"], one["override"]) for one in history]
    assert rows == [("rolled_back", 1, False), ("promoted", 2, True), ("promoted", 1, False)]
    champion = answer("champion", "--model", MODEL)
    assert (champion["version"], champion["trial"], champion["study"]) == (1, 3, "kept")


def test_a_study_under_way_goes_on(kept: Engine) -> None:
    """The silent trial is taken over, the waiting one runs, the budget stays exact."""
    claims = claims_of(kept, load_study(kept, "under-way"))
    taken = claimed(claims)
    assert (taken.number, taken.takeovers) == (1, 1)
    assert taken.params == {"x": 0.3, "y": 0.1, "kind": "b", "depth": 2}
    assert taken.pruning_checked_to == 3, "what was recorded before counts"
    assert [one.epoch for one in claims.checkpoints(taken.trial_id)] == [3, 2]
    waiting, *made = (claimed(claims) for _ in range(3))
    assert waiting.params == {"x": 0.6, "y": 0.3, "kind": "a"}
    assert [one.number for one in (waiting, *made)] == [2, 3, 4]
    assert claims.claim() is NoTrial.WAIT
    for claim in (taken, waiting, *made):
        assert claims.report(claim, epoch(4, 0.5)) is LeaseStatus.GO
        assert claims.tell(claim, End.COMPLETE)
    assert claims.claim() is NoTrial.FINISHED


def held(engine: Engine) -> Claim:
    """The claim of the kept database's killed worker, in the hands of the new code."""
    with engine.connect() as connection:
        row = connection.execute(
            text("select trial_id, token from hpo.lease where told_at is null")
        ).one()
    return Claim(
        trial_id=row.trial_id, number=1, token=row.token, takeovers=0, pruning_checked_to=3,
        params={},
    )  # fmt: skip


def test_a_worker_of_before_ends_its_trial(kept: Engine) -> None:
    """Its token is still the lease's, as long as nobody has taken the trial over."""
    claims, still = claims_of(kept, load_study(kept, "under-way")), held(kept)
    assert claims.report(still, epoch(4, 0.5)) is LeaseStatus.GO
    assert claims.tell(still, End.COMPLETE)
    assert claimed(claims).number == 2


@pytest.mark.usefixtures("here")
def test_attempts_of_before_are_counted_on(kept: Engine, tmp_path: Path) -> None:
    """Who had the trial last and how that ended; what follows has the next number."""
    study = load_study(kept, "under-way")
    taken = claimed(claims_of(kept, study))
    shown = answer("show", "1", "--study", "under-way")["attempts"]
    assert [(one["attempt"], one["how"]) for one in shown] == [(1, "silent"), (2, None)]
    told = answer("show", "0", "--study", "under-way")["attempts"]
    assert [one["how"] for one in told] == ["told"]
    expire(kept, taken)
    assert claimed(claims_of(kept, study)).takeovers == 2
    clear_ended(claims_of(kept, study), FolderStore(tmp_path / ".hpo" / "artifacts"))
    assert claims_of(kept, study).uncleared() == []


def test_studies_of_before_keep_their_names_in_the_store(kept: Engine) -> None:
    """Each its own, that of the checkpoints' folder."""
    uids = {str(load_study(kept, name).uid) for name in ("kept", "kept/finals", "under-way")}
    assert len(uids) == 3
    with tarfile.open(KEPT_ARTIFACTS) as archive:
        areas = {name.split("/")[1] for name in archive.getnames() if "checkpoints" in name}
    assert areas < uids


@pytest.mark.usefixtures("here")
def test_a_worker_continues_and_mlflow_gets_it_all() -> None:
    """A real worker goes on after the last checkpoint; afterwards MLflow equals PostgreSQL."""
    words = ("worker", "--study", "under-way", "--n-trials", "1", "--device", "cpu")
    done = subprocess.run([HPO, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "taken over, goes on after epoch 3" in done.stdout + done.stderr
    shown = answer("show", "1", "--study", "under-way")
    assert (shown["state"], shown["best_epoch"]) == ("complete", 4)
    assert answer("mirror", "sync", "--study", "under-way")["behind"] == 0
    assert answer("mirror", "verify", "--study", "under-way")["differences"] == []

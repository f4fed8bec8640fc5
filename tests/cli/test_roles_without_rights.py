"""The real commands as a role that may only read, and as one that lacks a right."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support.command_line import HPO
from support.studies import simulated_study

from hpo.errors import DatabaseError
from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.postgres.errors import explain
from hpo.storage.postgres.privileges import require_writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.proxies import Server

STUDY = """
study: mine
trainer: simulated
search_space: simulated
budget: {trials: 1, epochs: 1}
"""


@pytest.fixture(scope="module")
def _studied(_provisioned: Server) -> Server:
    simulated_study(_provisioned.engine("HPO_STORAGE"), study="seen")
    return _provisioned


@pytest.fixture
def studied(_studied: Server) -> Server:
    """A server with one study, `seen`."""
    return _studied


def run(server: Server, folder: Path, *words: str, code: int) -> subprocess.CompletedProcess[str]:
    """`hpo WORDS` as the reader."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HPO_", "MLFLOW_"))}
    own = {"HPO_STORAGE": server.env["HPO_READER_STORAGE"], "HPO_HOME": str(folder / ".hpo")}
    done = subprocess.run(
        [HPO, *words], cwd=folder, env=inherited | own, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"hpo {words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.cluster
@pytest.mark.parametrize("words", [("status",), ("list",), ("trials",), ("export", "seen.json.gz")])
def test_reading_commands_work_as_the_reader(
    studied: Server, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """They need no right to write."""
    study = () if words == ("list",) else ("--study", "seen")
    run(studied, tmp_path, *words, *study, code=0)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("stop", "--study", "seen"), "SELECT, UPDATE on the table studies"),
        (("extend", "--trials", "7", "--study", "seen"), "SELECT, UPDATE on the table studies"),
        (("create-study", "study.yaml"), "DELETE on the table hpo.lease"),
        (("worker", "--study", "seen"), "INSERT on the table hpo.worker"),
        (("delete", "--study", "seen", "--yes"), "SELECT, UPDATE on the table studies"),
    ],
)
@pytest.mark.cluster
def test_writing_commands_are_refused_in_words(
    studied: Server, tmp_path: Path, words: tuple[str, ...], wanted: str
) -> None:
    """Exit code 3, the role's name, what it lacks and the mend, once; nothing changed."""
    FolderStore(tmp_path / ".hpo" / "artifacts").require_writable()
    (tmp_path / "study.yaml").write_text(STUDY)
    done = run(studied, tmp_path, *words, code=3)
    assert studied.role["reader"] in done.stderr
    assert "may only read" in done.stderr
    assert f"{wanted} is needed" in done.stderr
    assert "HPO_STORAGE; `hpo provision` makes that role" in done.stderr
    assert "trying for" not in done.stderr
    assert "Traceback" not in done.stderr
    with studied.engine("HPO_STORAGE").connect() as connection:
        found = connection.execute(
            text("select state, trials from hpo.study where name in ('seen', 'mine')")
        ).all()
    assert [tuple(row) for row in found] == [("open", 6)]


LACKING: list[tuple[str, str, str]] = [
    ("select 1 from hpo.lease", "lacks SELECT on the table hpo.lease", "GRANT SELECT ON TABLE"),
    (
        "insert into public.studies (study_name) values ('x')",
        "lacks INSERT on the table public",
        "",
    ),
    ("update hpo.study set spec = null", "lacks UPDATE on the table hpo.study", "GRANT UPDATE"),
    ("delete from hpo.epoch", "lacks DELETE on the table hpo.epoch", "GRANT DELETE ON TABLE"),
    ("select 1 from hpo.study for update", "lacks SELECT, UPDATE on the table hpo.study", ""),
    ("create table hpo.mine (n int)", "lacks CREATE on the schema hpo", "GRANT CREATE ON SCHEMA"),
    ("create schema mine", "lacks CREATE on the database", "GRANT CREATE ON DATABASE"),
    ("select nextval('public.studies_study_id_seq')", "lacks USAGE on the sequence public.", ""),
    ("select hpo.give_up(1, 1)", "lacks EXECUTE on the function hpo.give_up", "GRANT EXECUTE ON"),
    ("alter table hpo.lease add x int", "does not own the table hpo.lease", "hpo provision"),
    ("create role x", "refuses the role", "administrator"),
]


@pytest.fixture
def poor(server: Server) -> Iterator[Any]:
    """A connection of a reader that was only let in: no right on any table."""
    server.provision()
    role, name = server.role["reader"], server.role["hpo"]
    server.as_admin(
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public, hpo FROM {role}",
        f"ALTER ROLE {role} RESET default_transaction_read_only",
        database=name,
    )
    with server.engine("HPO_READER_STORAGE").connect() as connection:
        yield connection


def test_the_right_that_lacks_is_named(poor: Any) -> None:
    """Role, right and object as PostgreSQL knows them, and the statement that gives it."""
    url = poor.engine.url.render_as_string(hide_password=False)
    for statement, words, mend in LACKING:
        with pytest.raises(DBAPIError) as caught:
            poor.execute(text(statement))
        poor.rollback()
        meaning = explain(caught.value, url)
        assert isinstance(meaning, DatabaseError), statement
        assert words in str(meaning), statement
        assert poor.engine.url.username in str(meaning), statement
        assert mend in meaning.hint, statement
        assert poor.engine.url.password not in str(meaning) + meaning.hint


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("select hpo.give_up(1, 1)", "lacks EXECUTE"),
        ("delete from hpo.epoch", "DELETE on the table hpo.epoch is needed"),
        ('update "hpo"."study" set spec = null', "UPDATE on the table hpo.study is needed"),
        ("create table hpo.mine (n int)", "CREATE TABLE writes"),
        ("select nextval('public.studies_study_id_seq')", "lacks USAGE on the sequence"),
        ("create database mine", "CREATE DATABASE writes"),
    ],
)
def test_what_a_reading_role_was_asked_to_write_is_named(
    provisioned: Server, statement: str, words: str
) -> None:
    """In words of rights, and not only PostgreSQL's "cannot execute"."""
    engine = provisioned.engine("HPO_READER_STORAGE").execution_options(
        isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text(statement))
    assert words in str(explain(caught.value, provisioned.env["HPO_READER_STORAGE"]))


def test_who_cannot_run_trials_is_told_why(server: Server) -> None:
    """A reader, and the service's own role when a right of it is gone; else nothing is said."""
    server.provision()
    require_writing(server.engine("HPO_STORAGE"))
    with pytest.raises(DatabaseError, match="may only read here: no trial"):
        require_writing(server.engine("HPO_READER_STORAGE"))
    name = server.role["hpo"]
    server.as_admin(f"REVOKE INSERT ON hpo.lease, public.trials FROM {name}", database=name)
    with pytest.raises(DatabaseError, match=r"lacks INSERT on hpo\.lease, INSERT on trials: no"):
        require_writing(server.engine("HPO_STORAGE"))


@pytest.mark.cluster
def test_doctor_looks_at_the_rest_where_a_right_lacks(server: Server, tmp_path: Path) -> None:
    """The table that cannot be read is named, and every other check has its line."""
    server.provision()
    name = server.role["hpo"]
    server.as_admin(f"REVOKE ALL ON public.studies FROM {name}", database=name)
    server.env["HPO_READER_STORAGE"] = server.env["HPO_STORAGE"]
    done = run(server, tmp_path, "doctor", code=1)
    assert re.search(
        r"^BAD  database .*lacks SELECT on the table studies$", done.stdout, re.MULTILINE
    )
    for check in ("python", "mlflow", "artifacts", "datasets", "space"):
        assert re.search(rf"^(ok |BAD)  {check} ", done.stdout, re.MULTILINE), check
    assert done.stderr == ""


def test_a_right_that_a_function_lacks_is_named(poor: Any, server: Server) -> None:
    """The statement inside the function counts, not the call; where it is not told, no guess."""
    everything = f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA hpo TO {server.role['reader']}"
    server.as_admin(everything, database=server.role["hpo"])
    for call, words in (
        ("hpo.guard(1, gen_random_uuid())", "lacks SELECT, UPDATE on the table public.trials"),
        ("hpo.store_attrs(1, '{}'::jsonb)", "lacks a right on the table trial_system_attributes"),
    ):
        with pytest.raises(DBAPIError) as caught:
            poor.execute(text(f"select {call}"))
        poor.rollback()
        meaning = explain(caught.value, server.env["HPO_READER_STORAGE"])
        assert words in str(meaning)
        assert "GRANT a right" not in getattr(meaning, "hint", "")

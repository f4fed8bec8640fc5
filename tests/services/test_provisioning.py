"""`hpo provision` on a real server: what it makes, twice, two at once, and for whom it refuses."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool
from support.command_line import HPO
from support.proxies import Front
from support.studies import simulated_study

from hpo.errors import DatabaseError, FaultsError, UsageError
from hpo.services.credentials import read_logins
from hpo.services.provisioning import provision
from hpo.settings import Settings
from hpo.storage.postgres import schema
from hpo.storage.postgres.admin import administrator
from hpo.storage.postgres.url import with_database

if TYPE_CHECKING:
    from support.proxies import Server
    from support.s3_server import S3Server

ATTRIBUTES = text(
    "select rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolpassword like 'SCRAM-SHA-256$%'"
    "  from pg_authid where rolname = :role"
)


def asked(server: Server, variable: str, statement: str) -> object:
    """One value, asked as one of the roles."""
    with server.engine(variable).begin() as connection:
        return connection.scalar(text(statement))


def test_an_empty_server_gets_roles_databases_and_tables(server: Server) -> None:
    """Each role logs in with its password and owns its database; what it may not do, it cannot."""
    made = server.provision()
    names = server.role
    assert made.roles == {names[n]: "made" for n in ("hpo", "mlflow", "reader")}
    assert made.databases == {names["hpo"]: "made", names["mlflow"]: "made"}
    assert made.reader == names["reader"]
    schema.check(server.engine("HPO_STORAGE"))
    with create_engine(server.admin, poolclass=NullPool).connect() as connection:
        for name in made.roles:
            row = connection.execute(ATTRIBUTES, {"role": name}).one()
            assert tuple(row) == (True, False, False, False, True), name
    for who, elsewhere in (("MLFLOW_BACKEND_STORE_URI", "hpo"), ("HPO_STORAGE", "mlflow")):
        url = with_database(server.env[who], names[elsewhere])
        with pytest.raises(OperationalError, match="permission denied for database"):
            create_engine(url, poolclass=NullPool).connect()


def test_the_reader_reads_all_and_writes_nothing(provisioned: Server) -> None:
    """Every table; also with its read-only setting off it changes, makes and calls nothing."""
    tables = (
        "select format('%I.%I', schemaname, tablename) from pg_tables"
        " where schemaname in ('public', 'hpo')"
    )
    with provisioned.engine("HPO_READER_STORAGE").connect() as connection:
        names = connection.exec_driver_sql(tables.replace("%", "%%")).scalars().all()
        assert {"hpo.study", "public.trials"} <= set(names)
        for name in names:
            connection.execute(text(f"table {name} limit 1"))
    for statement in (
        *(f"truncate {name}" for name in names),
        "insert into public.studies (study_name) values ('x')",
        "select hpo.claim(1, 1, gen_random_uuid(), 1)",
        "select hpo.give_up(1, 1)",
        "select nextval('public.studies_study_id_seq')",
        "create table public.mine (n int)",
        "create table hpo.mine (n int)",
        "create temporary table mine (n int)",
        "create schema mine",
        "select lo_create(0)",
        "select lo_creat(-1)",
        "select lo_from_bytea(0, 'x')",
    ):
        with provisioned.engine("HPO_READER_STORAGE").connect() as connection:
            connection.execute(text("set transaction read write"))
            with pytest.raises(DBAPIError, match="permission denied"):
                connection.execute(text(statement))
    assert asked(provisioned, "HPO_READER_STORAGE", "show default_transaction_read_only") == "on"
    assert asked(provisioned, "HPO_READER_STORAGE", "show statement_timeout") == "1min"


def test_tables_of_later_versions_are_readable_too(server: Server) -> None:
    """What the service makes after provisioning, the reader may read; not so its functions."""
    server.provision()
    with server.engine("HPO_STORAGE").begin() as connection:
        connection.execute(text("create table hpo.later (id serial)"))
        connection.execute(text("create function hpo.act() returns int language sql as 'select 1'"))
    assert asked(server, "HPO_READER_STORAGE", "select count(*) from hpo.later") == 0
    assert asked(server, "HPO_STORAGE", "select hpo.act()") == 1
    with pytest.raises(DBAPIError, match="permission denied for function act"):
        asked(server, "HPO_READER_STORAGE", "select hpo.act()")


def test_again_with_other_passwords_changes_only_those(server: Server) -> None:
    """Twice the same changes nothing; new passwords replace the old ones, and studies stay."""
    server.provision()
    study = simulated_study(server.engine("HPO_STORAGE"))
    again = server.provision()
    assert set(again.roles.values()) | set(again.databases.values()) == {"there"}
    old = dict(server.env)
    for who, variable in (("hpo", "HPO_STORAGE"), ("reader", "HPO_READER_STORAGE")):
        server.env[variable] = server.url(who, server.role["hpo"])
    server.provision()
    for variable in ("HPO_STORAGE", "HPO_READER_STORAGE"):
        found = asked(server, variable, "select study_name from public.studies")
        assert found == study.name
        with pytest.raises(OperationalError, match="password authentication failed"):
            create_engine(old[variable], poolclass=NullPool).connect()


def test_four_at_once_end_well(server: Server) -> None:
    """As where every machine of a rollout provisions: none fails, one made it all."""
    with ThreadPoolExecutor(4) as pool:
        done = [one.result() for one in [pool.submit(server.provision) for _ in range(4)]]
    for role in done[0].roles:
        assert sorted(one.roles[role] for one in done) == ["made", "there", "there", "there"]
    schema.check(server.engine("HPO_STORAGE"))


def test_one_that_does_not_end_is_waited_for_and_named(server: Server) -> None:
    """Another provisioning holds the server's lock: waited for up to --wait, then said."""
    # Other processes of the test run provision on the same server
    with administrator(server.admin, wait_s=60), pytest.raises(DatabaseError, match="not ended"):
        server.provision(wait_s=0.2)
    server.provision()


def test_tables_that_the_superuser_made_are_handed_over_and_migrated(server: Server) -> None:
    """A database of an older version, filled by another role: kept, and its new owner migrates."""
    name = server.role["hpo"]
    server.as_admin(f"CREATE DATABASE {name}")
    engine = create_engine(with_database(server.admin, name), poolclass=NullPool)
    schema.upgrade(engine)
    study = simulated_study(engine)
    # As PostgreSQL 14 has it: everybody may make tables in `public`
    server.as_admin("GRANT CREATE ON SCHEMA public TO PUBLIC", database=name)
    done = server.provision()
    assert done.handed_over > 20
    assert done.databases[name] == "there"
    assert asked(server, "HPO_STORAGE", "select study_name from public.studies") == study.name
    owned = (
        "select count(*) from pg_class c join pg_namespace n on n.oid = relnamespace"
        " where nspname in ('hpo', 'public') and pg_get_userbyid(relowner) <> current_user"
    )
    assert asked(server, "HPO_STORAGE", owned) == 0
    assert asked(server, "HPO_STORAGE", "alter table hpo.study add x int; select 1") == 1
    with pytest.raises(DBAPIError, match="permission denied for schema public"):
        asked(server, "HPO_READER_STORAGE", "set transaction read write; create table public.t ()")
    assert server.provision().handed_over == 0


def test_a_managed_servers_administrator_will_do(server: Server) -> None:
    """CREATEROLE and CREATEDB are enough, twice, and it keeps no membership of our roles."""
    server.make_managed_admin()
    server.provision()
    assert set(server.provision().roles.values()) == {"there"}
    with server.engine("HPO_ADMIN_STORAGE").connect() as connection:
        may = text("select pg_has_role(current_user, :role, 'USAGE')")
        assert not connection.scalar(may, {"role": server.role["hpo"]})
    schema.check(server.engine("HPO_STORAGE"))


def test_a_managed_servers_own_tables_are_handed_over(server: Server) -> None:
    """Also where the database was the administrator's, who is no superuser."""
    server.make_managed_admin()
    name = server.role["hpo"]
    server.as_admin(f"CREATE DATABASE {name} OWNER {server.role['admin']}")
    filled = with_database(server.env["HPO_ADMIN_STORAGE"], name)
    schema.upgrade(create_engine(filled, poolclass=NullPool))
    assert server.provision().handed_over > 20
    assert server.provision().handed_over == 0


@pytest.mark.parametrize(
    ("lost", "said"),
    [("NOCREATEROLE", "lacks CREATEROLE$"), ("NOCREATEDB NOCREATEROLE", "CREATEROLE and CREATEDB")],
)
def test_an_administrator_without_a_right_is_told_which(
    server: Server, lost: str, said: str
) -> None:
    """The message names role and right, and the hint gives it."""
    server.make_managed_admin()
    server.as_admin(f"ALTER ROLE {server.role['admin']} {lost}")
    with pytest.raises(DatabaseError, match=said) as caught:
        server.provision()
    assert server.role["admin"] in str(caught.value)
    assert "ALTER ROLE" in caught.value.hint


def test_a_role_of_somebody_elses_cannot_be_taken(server: Server) -> None:
    """A role that a superuser made: the administrator lacks ADMIN OPTION on it, and is told so."""
    server.make_managed_admin()
    server.as_admin(f"CREATE ROLE {server.role['hpo']} LOGIN")
    with create_engine(server.admin, poolclass=NullPool).connect() as connection:
        if (connection.dialect.server_version_info or ()) < (16,):
            pytest.skip("before PostgreSQL 16 CREATEROLE is enough for every role")
    with pytest.raises(DatabaseError, match="ADMIN option on role") as caught:
        server.provision()
    assert server.role["hpo"] in str(caught.value)


def test_a_superuser_is_not_taken_for_the_service(server: Server) -> None:
    """A role that may do everything is refused, and stays what it is."""
    server.as_admin(f"CREATE ROLE {server.role['hpo']} LOGIN SUPERUSER")
    with pytest.raises(UsageError, match="is a superuser"):
        server.provision()


def test_a_reader_with_anothers_rights_is_refused(server: Server) -> None:
    """A reader that is also a member of a role that writes would be none."""
    server.as_admin(f"CREATE ROLE {server.role['reader']} IN ROLE pg_write_all_data")
    with pytest.raises(UsageError, match="has the rights of pg_write_all_data"):
        server.provision()


def test_without_an_administrator_tables_and_rights_are_made(server: Server) -> None:
    """Roles and databases that exist before, as for a secret of Kubernetes: these are used."""
    for name in ("hpo", "mlflow", "reader"):
        variable = {"hpo": "HPO_STORAGE", "reader": "HPO_READER_STORAGE"}.get(
            name, "MLFLOW_BACKEND_STORE_URI"
        )
        password = make_url(server.env[variable]).password
        server.as_admin(f"CREATE ROLE {server.role[name]} LOGIN PASSWORD '{password}'")
    for name in ("hpo", "mlflow"):
        server.as_admin(f"CREATE DATABASE {server.role[name]} OWNER {server.role[name]}")
    del server.env["HPO_ADMIN_STORAGE"]
    done = server.provision()
    assert done.roles == {}
    assert asked(server, "HPO_READER_STORAGE", "select count(*) from hpo.study") == 0


def test_no_password_reaches_the_servers_log_or_the_output(server: Server) -> None:
    """With every statement logged, the log has the roles' names and no password; nor has stdout."""
    with create_engine(server.admin, poolclass=NullPool).connect() as connection:
        log = Path(str(connection.scalar(text("show data_directory")))).with_name("log")
    if not log.is_file():
        pytest.skip("the server of HPO_TEST_POSTGRES logs elsewhere")
    server.as_admin("ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
    try:
        done = subprocess.run(
            [HPO, "provision", "--json"],
            env=os.environ | server.env,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        server.as_admin("ALTER SYSTEM RESET log_statement", "SELECT pg_reload_conf()")
    written = log.read_text()
    assert f'CREATE ROLE "{server.role["hpo"]}"' in written
    for variable in ("HPO_STORAGE", "HPO_READER_STORAGE", "MLFLOW_BACKEND_STORE_URI"):
        password = str(make_url(server.env[variable]).password)
        assert password not in written + done.stdout + done.stderr


def test_a_server_that_is_not_up_yet_is_waited_for(server: Server) -> None:
    """It says what it waits for, without a password, and goes on when the server answers."""
    there = make_url(server.admin)
    front = Front(there.port or 5432)
    late = there.set(port=front.port).render_as_string(hide_password=False)
    server.env["HPO_ADMIN_STORAGE"] = late
    opening = threading.Timer(1.5, front.open)
    opening.start()
    try:
        assert server.provision(wait_s=60).reader == server.role["reader"]
    finally:
        opening.join()
        front.close()
    assert len(server.said) == 1
    assert "Waiting for PostgreSQL" in server.said[0]
    assert "nothing listens there" in server.said[0]
    assert str(there.password) not in server.said[0]


def test_a_server_that_stays_away_is_given_up(server: Server) -> None:
    """After --wait, in the words that the waiting had."""
    server.env["HPO_ADMIN_STORAGE"] = (
        make_url(server.admin).set(port=1).render_as_string(hide_password=False)
    )
    with pytest.raises(DatabaseError, match="nothing listens there"):
        server.provision(wait_s=0.5)


def test_a_wrong_password_is_not_waited_for(server: Server) -> None:
    """What waiting cannot mend is said at once."""
    wrong = make_url(server.admin).set(password="not-the-password")  # noqa: S106 - a made-up one
    server.env["HPO_ADMIN_STORAGE"] = wrong.render_as_string(hide_password=False)
    begun = time.monotonic()
    with pytest.raises(DatabaseError, match="wrong user name or password"):
        server.provision(wait_s=60)
    assert time.monotonic() - begun < 10


def test_the_bucket_is_made_once(server: Server, s3_server: S3Server) -> None:
    """HPO_ARTIFACTS names a bucket that is missing: made, and the second time there."""
    name = f"{s3_server.bucket}-new"
    server.env["HPO_ARTIFACTS"] = f"s3://{name}/runs"
    assert server.provision().bucket == {name: "made"}
    assert server.provision().bucket == {name: "there"}
    found = [one["Name"] for one in s3_server.client().list_buckets()["Buckets"]]
    assert name in found


class EnoughError(Exception):
    """Ends a waiting that would take as long as it was told."""


def test_s3_is_waited_for(server: Server, s3_server: S3Server, aws_env: pytest.MonkeyPatch) -> None:
    """It too is named while it is away, and so is what it answers."""
    del s3_server
    aws_env.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    env = server.env | {"HPO_ARTIFACTS": "s3://anything"}

    def say(told: str) -> None:
        assert told.startswith("Waiting for S3 (s3://anything)")
        assert "cannot be reached" in told
        raise EnoughError

    settings = Settings.read(env, server.folder)
    with pytest.raises(EnoughError):
        provision(settings, read_logins(env), wait_s=600, say=say)


def test_example_passwords_are_refused_all_at_once(server: Server) -> None:
    """Before anything is asked of the server, with exit code 2 and without the password."""
    server.env["HPO_STORAGE"] = server.url("hpo", "hpo", "CHANGE_ME_now")
    server.env["HPO_READER_STORAGE"] = server.url("reader", "hpo", "")
    with pytest.raises(FaultsError) as caught:
        server.provision()
    assert caught.value.exit_code == 2
    assert "example's" in str(caught.value)
    assert "is missing" in str(caught.value)
    assert "CHANGE_ME" not in str(caught.value)

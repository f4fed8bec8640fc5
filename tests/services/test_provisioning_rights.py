"""`hpo provision` where rights were taken away: the hint that names it is true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from hpo.errors import DatabaseError
from hpo.storage.postgres import schema
from hpo.storage.postgres.errors import explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.proxies import Server

# Taken from the service's role by a superuser, which also an owner can suffer -> what then fails
TAKEN = {
    "SELECT ON public.studies": "select count(*) from public.studies",
    "INSERT ON hpo.lease": "insert into hpo.lease select * from hpo.lease where false",
    "ALL ON SEQUENCE public.studies_study_id_seq": "select last_value from studies_study_id_seq",
    "ALL ON ALL FUNCTIONS IN SCHEMA hpo": "select hpo.utc_now()",
    "ALL ON SCHEMA hpo": "select count(*) from hpo.study",
    "ALL ON SCHEMA public": "create table public.one (n int); drop table public.one",
    "CREATE, TEMPORARY ON DATABASE {database}": "create temporary table one (n int)",
}


def taken(server: Server, what: str) -> None:
    """Take the rights away, and from all others too: some have them by way of PUBLIC."""
    name, role = server.role["hpo"], server.role["hpo"]
    for whom in (role, "PUBLIC", *(("pg_database_owner",) if "SCHEMA public" in what else ())):
        server.as_admin(f"REVOKE {what.format(database=name)} FROM {whom}", database=name)


def works(server: Server, statement: str) -> None:
    with server.engine("HPO_STORAGE").begin() as connection:
        connection.execute(text(statement))


@pytest.fixture
def mended(provisioned: Server) -> Iterator[Server]:
    """The shared server, whole again afterwards whatever a test has taken away."""
    yield provisioned
    provisioned.provision()


def take_and_provision(server: Server) -> None:
    for what, statement in TAKEN.items():
        taken(server, what)
        with pytest.raises(DBAPIError, match="permission denied"):
            works(server, statement)
    assert server.provision().given_back >= len(TAKEN)
    for statement in TAKEN.values():
        works(server, statement)
    schema.check(server.engine("HPO_STORAGE"))
    assert server.provision().given_back == 0


def test_rights_that_were_taken_from_the_service_are_given_back(mended: Server) -> None:
    """Each kind at once, and the second time nothing lacks."""
    take_and_provision(mended)


def test_an_owner_gives_them_back_to_itself(
    mended: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No administrator is needed for that."""
    with monkeypatch.context() as patch:
        patch.delitem(mended.env, "HPO_ADMIN_STORAGE")
        take_and_provision(mended)


@pytest.mark.cluster
def test_a_managed_servers_administrator_gives_them_back_too(server: Server) -> None:
    """One that is no superuser."""
    server.make_managed_admin()
    server.provision()
    take_and_provision(server)


def test_an_owner_that_may_not_even_enter_is_let_in_by_an_administrator(mended: Server) -> None:
    """CONNECT and all else on the database; without an administrator it is said who can."""
    server, name = mended, mended.role["hpo"]
    server.as_admin(f"REVOKE ALL ON DATABASE {name} FROM {name}")
    with pytest.raises(OperationalError, match="permission denied for database") as caught:
        works(server, "select 1")
    meaning = explain(caught.value, server.env["HPO_STORAGE"])
    assert isinstance(meaning, DatabaseError)
    assert "hpo provision" in meaning.hint
    assert server.provision().given_back == 1
    works(server, "create temporary table one (n int)")

"""The URLs of `hpo provision`: which are taken, and every fault of them at once."""

from __future__ import annotations

import pytest

from hpo.errors import FaultsError, UsageError
from hpo.logins import read_logins, weakness

GOOD = {
    "HPO_ADMIN_STORAGE": "postgresql://postgres:aaZ7-first@db/postgres",
    "HPO_STORAGE": "postgresql://hpo:bbZ7-second@db/hpo?sslmode=require",
    "MLFLOW_BACKEND_STORE_URI": "postgresql://mlflow:ccZ7-third@db/mlflow",
    "HPO_READER_STORAGE": "postgresql://hpo_reader:ddZ7-fourth@db/hpo",
}


def faults(**changes: str) -> str:
    with pytest.raises(FaultsError) as caught:
        read_logins(GOOD | changes)
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]


def test_roles_databases_and_options_are_read() -> None:
    """Each URL gives a role, its password and a database; options such as sslmode stay."""
    logins = read_logins(GOOD)
    assert [one.role for one in logins.made] == ["hpo", "mlflow", "hpo_reader"]
    assert logins.service.database == "hpo"
    assert "sslmode=require" in logins.service.url
    assert "second" not in repr(logins)


def test_only_the_service_is_required() -> None:
    """No administrator, MLflow elsewhere, no reader: then these are nobody."""
    logins = read_logins({"HPO_STORAGE": GOOD["HPO_STORAGE"], "HPO_READER_STORAGE": ""})
    assert (logins.admin, logins.mlflow, logins.reader) == (None, None, None)
    with pytest.raises(UsageError, match="HPO_STORAGE is not set"):
        read_logins({})


@pytest.mark.parametrize(
    "password",
    [
        "change-me",
        "CHANGE_ME",
        "ChangeMe123!",
        "password",
        "Postgres",
        "hpo",
        "short1",
        "aaaaaaaaa",
    ],
)
def test_passwords_that_everybody_knows_are_refused(password: str) -> None:
    """An example's, a default, the role's own name, too short, one letter: never repeated."""
    fault = faults(HPO_STORAGE=f"postgresql://hpo:{password}@db/hpo")
    assert fault.startswith("HPO_STORAGE: the password of 'hpo' is")
    assert password not in fault.removeprefix("HPO_STORAGE: the password of 'hpo' ")


def test_a_missing_password_is_refused() -> None:
    """For all but the administrator, who may come in by another way."""
    assert "is missing" in faults(HPO_READER_STORAGE="postgresql://hpo_reader@db/hpo")
    assert read_logins(GOOD | {"HPO_ADMIN_STORAGE": "postgresql://postgres@db/x"}).admin
    assert weakness("f3b0c44298fc1c149afb", "hpo") == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"HPO_STORAGE": "postgresql://postgres:bbZ7-second@db/hpo"}, "is that of HPO_ADMIN"),
        ({"HPO_READER_STORAGE": "postgresql://r:bbZ7-second@db/hpo"}, "password is that of HPO_ST"),
        ({"MLFLOW_BACKEND_STORE_URI": "postgresql://m:ccZ7-third@db/hpo"}, "is the studies'"),
        ({"HPO_READER_STORAGE": "postgresql://r:ddZ7-fourth@db/other"}, "not the database of HPO_"),
        ({"MLFLOW_BACKEND_STORE_URI": "sqlite:///mlflow.db"}, "only PostgreSQL is"),
        ({"HPO_READER_STORAGE": "postgresql://db/hpo"}, "names no role"),
    ],
)
def test_roles_that_are_not_apart_are_refused(changes: dict[str, str], words: str) -> None:
    """Each role, password and owned database is one's own; the reader's is the service's."""
    assert words in faults(**changes)

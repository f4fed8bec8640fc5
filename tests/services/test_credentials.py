"""The URLs of `hpo provision`: which are taken, and every fault of them at once."""

from __future__ import annotations

import pytest

from hpo.errors import FaultsError, UsageError
from hpo.services.credentials import read_logins, weakness

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


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "PROXY_PASSWORD"])
@pytest.mark.parametrize("value", ["changeme", "minioadmin", "Pa-ssword", "sh0rt", "xxxxxxxxxxxx"])
def test_the_secrets_of_other_parts_are_no_examples_either(variable: str, value: str) -> None:
    """Store, Ray and proxy: refused before anything is made, and the value is not repeated."""
    fault = faults(**{variable: value})
    assert fault.startswith(f"{variable}: its value is ")
    assert value not in fault


def test_all_weak_values_are_told_at_once() -> None:
    """One run shows what is to be changed, wherever it stands."""
    weak = {"HPO_STORAGE": "postgresql://hpo:hpo@db/hpo", "PROXY_PASSWORD": "changeme"}
    with pytest.raises(FaultsError) as caught:
        read_logins(GOOD | weak | {"RAY_AUTH_TOKEN": "changeme"})
    assert [one.partition(":")[0] for one in caught.value.faults] == [
        "HPO_STORAGE",
        "RAY_AUTH_TOKEN",
        "PROXY_PASSWORD",
    ]


def test_real_secrets_pass_and_unset_ones_are_not_asked_for() -> None:
    """Amazon's keys have 40 characters, of any kind; a machine's own role needs none."""
    key = {
        "AWS_ACCESS_KEY_ID": "AKIA0123456789ABCDEF",
        "AWS_SECRET_ACCESS_KEY": "q7/Hk2+Zr9WmXe4TtB1uYcV8nLsDaGfJp3QiRo6E",
    }
    assert read_logins(GOOD | key | {"RAY_AUTH_TOKEN": "", "PROXY_USER": "hpo"}).admin
    named = {"PROXY_USER": "microscopy", "PROXY_PASSWORD": "Microscopy"}
    assert "everybody knows" in faults(**named)


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

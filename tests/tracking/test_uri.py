"""Where MLflow's records and files are, by the settings alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.settings import Settings
from hpo.tracking.uri import artifact_root, is_remote, shown, tracking_uri

STORAGE = "postgresql+psycopg2://ada:s3cr3t@db:5433/lab?sslmode=require"


def settings(**env: str) -> Settings:
    return Settings.read({"HPO_HOME": "/project/.hpo", **env}, Path("/project"))


def test_by_default_mlflow_has_a_database_of_its_own_beside_the_studys() -> None:
    """Same server, same user, same options, another database."""
    expected = "postgresql+psycopg2://ada:s3cr3t@db:5433/lab_mlflow?sslmode=require"
    assert tracking_uri(settings(), STORAGE) == expected
    assert tracking_uri(settings(), STORAGE.replace("+psycopg2", "")) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("postgres://ada:x@db/runs", "postgresql+psycopg2://ada:x@db/runs"),
    ],
)
def test_a_given_address_wins(given: str, expected: str) -> None:
    """MLFLOW_TRACKING_URI is taken as it is; PostgreSQL's plain form is rewritten."""
    assert tracking_uri(settings(MLFLOW_TRACKING_URI=given), STORAGE) == expected


@pytest.mark.parametrize(
    ("uri", "remote"),
    [
        ("http://mlflow:5000", True),
        ("https://mlflow", True),
        (STORAGE, False),
        ("databricks", True),
    ],
)
def test_only_a_server_has_an_artifact_store_of_its_own(uri: str, remote: bool) -> None:
    """A database is used directly, and so are the files beside it."""
    assert is_remote(uri) is remote


def test_files_are_below_the_artifacts() -> None:
    """In a folder or in a bucket alike."""
    assert artifact_root(settings()) == "/project/.hpo/artifacts/mlflow"
    assert artifact_root(settings(HPO_ARTIFACTS="s3://bucket/lab/")) == "s3://bucket/lab/mlflow"


@pytest.mark.parametrize(
    "uri",
    [
        STORAGE, "https://ada:s3cr3t@mlflow/", "https://s3cr3t@mlflow", "http://a:s3@s3cr3t@mlflow",
        "postgresql://ada:s3@s3cr3t@host/db",
    ],
)  # fmt: skip
def test_what_is_shown_holds_no_password(uri: str) -> None:
    """A database's password and an HTTP one are both hidden."""
    assert "s3cr3t" not in shown(uri)
    assert shown("http://mlflow:5000") == "http://mlflow:5000"

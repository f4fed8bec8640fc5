"""Tell from the settings where MLflow's records and files are.

Without MLFLOW_TRACKING_URI, MLflow's records are in a database of their own on the study's
PostgreSQL server and its files below HPO_ARTIFACTS, and everybody reads and writes both directly.
The server that `hpo up` starts shows the same two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.errors import UsageError
from hpo.storage.postgres.url import database_name, mask, normalise, with_database

if TYPE_CHECKING:
    from hpo.settings import Settings

POSTGRES = ("postgres://", "postgresql://", "postgresql+psycopg2://")
DATABASES = (*POSTGRES, "mysql", "mssql", "sqlite:")
REMOTE = ("http://", "https://", "databricks", "uc:")
KNOWN = (*DATABASES, *REMOTE)  # MLflow's file store is closed: it raises since MLflow 3


def tracking_uri(settings: Settings, storage_url: str) -> str:
    """What MLflow's clients are given; a database's password is in it.

    Args:
        settings: whose MLFLOW_TRACKING_URI wins when it is set.
        storage_url: URL of the study's database.

    Raises:
        UsageError: MLFLOW_TRACKING_URI has another form than an address.
    """
    given = settings.tracking_uri
    if given is None:
        return with_database(normalise(storage_url), f"{database_name(storage_url)}_mlflow")
    if not given.startswith(KNOWN):
        raise UsageError(
            f"MLFLOW_TRACKING_URI={shown(given)} is no address that MLflow keeps runs at",
            hint="Give http://HOST:PORT or postgresql://USER:PASSWORD@HOST/DATABASE, or leave it "
            "unset: MLflow then has a database beside the studies'.",
        )
    return normalise(given) if given.startswith(POSTGRES) else given


def is_remote(uri: str) -> bool:
    """Whether a server of its own stands behind the URI, with an artifact store of its own."""
    return uri.startswith(REMOTE)


def artifact_root(settings: Settings) -> str:
    """Where experiments that are read and written directly keep their files: folder or S3 URI."""
    return f"{settings.artifacts.rstrip('/')}/mlflow"


def shown(uri: str) -> str:
    """The URI for messages and logs, without a password."""
    scheme, mark, rest = uri.partition("://")
    if "@" not in rest:
        return uri
    if is_remote(uri):
        # The user's name goes too: some servers take a token in its place
        return f"{scheme}{mark}***@{rest.rpartition('@')[2]}"
    return mask(uri)

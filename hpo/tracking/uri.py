"""Where MLflow is: its URI and the pages of its runs, computed; opens nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from hpo.database.url import database_name, normalise, with_database

if TYPE_CHECKING:
    from hpo.settings import Settings

# Where `hpo up` serves MLflow's pages unless told otherwise.
PAGES = "http://127.0.0.1:5000"
_LONGEST_NAME = 63  # bytes; PostgreSQL cuts longer names off silently
_SUFFIX = "_mlflow"
_POSTGRES = ("postgresql:", "postgresql+", "postgres:")


def tracking_uri(settings: Settings, storage_url: str) -> str:
    """MLflow's URI, password included: as given, else a database beside the studies' one.

    Args:
        settings: what the environment says.
        storage_url: the studies' database, as `hpo.database.engine.storage_url` gives it.
    """
    given = settings.tracking_uri
    if given is None:
        return with_database(storage_url, default_database(storage_url))
    return normalise(given) if given.startswith(_POSTGRES) else given


def default_database(storage_url: str) -> str:
    """Name of MLflow's database on the server of the studies' one."""
    name = database_name(storage_url).encode()[: _LONGEST_NAME - len(_SUFFIX)]
    return name.decode(errors="ignore") + _SUFFIX


def is_database(uri: str) -> bool:
    """Whether MLflow is reached by its PostgreSQL database, with no server between."""
    return uri.startswith(_POSTGRES)


def is_http(uri: str) -> bool:
    """Whether MLflow is reached by its server."""
    return uri.startswith(("http://", "https://"))


def experiment_page(uri: str, experiment_id: str) -> str:
    """Address of an experiment's page, without any password."""
    return f"{_pages(uri)}/#/experiments/{experiment_id}"


def run_page(uri: str, experiment_id: str, run_id: str) -> str:
    """Address of a run's page, without any password."""
    return f"{experiment_page(uri, experiment_id)}/runs/{run_id}"


def _pages(uri: str) -> str:
    if not is_http(uri):
        return PAGES
    parts = urlsplit(uri)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))

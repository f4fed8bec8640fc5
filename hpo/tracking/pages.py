"""Addresses of MLflow's pages, computed from its URI; opens nothing."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

# Where `hpo up` serves MLflow's pages unless the port is taken or another one is asked for.
LOCAL = "http://127.0.0.1:5000"


def experiment_page(uri: str, experiment_id: str) -> str:
    """Address of an experiment's page, without any password."""
    return f"{_pages(uri)}/#/experiments/{experiment_id}"


def run_page(uri: str, experiment_id: str, run_id: str) -> str:
    """Address of a run's page, without any password."""
    return f"{experiment_page(uri, experiment_id)}/runs/{run_id}"


def _pages(uri: str) -> str:
    if not uri.startswith(("http://", "https://")):
        return LOCAL
    parts = urlsplit(uri)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))

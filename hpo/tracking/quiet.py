"""Loads MLflow so that it says little, asks nothing outside and gives up soon; knows no run.

MLflow reads its settings from the environment at each use. Changing their defaults instead of the
environment leaves what the user set in force and nothing behind for child processes.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import cache
from typing import Any

_DEFAULTS: dict[str, Any] = {
    # MLflow's client would repeat every call, also one that makes a run or a version and whose
    # answer alone was lost: there would be two. Our callers repeat, and look first.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 0,
    # s, to connect and to answer, as `requests` takes them. A slow server is worth waiting for:
    # what it was asked it does anyway, and asked again it does it twice.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": (5, 30),
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": False,  # it may ask for minutes
    "MLFLOW_DISABLE_TELEMETRY": True,
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": True,  # it would spoil `--json`
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": False,
    # Connections that were idle for a while are not trusted, as MLflow does not ping them; few
    # are kept, as every worker has some.
    "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": 60,  # s
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": 1,
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": 10,  # its calls nest sessions
}
# What they would say of an outage reaches the user once, as a TrackingError.
_CHATTY = {
    "mlflow.store": logging.CRITICAL,
    "mlflow.tracking": logging.ERROR,
    "mlflow.utils": logging.ERROR,
    "mlflow.pyfunc": logging.WARNING,  # it tells each step of writing a model's files
    "urllib3.connectionpool": logging.ERROR,
}
_loading = threading.Lock()


def load() -> Any:
    """MLflow's module, loaded quietly; takes about two seconds at the first call."""
    with _loading:
        return _load()


@cache
def _load() -> Any:
    telemetry = "MLFLOW_DISABLE_TELEMETRY"  # asked while the module loads
    given = os.environ.get(telemetry)
    os.environ.setdefault(telemetry, "true")
    try:
        import mlflow
        from mlflow import environment_variables
    finally:
        if given is None:
            os.environ.pop(telemetry, None)
    # Files in S3: MLflow finds AWS_ENDPOINT_URL and the keys as boto3 does, which lacks this name
    if region := os.environ.get("AWS_REGION"):
        os.environ.setdefault("AWS_DEFAULT_REGION", region)
    for name, default in _DEFAULTS.items():
        getattr(environment_variables, name).default = default
    for name, level in _CHATTY.items():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(level)
    return mlflow

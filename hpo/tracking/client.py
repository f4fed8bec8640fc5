"""Load MLflow quietly, and open clients that fail soon and in plain words.

A failure to reach MLflow is a TrackingError. What MLflow refuses stays its own MlflowException,
told apart by `error_code`; `is_missing` asks for the commonest.

MLflow reads its settings from the environment at each use. So `load` changes MLflow's defaults
rather than the environment: what the user set stays in force, and child processes inherit nothing.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from functools import cache, wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from hpo.errors import TrackingError
from hpo.storage.postgres.admin import ensure_database
from hpo.storage.postgres.engine import CONNECTING, is_lost
from hpo.storage.postgres.url import database_name
from hpo.tracking.uri import POSTGRES, shown, tracking_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from hpo.settings import Settings

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


# Alembic knows one migration a process: two threads would write on each other's connection. The
# lock in the database does not keep them apart when its connection is cut.
_PREPARING = threading.Lock()
_LOCK = 0x6D6C666C  # "mlfl": one creation of MLflow's tables at a time
_UNREACHABLE = (
    "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
    "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED", "PERMISSION_DENIED", "ENDPOINT_NOT_FOUND",
)  # fmt: skip
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_NO_TABLE = "42P01"  # the database was emptied under us: opening anew makes its tables again
_MADE_MEANWHILE = ("42P07", "42710", "23505")  # table, type or row is there already
# What requests wraps in a page of its own objects and of addresses that differ from call to call;
# said in the same words each time, an outage can be told once.
_REASONS = {
    re.compile(r"too many (\d+) error responses"): "it answers {0}",
    re.compile(r"timed out"): "it does not answer in time",
    re.compile(r"Connection (?:aborted|broken|reset)|IncompleteRead"): "it closed the connection",
    re.compile(r"\[Errno [^]]*\] ([\w ]+)"): "{0}",
}
_HINT = "Start it (`hpo up`), or check MLFLOW_TRACKING_URI. `hpo mirror sync` catches up later."


class Client:
    """MLflow's `MlflowClient`; its methods raise TrackingError when MLflow cannot be reached.

    Attributes:
        uri: MLflow's address, password included.
    """

    def __init__(self, inner: Any, uri: str, after: Callable[[], None] | None = None) -> None:
        self._inner, self.uri, self._after = inner, uri, after

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return _translated(value, self.uri, self._after) if callable(value) else value

    def with_beat(self, after: Callable[[], None]) -> Client:
        """A copy of the client that calls `after` after each of its calls that succeeded."""
        return Client(self._inner, self.uri, after)

    @property
    def place(self) -> str:
        """MLflow's address for messages, without any password."""
        return _place(self.uri)

    def ping(self) -> None:
        """Send MLflow the smallest request, to see whether it answers.

        Raises:
            TrackingError: it does not answer.
        """
        self.search_experiments(max_results=1)


def open_client(settings: Settings, storage_url: str, *, through: Engine | None = None) -> Client:
    """A client of the MLflow meant, reached once; makes its database and tables where missing.

    Args:
        settings: what the environment says.
        storage_url: the studies' database, password included.
        through: whose connection to it is borrowed, to ask whether MLflow's is there.

    Raises:
        TrackingError: MLflow cannot be reached or used.
    """
    uri = tracking_uri(settings, storage_url)
    mlflow = load()
    if uri.startswith(POSTGRES):
        uri = _with_timeouts(uri)
        prepare = _translated(_prepare_database, uri)
        with _PREPARING:
            prepare(uri, storage_url, ours=settings.tracking_uri is None, through=through)
    # Said explicitly, neither the environment nor a global setting of MLflow's decides.
    make = _translated(mlflow.MlflowClient, uri)
    client = Client(make(tracking_uri=uri, registry_uri=uri), uri)
    client.ping()
    return client


def error_code(error: BaseException) -> str:
    """MLflow's code of a refusal, for instance RESOURCE_DOES_NOT_EXIST; "" when it is none."""
    return str(getattr(error, "error_code", ""))


def is_missing(error: BaseException) -> bool:
    """Whether MLflow says that the thing asked for does not exist."""
    return error_code(error) in _MISSING


def scrub(text: str, uri: str) -> str:
    """The text without the URI's password, as it is written there and as it is meant."""
    # By hand: whatever the URI is, its password goes
    login = uri.partition("://")[2].rpartition("@")[0]
    written = login.partition(":")[2]
    cleaned = text.replace(uri, shown(uri))
    for password in {written, unquote(written)} - {""}:
        cleaned = cleaned.replace(password, "***")
    return cleaned


def _translated(
    call: Callable[..., Any], uri: str, after: Callable[[], None] | None = None
) -> Callable[..., Any]:
    @wraps(call)
    def translated(*values: Any, **named: Any) -> Any:
        try:
            result = call(*values, **named)
        except Exception as error:
            meaning = _meaning(error, uri)
            if meaning is None:
                raise
            raise meaning from error
        if after is not None:
            after()
        return result

    return translated


def _meaning(error: Exception, uri: str) -> TrackingError | None:
    """The error as a TrackingError; None when MLflow was reached and refused."""
    import requests
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, TrackingError):
        return None
    for cause in _chain(error):
        lost = isinstance(cause, DBAPIError) and (
            is_lost(cause) or getattr(cause.orig, "pgcode", None) == _NO_TABLE
        )
        # An HTTPError is an answer; the codes below judge it.
        if lost or (
            isinstance(cause, requests.RequestException)
            and not isinstance(cause, requests.HTTPError)
        ):
            return _unreachable(cause, uri)
    return _unreachable(error, uri) if error_code(error) in _UNREACHABLE else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _unreachable(error: BaseException, uri: str) -> TrackingError:
    text = scrub(str(getattr(error, "orig", None) or error), uri).strip()
    found = ((pattern.search(text), words) for pattern, words in _REASONS.items())
    reasons = [words.format(*match.groups()) for match, words in found if match]
    reason = reasons[0] if reasons else text.partition("\n")[0][:300] or type(error).__name__
    return TrackingError(f"MLflow at {_place(uri)} cannot be used: {reason}", hint=_HINT)


def _place(uri: str) -> str:
    """The URI without its password and without the options that we add."""
    return shown(uri).partition("?")[0]


def _with_timeouts(uri: str) -> str:
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    ours = {name: str(value) for name, value in CONNECTING.items() if name not in url.query}
    return url.update_query_dict(ours).render_as_string(hide_password=False)


def _prepare_database(uri: str, storage_url: str, *, ours: bool, through: Engine | None) -> None:
    """Make MLflow's database (where it is `ours`) and its tables where they are missing.

    One process at a time: MLflow's own creation is not safe for two at once. The lock is in
    MLflow's database: the connections to the studies' are counted.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    if ours and not (through and _is_there(uri, through)):
        ensure_database(uri, beside=storage_url)
    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection, connection.begin():
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        _create_tables(uri)


def _is_there(uri: str, through: Engine) -> bool:
    from sqlalchemy import text

    found = text("select 1 from pg_database where datname = :name")
    with through.connect() as connection:
        return connection.scalar(found, {"name": database_name(uri)}) is not None


def _create_tables(uri: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.db import utils
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    # MLflow would try for 100 s to reach a database that does not answer.
    create_engine(uri, poolclass=NullPool).connect().close()
    try:
        # The client's own store is kept for the life of the process and would not look again.
        SqlAlchemyStore(uri, "")
        utils.MAX_RETRY_COUNT = min(utils.MAX_RETRY_COUNT, 2)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) not in _MADE_MEANWHILE:
            raise
        raise TrackingError(
            f"MLflow's tables in {database_name(uri)} are being made by another program just now",
            hint="Try again in a moment.",
        ) from error
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
        raise TrackingError(
            f"MLflow's tables in {database_name(uri)} are of another version of MLflow",
            hint=f"Take a backup, then run `mlflow db upgrade {_place(uri)}`, "
            "or install the MLflow release of constraints.txt.",
        ) from error

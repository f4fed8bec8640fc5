"""Read, rewrite and mask PostgreSQL URLs."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from hpo.errors import UsageError

DRIVER = "postgresql+psycopg2"
ACCEPTED = ("postgresql", "postgres", DRIVER)
EXPECTED = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


def normalise(text: str) -> str:
    """The URL as SQLAlchemy must be given it, password included.

    SQLAlchemy 2.1 reads the plain `postgresql://` as psycopg 3, which is not installed.

    Raises:
        UsageError: not a URL, not PostgreSQL's, or one that names no database.
    """
    url = _parse(text)
    if url.drivername not in ACCEPTED:
        raise UsageError(
            f"storage {mask(text)!r}: {url.drivername} is not supported, only PostgreSQL is",
            hint=f"Set HPO_STORAGE={EXPECTED}, or unset it for the private PostgreSQL.",
        )
    if not url.database:
        raise UsageError(
            f"storage {mask(text)!r} names no database", hint=f"Set HPO_STORAGE={EXPECTED}"
        )
    return url.set(drivername=DRIVER).render_as_string(hide_password=False)


def mask(text: str) -> str:
    """The URL with `***` for its password, and the driver left out; for messages and logs."""
    try:
        url = _parse(text)
    except UsageError:
        return "(not a URL)"  # whatever it is, a password may stand in it
    query = {name: value for name, value in url.query.items() if "password" not in name}
    plain = "postgresql" if url.drivername in ACCEPTED else url.drivername
    return url.set(drivername=plain, query=query).render_as_string(hide_password=True)


def with_database(text: str, name: str) -> str:
    """The URL of another database on the same server, the user and options kept."""
    return _parse(text).set(database=name).render_as_string(hide_password=False)


def database_name(text: str) -> str:
    """The name of the database that the URL means; "" when it names none."""
    return _parse(text).database or ""


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The text itself stays out of the message: it holds a password.
        raise UsageError("storage is not a URL", hint=f"Set HPO_STORAGE={EXPECTED}") from None
    if "@" in (url.host or ""):
        # SQLAlchemy ends the password at the first @; the rest of it would be shown as the host
        raise UsageError(
            "storage is not a URL: it has more than one @",
            hint="Write an @ in the password as %40, a % as %25.",
        )
    return url

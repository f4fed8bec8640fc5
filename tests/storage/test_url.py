"""PostgreSQL URLs: which are taken, what they become, and that passwords stay hidden."""

from __future__ import annotations

import pytest

from hpo.errors import UsageError
from hpo.storage.postgres.url import database_name, mask, normalise, with_database

SECRET = "s3cr3t"  # noqa: S105 - a made-up one, looked for in messages


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_usual_scheme_is_taken(scheme: str) -> None:
    """The plain forms become the one that SQLAlchemy reads as psycopg2."""
    given = f"{scheme}://ada:{SECRET}@db.example:5433/lab"
    assert normalise(given) == f"postgresql+psycopg2://ada:{SECRET}@db.example:5433/lab"


def test_options_and_odd_passwords_pass_through() -> None:
    """`sslmode` and a password with reserved characters survive the rewriting."""
    url = normalise("postgresql://ada:p%40ss%2Fw@db/lab?sslmode=require")
    assert url == "postgresql+psycopg2://ada:p%40ss%2Fw@db/lab?sslmode=require"
    assert "sslmode=require" in with_database(url, "other")


@pytest.mark.parametrize(
    "given",
    [
        f"sqlite:///{SECRET}.db",
        f"mysql://ada:{SECRET}@db/lab",
        f"postgresql+asyncpg://ada:{SECRET}@db/lab",
        f"postgresql://ada:{SECRET}@db",
        f"postgresql://ada:{SECRET}@db:port/lab",
        f"ada {SECRET}",
        "",
    ],
)
def test_other_urls_are_refused_with_the_form_expected(given: str) -> None:
    """Not PostgreSQL, no database, no URL: a usage error that shows the form, not the password."""
    with pytest.raises(UsageError) as caught:
        normalise(given)
    assert "postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in caught.value.hint
    assert f":{SECRET}@" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        f"postgresql+psycopg2://ada:{SECRET}@db/lab",
        f"postgres://db/lab?user=ada&password={SECRET}",
        f"postgres://db/lab?sslpassword={SECRET}",
        f"ada:{SECRET}@db",
    ],
)
def test_mask_hides_the_password(given: str) -> None:
    """Wherever the password stands in the URL, the masked URL does not hold it."""
    assert SECRET not in mask(given)


def test_a_second_at_sign_is_refused_and_nothing_after_the_first_is_shown() -> None:
    """The password would end at the first one, and its rest be shown as the host."""
    given = f"postgresql://ada:some@{SECRET}@db/lab"
    with pytest.raises(UsageError, match="more than one @") as caught:
        normalise(given)
    assert "%40" in caught.value.hint
    assert SECRET not in f"{caught.value}{caught.value.hint}{mask(given)}"


def test_mask_keeps_what_is_no_secret() -> None:
    """Host, port, user and database stay, to be recognised."""
    given = f"postgresql+psycopg2://ada:{SECRET}@db:5433/lab"
    assert mask(given) == "postgresql://ada:***@db:5433/lab"


def test_with_database_changes_the_database_alone() -> None:
    """User, password, host and port stay those of the first URL."""
    url = with_database(f"postgresql+psycopg2://ada:{SECRET}@db:5433/lab", "lab_mlflow")
    assert url == f"postgresql+psycopg2://ada:{SECRET}@db:5433/lab_mlflow"
    assert database_name(url) == "lab_mlflow"

"""What every other test builds on: a server, and a database of each test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Engine, text

if TYPE_CHECKING:
    from hpo.settings import Settings

MARK = text("CREATE TABLE mark (n int)")
FIND = text("SELECT to_regclass('public.mark')")


def test_a_test_has_a_database_of_its_own_one(engine: Engine) -> None:
    """What one test writes (here and in the next), no other one sees."""
    with engine.begin() as connection:
        assert connection.scalar(FIND) is None
        connection.execute(MARK)


def test_a_test_has_a_database_of_its_own_two(engine: Engine) -> None:
    """The same again: whichever of the two comes second finds nothing of the first."""
    with engine.begin() as connection:
        assert connection.scalar(FIND) is None
        connection.execute(MARK)


def test_settings_mean_the_tests_database(settings: Settings, database_url: str) -> None:
    """The settings given to a test name its database and nothing outside its folder."""
    assert settings.storage == database_url
    assert settings.artifacts.startswith(str(settings.home))
    assert settings.tracking_uri is None

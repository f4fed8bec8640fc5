"""What a node of a cluster says of itself before it may run a launch's workers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine
from support.command_line import free_port
from support.postgres import database_of
from support.studies import simulated_study

from hpo.errors import NodesError
from hpo.settings import Settings
from hpo.storage.artifacts.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine
    from support.s3_server import S3Server

    from workers.ray_launcher.node_settings import NodeSettings


@pytest.fixture
def driver(
    request: pytest.FixtureRequest, settings: Settings, clean_env: pytest.MonkeyPatch
) -> Settings:
    """The launching machine's settings, with a store that is there; this process is the node."""
    settings.home.mkdir()
    if getattr(request, "param", "") == "bucket":
        s3: S3Server = request.getfixturevalue("s3_server")
        clean_env.setenv("HPO_ARTIFACTS", f"s3://{s3.bucket}/lab")
    clean_env.setenv("HPO_HOME", str(settings.home))
    assert settings.storage is not None
    clean_env.setenv("HPO_STORAGE", settings.storage)
    given = Settings.read()
    open_store(given).require_writable()
    return given


@contextmanager
def launched(driver: Settings, engine: Engine) -> Iterator[NodeSettings]:
    """What a launch on a cluster tells its nodes."""
    from workers.ray_launcher.node_pool import with_store_probe
    from workers.ray_launcher.node_settings import NodeSettings

    study = simulated_study(engine)
    with with_store_probe(NodeSettings.of(driver, study, private=False), driver) as node_settings:
        yield node_settings


in_both_stores = pytest.mark.parametrize("driver", ["folder", "bucket"], indirect=True)


@in_both_stores
def test_a_node_of_the_same_services_is_fit_and_nothing_is_left(
    driver: Settings, engine: Engine
) -> None:
    """Same database, same store; what the launch put there for it is gone afterwards."""
    from workers.ray_launcher.node_probe import require_fit

    with launched(driver, engine) as node_settings:
        require_fit(node_settings, gpus=False)
        assert open_store(driver).size_of(node_settings.store_probe, node_settings.store_probe_area)
    assert (
        open_store(driver).size_of(node_settings.store_probe, node_settings.store_probe_area)
        is None
    )


@in_both_stores
def test_a_node_of_another_store_is_unfit(
    driver: Settings, engine: Engine, request: pytest.FixtureRequest,
    clean_env: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """A store that is there and can be written, but is not the launching machine's: exit code 2."""
    from workers.ray_launcher.node_probe import require_fit

    with launched(driver, engine) as node_settings:
        told, other = node_settings, str(tmp_path / "other")
        if "://" in node_settings.artifacts:
            s3: S3Server = request.getfixturevalue("s3_server")
            s3.new_bucket(f"{s3.bucket}-other")  # stands for another server's of the same name
            other = f"s3://{s3.bucket}/lab"
            told = replace(node_settings, artifacts=other)
        clean_env.setenv("HPO_ARTIFACTS", other)
        open_store(Settings.read()).require_writable()
        with pytest.raises(NodesError, match="are not those of the launching machine") as caught:
            require_fit(told, gpus=False)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("there", [True, False])
def test_a_node_of_another_database_is_unfit(
    driver: Settings, engine: Engine, clean_env: pytest.MonkeyPatch, postgres_url: str,
    template_database: str, *, there: bool,
) -> None:  # fmt: skip
    """With a study of that name or without it: its trials would count there."""
    from workers.ray_launcher.node_probe import require_fit

    with (
        launched(driver, engine) as node_settings,
        database_of(postgres_url, template_database) as other,
    ):
        if there:
            second = create_engine(other)
            simulated_study(second)
            second.dispose()
        clean_env.setenv("HPO_STORAGE", other)
        with pytest.raises(NodesError, match="not the launching machine's database") as caught:
            require_fit(node_settings, gpus=False)
    assert ("has another study" if there else "has no study") in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_service_that_is_away_is_a_fault_that_passes(
    driver: Settings, engine: Engine, clean_env: pytest.MonkeyPatch
) -> None:
    """Exit code 3: the node may be fit a minute later, and is not to be given up."""
    from workers.ray_launcher.node_probe import require_fit

    with launched(driver, engine) as node_settings:
        away = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
        clean_env.setenv("HPO_STORAGE", away)
        with pytest.raises(NodesError) as caught:
            require_fit(node_settings, gpus=False)
    assert caught.value.passing
    assert caught.value.exit_code == 3

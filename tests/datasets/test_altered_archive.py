"""A dataset whose stored archive was altered: what is told mends it, all the way round."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.stores import elsewhere, pushed_set, shapes
from support.studies import simulated_spec

from hpo.cli.main import cli
from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.remote import pushed
from hpo.errors import WeightsError
from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.artifacts.opening import open_store
from hpo.studies.preflight import require_matching_environment
from hpo.studies.store import store_study

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.datasets.remote import Pushed
    from hpo.settings import Settings
    from hpo.studies.store import Study


@pytest.fixture
def study(pusher: Settings, engine: Engine, tmp_path: Path) -> Study:
    """On a dataset that was pushed."""
    data = shapes(tmp_path / "set")
    pushed_set(pusher, engine, data)
    mark = fingerprint(data, home=pusher.home)
    spec = simulated_spec(data=str(data))
    return store_study(engine, spec, fingerprint=mark, code_version="simulated 1")[0]


def push(*arguments: str) -> Any:
    result = CliRunner().invoke(cli, ["data", "push", *arguments, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def record(engine: Engine, study: Study) -> Pushed:
    found = pushed(engine, str(study.fingerprint))
    assert found is not None
    return found


def flip_a_byte(settings: Settings, sha256: str, request: pytest.FixtureRequest) -> None:
    """Of the stored archive, whose size stays."""
    store = open_store(settings)
    if isinstance(store, FolderStore):
        file = next(store.root.rglob(sha256))
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        return
    server = request.getfixturevalue("s3_server")
    place = {"Bucket": server.bucket, "Key": f"lab/objects/{sha256[:2]}/{sha256}"}
    content = server.client().get_object(**place)["Body"].read()
    server.client().put_object(**place, Body=content[:-1] + b"x")


def test_an_altered_archive_is_mended_by_what_is_told(
    pusher: Settings, engine: Engine, study: Study, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A worker names the command; that command, on the machine that has the data, mends it."""
    data = tmp_path / "set"
    before = record(engine, study)
    flip_a_byte(pusher, before.sha256, request)
    there = elsewhere(pusher, tmp_path / "there")
    data.rename(tmp_path / "aside")
    with pytest.raises(WeightsError, match="was altered") as why:
        require_matching_environment(study, there, engine)
    (tmp_path / "aside").rename(data)
    told = f"hpo data push --again --study {study.name}"
    assert f"`{told}`" in why.value.hint
    assert push("--study", study.name)["pushed"] is False  # its size is as it was
    assert push(*told.split()[3:])["pushed"] is True
    assert record(engine, study).sha256 == before.sha256
    shutil.rmtree(data)
    copy = require_matching_environment(study, there, engine)
    assert copy is not None
    assert fingerprint(copy, home=there.home) == study.fingerprint


@pytest.mark.parametrize("pusher", ["folder"], indirect=True)
def test_a_record_of_another_archive_is_replaced(
    pusher: Settings, engine: Engine, study: Study, tmp_path: Path
) -> None:
    """Packed by another version, or no archive of this dataset: what is there now counts."""
    right = record(engine, study)
    other = pushed_set(pusher, engine, shapes(tmp_path / "other", seed=9))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "update hpo.dataset set sha256 = %s, bytes = %s where fingerprint = %s",
            (other.sha256, other.bytes, right.fingerprint),
        )
    there = elsewhere(replace(pusher), tmp_path / "there")
    (tmp_path / "set").rename(tmp_path / "aside")
    with pytest.raises(WeightsError, match="holds the dataset") as why:
        require_matching_environment(study, there, engine)
    (tmp_path / "aside").rename(tmp_path / "set")
    assert "--again" in why.value.hint
    push("--again", "--study", study.name)
    now = record(engine, study)
    assert (now.sha256, now.bytes) == (right.sha256, right.bytes)

"""`hpo data push` and `hpo data list`: the real command line, and the store behind it."""

from __future__ import annotations

import errno
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from support.stores import pushed_set, shapes
from support.studies import simulated_spec

from hpo.cli.main import cli
from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.remote import _draft, all_pushed, pushed
from hpo.errors import DatasetError, HpoError, StorageFullError, UsageError
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres.engine import connect
from hpo.studies.backup.export import export_study
from hpo.studies.backup.restore import import_study
from hpo.studies.store import load_study, store_study

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.settings import Settings
    from hpo.studies.store import Study


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return shapes(tmp_path / "set")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["data", *arguments])


def answer(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def study_on(data: Path, settings: Settings, engine: Engine, name: str = "pictures") -> Study:
    spec = simulated_spec(study=name, data=str(data))
    mark = fingerprint(data, home=settings.home)
    return store_study(engine, spec, fingerprint=mark, code_version="simulated 1")[0]


def drafts(settings: Settings) -> list[str]:
    return [file.name for file in settings.dataset_cache.glob(".packing-*")]


def test_pushed_once_and_listed(pusher: Settings, engine: Engine, data: Path) -> None:
    """Content, size, counts, who, and the studies that use it; pushed again it says so."""
    study_on(data, pusher, engine)
    first = answer("push", str(data))
    assert first["pushed"] is True
    assert first["images"] == {"train": 3, "val": 2, "test": 2}
    assert first["fingerprint"] == fingerprint(data, home=pusher.home)
    assert open_store(pusher).size_of(first["sha256"]) == first["bytes"]
    again = answer("push", str(data))
    assert (again["pushed"], again["sha256"]) == (False, first["sha256"])
    assert "nothing to push" in run("push", str(data)).stdout
    (listed,) = answer("list")
    assert listed["fingerprint"] == first["fingerprint"]
    assert (listed["studies"], listed["cached"]) == (["pictures"], False)
    assert first["fingerprint"][:12] in run("list").stdout
    assert drafts(pusher) == []


def test_a_store_that_lost_it_gets_it_again(pusher: Settings, engine: Engine, data: Path) -> None:
    """Pushing looks whether it is still there, and as large."""
    del pusher
    first = answer("push", str(data))
    with engine.begin() as connection:
        connection.exec_driver_sql("update hpo.dataset set bytes = bytes + 1")
    again = answer("push", str(data))
    assert (again["pushed"], again["sha256"]) == (True, first["sha256"])
    assert [one.bytes for one in all_pushed(engine)] == [first["bytes"]]


@pytest.mark.parametrize("pusher", ["folder"], indirect=True)
class TestMeant:
    """Which dataset is pushed."""

    def test_a_studys_own(self, pusher: Settings, engine: Engine, data: Path) -> None:
        """At the path that the study has, or anywhere with the same content."""
        study = study_on(data, pusher, engine)
        shutil.copytree(data.parent, data.parent.parent / "copy")
        assert answer("push", "--study", study.name)["fingerprint"] == study.fingerprint
        assert answer("push", "copy", "--study", study.name)["pushed"] is False

    def test_another_one_than_the_studys_is_refused(
        self, pusher: Settings, engine: Engine, data: Path, tmp_path: Path
    ) -> None:
        """Its workers could not use it."""
        study = study_on(data, pusher, engine)
        other = shapes(tmp_path / "other", seed=5)
        result = run("push", str(other), "--study", study.name)
        assert isinstance(result.exception, HpoError)
        assert result.exception.exit_code == 1
        assert f"'pictures' was created with {study.fingerprint[:12]}" in str(result.exception)  # type: ignore[index]
        assert all_pushed(engine) == []

    def test_the_built_in_set_needs_no_push(self, pusher: Settings, engine: Engine) -> None:
        """It is drawn on each machine."""
        del pusher
        assert answer("push", "shapes") == {"data": "shapes", "pushed": False}
        assert all_pushed(engine) == []

    @pytest.mark.parametrize("arguments", [(), ("nowhere/data.yaml",), ("--study", "none")])
    def test_no_dataset_is_wrong_input(self, pusher: Settings, arguments: tuple[str, ...]) -> None:
        """None named, none there, no such study."""
        del pusher
        result = run("push", *arguments)
        assert isinstance(result.exception, UsageError)
        assert result.exception.hint

    def test_other_keys_for_the_same_files_are_told(
        self, pusher: Settings, engine: Engine, data: Path
    ) -> None:
        """A fingerprint does not cover how label rows are read."""
        del pusher
        answer("push", str(data))
        data.write_text(data.read_text() + "kpt_shape: [2, 3]\n")
        result = run("push", str(data))
        assert isinstance(result.exception, UsageError)
        assert "kpt_shape: None there, [2, 3] here" in str(result.exception)
        assert len(all_pushed(engine)) == 1


@pytest.mark.parametrize("pusher", ["folder"], indirect=True)
class TestUnfinished:
    """What an interrupted push leaves: nothing."""

    def test_interrupted(self, pusher: Settings, engine: Engine, data: Path) -> None:
        """No draft, no record, nothing in the store."""
        from hpo.datasets.remote import push

        def interrupt(_done: int, _total: int) -> None:
            raise KeyboardInterrupt

        store = open_store(pusher)
        store.require_writable()
        with pytest.raises(KeyboardInterrupt):
            push(
                engine, store, data, fingerprint(data, home=pusher.home),
                scratch=pusher.dataset_cache, by="a@b", progress=interrupt,
            )  # fmt: skip
        assert drafts(pusher) == []
        assert all_pushed(engine) == []
        assert [f for f in (pusher.home / "artifacts").rglob("*") if f.is_file()] == []

    def test_changed_meanwhile(self, pusher: Settings, engine: Engine, data: Path) -> None:
        """Nothing is recorded under a content that it has not."""
        from hpo.datasets.remote import push

        store = open_store(pusher)
        store.require_writable()
        with pytest.raises(DatasetError, match="changed while they were packed"):
            push(engine, store, data, "0" * 64, scratch=pusher.dataset_cache, by="a@b")
        assert all_pushed(engine) == []

    def test_killed(self, pusher: Settings, data: Path) -> None:
        """What a killed one left is removed by the next; what a living one writes is not."""
        pusher.dataset_cache.mkdir(parents=True)
        with _draft(pusher.dataset_cache, 10):
            living = drafts(pusher)
            (pusher.dataset_cache / ".packing-left").write_bytes(b"half")
            answer("push", str(data))
            assert drafts(pusher) == living
        assert drafts(pusher) == []

    def test_a_full_folder_is_told(self, pusher: Settings, tmp_path: Path) -> None:
        """Before anything is written where it can be known, else when it happens."""
        del pusher
        with (
            pytest.raises(StorageFullError, match=r"1000000\.00 GB wanted"),
            _draft(tmp_path, 10**15),
        ):
            pass
        with pytest.raises(StorageFullError, match="no space left") as why, _draft(tmp_path, 10):
            raise OSError(errno.ENOSPC, "no space")
        assert "HPO_DATASET_CACHE" in why.value.hint
        assert list(tmp_path.glob(".packing-*")) == []


def test_a_study_takes_its_datasets_place_along(
    settings: Settings, engine: Engine, data: Path, empty_database_url: str
) -> None:
    """`hpo export` and `import`: not the archive, which stays in the store, but where it is."""
    from hpo.storage.postgres import schema

    one = pushed_set(settings, engine, data)
    study = study_on(data, settings, engine)
    document = export_study(engine, study, artifacts="there")
    elsewhere = connect(_at(settings, empty_database_url))
    try:
        schema.upgrade(elsewhere)
        import_study(elsewhere, document, open_store(settings))
        assert pushed(elsewhere, str(load_study(elsewhere, study.name).fingerprint)) == one
        damaged = document.renamed("another")
        damaged.made["dataset"] = dict(damaged.made["dataset"], bytes="many")
        with elsewhere.begin() as connection:
            connection.exec_driver_sql("delete from hpo.dataset")
        import_study(elsewhere, damaged, open_store(settings))
        assert pushed(elsewhere, one.fingerprint) is None
    finally:
        elsewhere.dispose()


def _at(settings: Settings, url: str) -> Settings:
    from dataclasses import replace

    return replace(settings, storage=url)

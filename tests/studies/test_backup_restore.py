"""An imported study lives: it goes on, beside the exported one, and comes whole or not at all."""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from support.backups import NAME, checkpointed, exported, seen_by_people, told, worker_on
from support.studies import claimed, simulated_study

from hpo.claims.checkpoints import Checkpoints
from hpo.claims.claims import Claim, End, LeaseStatus
from hpo.errors import FaultsError, StudyExistsError, UnknownStudyError
from hpo.storage.artifacts.folder import FolderStore
from hpo.studies.backup.export import export_study
from hpo.studies.backup.restore import import_study, require_free
from hpo.studies.status import status
from hpo.studies.store import delete_study, load_study, set_state
from hpo.studies.trials import trial_rows
from hpo.tracking.dashboard import show_pending
from hpo.tracking.mirror import open_mirror
from hpo.tracking.verify import verify
from hpo.trainer import Epoch
from workers.study_loop import Limits
from workers.worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine
    from support.studies import Bench

    from hpo.settings import Settings
    from hpo.storage.artifacts.store import Stored
    from hpo.studies.store import Study


# A study that runs


def test_what_ran_is_taken_over_and_the_exported_study_is_not_touched(
    engine: Engine, elsewhere: Engine, store: FolderStore, tmp_path: Path
) -> None:
    """The new trial goes on from a copy of the checkpoint; the first worker notices nothing."""
    store.require_writable()
    study = simulated_study(engine, study="two lives", trials=1)
    claims = worker_on(engine, study)
    claim = claimed(claims)
    checkpointed(claims, claim, store, tmp_path, 1)
    made = import_study(elsewhere, exported(engine, study.name), store)
    assert (made.checkpoints, made.lost) == (1, 0)

    imported = load_study(elsewhere, study.name)
    others = worker_on(elsewhere, imported, "elsewhere")
    taken = claimed(others)
    assert (taken.number, taken.params, taken.takeovers) == (0, claim.params, 1)
    with elsewhere.connect() as connection:
        deaths = text("select deaths from hpo.lease where study_id = :id")
        assert connection.scalar(deaths, {"id": imported.study_id}) == 0
    checkpoints = Checkpoints(others, taken, store)
    [kept] = checkpoints.found()
    assert checkpoints.fetch(kept, tmp_path / "there").state.read_text() == "state of 0 after 1"
    checkpointed(others, taken, store, tmp_path, 2)
    others.report(taken, Epoch(3, {"mAP50": 0.9}))
    assert others.tell(taken, End.COMPLETE)
    Checkpoints(others, taken, store).clear()

    mine = Checkpoints(claims, claim, store)
    assert mine.fetch(mine.found()[0], tmp_path / "here").state.read_text() == "state of 0 after 1"
    assert claims.report(claim, Epoch(2, {"mAP50": 0.5})) is LeaseStatus.GO
    assert claims.tell(claim, End.COMPLETE)
    with engine.connect() as connection:
        [row] = trial_rows(connection, study)
    assert (row.value, row.takeovers) == (0.5, 0)


def test_checkpoints_that_are_not_here_are_said(
    engine: Engine, elsewhere: Engine, rich: Study, tmp_path: Path
) -> None:
    """With another artifact store the study is imported all the same."""
    other = FolderStore(tmp_path / "another store")
    other.require_writable()
    made = import_study(elsewhere, exported(engine, rich.name), other)
    assert (made.checkpoints, made.lost) == (0, 2)
    assert exported(elsewhere).content == exported(engine).content


def test_a_worker_goes_on_to_exactly_the_budget(
    engine: Engine, elsewhere: Engine, rich: Study, store: FolderStore, there: Settings
) -> None:
    """What ran, what waits and what was never claimed: nine trials in the end, each once."""
    import_study(elsewhere, exported(engine), store)
    imported = load_study(elsewhere, NAME)
    set_state(elsewhere, imported, "open")
    before = exported(engine).content
    summary = Worker(there, NAME, device="cpu", limits=Limits()).run()
    assert (summary.why, summary.count) == ("finished", 4)
    with elsewhere.connect() as connection:
        rows = trial_rows(connection, imported)
    assert [row.number for row in rows] == list(range(9))
    assert {row.state for row in rows} <= {"complete", "pruned", "failed"}
    assert rows[5].takeovers == 2
    assert exported(engine).content == before
    assert rich.trials == 9


def test_an_export_is_of_one_moment(
    engine: Engine, elsewhere: Engine, store: FolderStore, tmp_path: Path
) -> None:
    """While a worker writes, each document fits together and can be imported."""
    store.require_writable()
    study = simulated_study(engine, study="busy", trials=1000)
    claims = worker_on(engine, study)
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            told(claims, store, tmp_path, End.COMPLETE, 0.1, 0.2, 0.3)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        documents = [exported(engine, "busy") for _ in range(15)]
    finally:
        done.set()
        thread.join()
    for number, document in enumerate(documents):
        content = document.content
        ended = {row["trial"] for row in content["trials"] if row["state"] == "COMPLETE"}
        assert ended == {row["trial"] for row in content["leases"] if row["told_at"]}
        assert ended == {row["trial"] for row in content["values"]}
        steps = {(row["trial"], row["step"]) for row in content["intermediate_values"]}
        assert steps == {(row["trial"], row["epoch"]) for row in content["epochs"]}
        import_study(elsewhere, document.renamed(f"busy-{number}"), store)


# Where it came from


def test_under_another_name_it_is_a_study_of_its_own(
    engine: Engine, rich: Study, store: FolderStore
) -> None:
    """Own name, own spec, own trials; what was decided stays with the first one."""
    document = exported(engine)
    with pytest.raises(StudyExistsError, match=f"a study '{NAME}' exists") as caught:
        import_study(engine, document, store)
    assert "--name NEW" in caught.value.hint
    with pytest.raises(StudyExistsError):
        require_free(engine, NAME)
    import_study(engine, document.renamed("copy"), store)
    assert exported(engine).content == document.content
    copy = load_study(engine, "copy")
    assert (copy.spec.study, copy.spec_sha256) == ("copy", copy.spec.sha256())
    assert replace(copy.spec, study=NAME) == rich.spec
    assert copy.uid != rich.uid
    assert seen_by_people(engine, "copy")[1:] == seen_by_people(engine)[1:]
    assert exported(engine, "copy").content["promotions"] == []
    set_state(engine, copy, "open")
    assert isinstance(worker_on(engine, copy).claim(), Claim)
    delete_study(engine, copy)
    assert exported(engine).content == document.content


def test_a_deleted_study_comes_back_whole(engine: Engine, rich: Study, store: FolderStore) -> None:
    """Its promotions, which outlive a study and never change, are its own again."""
    document = exported(engine)
    delete_study(engine, rich)
    with pytest.raises(UnknownStudyError):
        export_study(engine, rich, artifacts="")
    import_study(engine, document, store)
    assert exported(engine).content == document.content
    assert status(engine, load_study(engine, NAME))["champion"]["version"] == 1


def test_another_study_of_the_name_does_not_inherit_promotions(engine: Engine, rich: Study) -> None:
    """Created after the first was deleted, it has decided nothing."""
    delete_study(engine, rich)
    simulated_study(engine, study=NAME)
    assert exported(engine).content["promotions"] == []


# All or nothing


def test_a_value_that_postgresql_refuses_leaves_nothing(
    engine: Engine, elsewhere: Engine, rich: Study, store: FolderStore
) -> None:
    """It is told in words, and the name stays free."""
    document = exported(engine, rich.name)
    epochs = [row | {"epoch": -row["epoch"]} for row in document.content["epochs"]]
    bad = replace(document, content=document.content | {"epochs": epochs})
    with pytest.raises(FaultsError, match="epoch_check"):
        import_study(elsewhere, bad, store)
    assert_nothing_of(elsewhere)


def test_an_interrupted_import_leaves_nothing(
    engine: Engine, elsewhere: Engine, rich: Study, store: FolderStore
) -> None:
    """Neither rows nor copied checkpoints."""

    class Interrupted(FolderStore):
        """Ctrl-C comes while the third file is copied."""

        left = 3

        def put(self, file: Path, area: str = "objects") -> Stored:
            stored = super().put(file, area)
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return stored

    files = {file for file in store.root.rglob("*") if file.is_file()}
    with pytest.raises(KeyboardInterrupt):
        import_study(elsewhere, exported(engine, rich.name), Interrupted(store.root))
    assert_nothing_of(elsewhere)
    assert {file for file in store.root.rglob("*") if file.is_file()} == files


def assert_nothing_of(engine: Engine) -> None:
    """The database holds the other study's rows and no more."""
    require_free(engine, NAME)
    with engine.connect() as connection:
        for table, column in (
            ("studies", "study_id"), ("hpo.study", "study_id"), ("trials", "study_id"),
            ("hpo.lease", "study_id"), ("hpo.attempt", "study_id"), ("hpo.worker", "study_id"),
        ):  # fmt: skip
            sql = f"select distinct {column} from {table}"  # noqa: S608 - names from above
            found = connection.scalars(text(sql)).all()
            assert found == [1]
        for table in ("hpo.epoch", "hpo.artifact", "hpo.checkpoint", "hpo.promotion"):
            sql = f"select count(*) from {table}"  # noqa: S608 - names from above
            assert connection.scalar(text(sql)) == 0


# Projections


def test_mlflow_and_the_dashboard_are_filled_anew(
    bench: Bench, elsewhere: Engine, store: FolderStore
) -> None:
    """Runs, the links to them and the pictures are those of the new side, each once."""
    for value in (0.1, 0.2):
        bench.trial(value, value * 2)
    bench.trial(0.3, end=End.FAIL)
    with_pictures(bench.engine, bench.settings, bench.study.study_id)
    document = exported(bench.engine, bench.study.name)
    assert document.content["notes"] == []
    keys = {row["key"] for row in document.content["trial_system_attrs"]}
    assert not [key for key in keys if key.startswith("artifacts:")]

    name = f"elsewhere-{uuid.uuid4().hex[:8]}"  # the tests share MLflow
    import_study(elsewhere, document.renamed(name), store)
    imported = load_study(elsewhere, name)
    there = replace(bench.settings, storage=elsewhere.url.render_as_string(hide_password=False))
    with_pictures(elsewhere, there, imported.study_id)
    mirror = open_mirror(there, imported.study_id)
    try:
        result = verify(mirror.database.engine, mirror.client(), imported.study_id)
    finally:
        mirror.close()
    assert (result.differences, result.runs) == ([], 4)
    # The new side's own notes and pictures are no part of the study either
    assert exported(elsewhere, name).content == document.renamed(name).content | {
        "study": exported(elsewhere, name).content["study"]
    }


def with_pictures(engine: Engine, settings: Settings, study_id: int) -> None:
    """Mirror a study and show it in optuna-dashboard."""
    mirror = open_mirror(settings, study_id)
    try:
        assert mirror.sync_study().errors == []
        show_pending(mirror, settings)
    finally:
        mirror.close()
    with engine.connect() as connection:
        shown = connection.scalar(
            text(
                "select count(*) from trial_system_attributes a join trials t using (trial_id)"
                " where t.study_id = :id and a.key like 'artifacts:%'"
            ),
            {"id": study_id},
        )
        links = connection.scalars(
            text("select value_json from study_system_attributes where key like '%note_str:0'")
        ).all()
    assert shown == 2
    assert len(links) == 4
    assert all("In MLflow" in json.loads(link) for link in links)

"""A study's file holds its finals, what people decided, and reads what older versions wrote."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from support.backups import NAME, checkpointed, exported, seen_by_optuna, seen_by_people, worker_on
from support.studies import claimed, evaluated, simulated_study, with_finals

from hpo.claims.checkpoints import Checkpoints
from hpo.claims.claims import End
from hpo.errors import StudyExistsError, UsageError
from hpo.studies.backup.export import export_study
from hpo.studies.backup.file import read
from hpo.studies.backup.restore import import_study
from hpo.studies.finals import finals_of
from hpo.studies.status import status
from hpo.studies.store import delete_study, find_study, insert_optuna_study, load_study, set_state
from hpo.trainer import Epoch

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.storage.artifacts.folder import FolderStore
    from hpo.studies.backup.document import StudyDocument
    from hpo.studies.store import Study

# `hpo export` of the rich study by the version of this package whose files had version 1
OLD_FILE = Path(__file__).parents[1] / "support" / "study-v1.json.gz"
FINALS = f"{NAME}/finals"


@pytest.fixture
def finals(engine: Engine, rich: Study, store: FolderStore, tmp_path: Path) -> Study:
    """Finals of the rich study: evaluated, failed, and running with a checkpoint."""
    finals = with_finals(engine, rich, 1, 0, 4)
    claims = worker_on(engine, finals, "finals-host")
    evaluated(claims, store, tmp_path, 0.625)
    evaluated(claims, store, tmp_path, 0.5, End.FAIL)
    checkpointed(claims, claimed(claims), store, tmp_path, 1)
    with engine.begin() as connection:
        connection.execute(text("update hpo.study set test_fingerprint = 'of the test split'"))
    return load_study(engine, finals.name)


def finals_rows(engine: Engine, name: str = NAME) -> list[Any]:
    """What each of a study's finals is to do, by numbers."""
    sql = """
        select s.study_name, t.number, p.number, f.of_number, f.seed, f.trained, ps.study_name
          from hpo.final f join trials t on t.trial_id = f.trial_id
          join studies s on s.study_id = f.study_id and s.study_id = t.study_id
          join trials p on p.trial_id = f.of_trial_id
          join studies ps on ps.study_id = p.study_id
         where ps.study_name = :name order by t.number
    """
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql), {"name": name})]


@pytest.mark.usefixtures("finals")
def test_a_study_moves_with_its_finals(
    engine: Engine, elsewhere: Engine, store: FolderStore
) -> None:
    """Exported, imported and exported again it is equal, and all that reads it says the same."""
    first = exported(engine)
    assert first.summary()["finals"] == {"complete": 1, "failed": 1, "running": 1}
    made = import_study(elsewhere, first, store)
    assert (made.checkpoints, made.lost) == (3, 0)  # two of the study, one of its finals
    assert exported(elsewhere).content == first.content
    assert finals_rows(elsewhere) == finals_rows(engine)
    assert [row[2] for row in finals_rows(elsewhere)] == [1, 0, 4]
    for name in (NAME, FINALS):
        assert seen_by_optuna(elsewhere, name) == seen_by_optuna(engine, name)
        mine, theirs = seen_by_people(engine, name), seen_by_people(elsewhere, name)
        for document in (mine[0], theirs[0]):
            if document["finals"]:
                document["finals"]["workers"] = []
        assert theirs == mine
    imported = load_study(elsewhere, FINALS)
    assert imported.parent_id == made.study_id
    assert imported.test_fingerprint == "of the test split"
    assert load_study(elsewhere, NAME).test_fingerprint == "of the test split"


def test_a_final_that_ran_goes_on_elsewhere(
    engine: Engine, elsewhere: Engine, finals: Study, store: FolderStore, tmp_path: Path
) -> None:
    """From a copy of its checkpoint, as a trial does; the exported one keeps its own."""
    import_study(elsewhere, exported(engine), store)
    imported = load_study(elsewhere, FINALS)
    set_state(elsewhere, imported, "open")
    claims = worker_on(elsewhere, imported)
    claim = claimed(claims)
    assert (claim.number, claim.takeovers) == (2, 1)
    checkpoints = Checkpoints(claims, claim, store)
    [kept] = checkpoints.found()
    assert checkpoints.fetch(kept, tmp_path / "there").state.read_text() == "state of 2 after 1"
    claims.report(claim, Epoch(2, {"mAP50": 0.75}))
    assert claims.tell(claim, End.COMPLETE)
    assert status(elsewhere, load_study(elsewhere, NAME))["finals"]["done"] == 2
    assert status(engine, load_study(engine, NAME))["finals"]["running"] == 1
    assert finals.uid == imported.uid


def test_finals_are_exported_with_their_study_alone(engine: Engine, finals: Study) -> None:
    """A file of finals could not be restored: refused with what to export."""
    with pytest.raises(UsageError, match="holds finals") as caught:
        export_study(engine, finals, artifacts="")
    assert caught.value.hint == f"`hpo export FILE --study {NAME}`"


def test_under_another_name_the_finals_have_it_too(
    engine: Engine, finals: Study, store: FolderStore
) -> None:
    """Beside the exported study and its finals, which stay as they are."""
    document = exported(engine)
    with pytest.raises(StudyExistsError):
        import_study(engine, document, store)
    import_study(engine, document.renamed("copy"), store)
    copy = load_study(engine, "copy/finals")
    assert (copy.spec.study, copy.spec_sha256) == ("copy/finals", copy.spec.sha256())
    assert copy.uid != finals.uid
    assert [row[1:6] for row in finals_rows(engine, "copy")] == [
        row[1:6] for row in finals_rows(engine)
    ]
    delete_study(engine, load_study(engine, "copy"))
    assert find_study(engine, "copy/finals") is None
    assert exported(engine).content == document.content


def test_finals_whose_name_is_taken_are_not_restored(
    engine: Engine, elsewhere: Engine, finals: Study, store: FolderStore
) -> None:
    """A plain Optuna study may have it: then nothing of the file is written."""
    with elsewhere.begin() as connection:
        insert_optuna_study(connection, finals.name)
    with pytest.raises(StudyExistsError, match=FINALS):
        import_study(elsewhere, exported(engine), store)
    assert find_study(elsewhere, NAME) is None


# What people decided


def decide(engine: Engine, study: Study, version: int, at: datetime, **more: Any) -> None:
    """A decision at that time."""
    row = {
        "id": str(uuid.uuid4()), "study_id": study.study_id, "name": study.name, "at": at,
        "version": version, "outcome": "promoted", "override": False, "why": None, "actor": None,
    } | more  # fmt: skip
    sql = """
        insert into hpo.promotion (promotion_id, study_id, study_name, decided_at, outcome, model,
            alias, trial_number, version, evidence, override, why, actor)
        values (cast(:id as uuid), :study_id, :name, :at, :outcome, 'detector', 'champion', 0,
                :version, '{}', :override, :why, :actor)
    """
    with engine.begin() as connection:
        connection.execute(text(sql), row)


def versions(engine: Engine) -> list[int]:
    """Of the decisions in their order; the last one is the champion."""
    with engine.connect() as connection:
        return list(connection.scalars(text("select version from hpo.promotion order by seq")))


def test_decisions_keep_their_order_which_no_clock_tells(
    engine: Engine, elsewhere: Engine, store: FolderStore
) -> None:
    """Also where a later one has an earlier time; who said why is carried."""
    study, now = simulated_study(engine, study="decided"), datetime.now(UTC)
    decide(engine, study, 2, now + timedelta(hours=1), override=True, why="«so»", actor="me@here")
    decide(engine, study, 1, now, outcome="rolled_back", why="it was worse", actor="you@there")
    decide(engine, study, 3, now + timedelta(minutes=1))
    first = exported(engine, "decided")
    import_study(elsewhere, first, store)
    assert versions(elsewhere) == versions(engine) == [2, 1, 3]
    assert exported(elsewhere, "decided").content == first.content


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_the_newest_decision_stays_the_last_word(
    engine: Engine, elsewhere: Engine, store: FolderStore, order: tuple[str, str]
) -> None:
    """In whichever order two studies that promote to the same model are imported."""
    start = datetime.now(UTC)
    studies = {name: simulated_study(engine, study=name) for name in ("one", "two")}
    for version, name in enumerate(("one", "two", "one"), 1):
        decide(engine, studies[name], version, start + timedelta(hours=version))
    for name in order:
        import_study(elsewhere, exported(engine, name), store)
    assert versions(elsewhere)[-1] == 3
    for name, own in (("one", [1, 3]), ("two", [2])):
        kept = exported(elsewhere, name).content["promotions"]
        assert [row["version"] for row in kept] == own
    # What is decided from now on is the last word
    decide(elsewhere, load_study(elsewhere, "two"), 4, start)
    assert versions(elsewhere)[-1] == 4


# Files of an older version


def test_a_file_of_version_1_is_read_and_restored(elsewhere: Engine, store: FolderStore) -> None:
    """All that it has; what it cannot have is empty. Exported again it is of today's version."""
    document = read(OLD_FILE)
    made = import_study(elsewhere, document, store)
    assert (made.checkpoints, made.lost) == (0, 2)  # another machine's
    study = load_study(elsewhere, NAME)
    assert (study.test_fingerprint, study.parent_id, study.trials) == (None, None, 9)
    assert study.spec_sha256 == study.spec.sha256()
    again = exported(elsewhere)
    assert again.content == document.content
    seen = status(elsewhere, study)
    assert (seen["finals"], seen["champion"]["version"], seen["best"]["value"]) == (None, 1, 0.5)
    assert seen["counts"] == {
        "complete": 3, "pruned": 1, "failed": 1, "running": 1, "waiting": 1,
    }  # fmt: skip
    [decision] = again.content["promotions"]
    assert (decision["override"], decision["why"], decision["actor"]) == (False, None, None)
    set_state(elsewhere, study, "open")
    assert claimed(worker_on(elsewhere, study)).number == 5  # what ran is taken over
    assert finals_of(elsewhere, study) is None


def test_a_value_that_postgresql_refuses_in_the_finals_leaves_nothing(
    engine: Engine, elsewhere: Engine, finals: Study, store: FolderStore
) -> None:
    """Neither the study nor copied checkpoints of either."""
    document = broken(exported(engine))
    files = {file for file in store.root.rglob("*") if file.is_file()}
    with pytest.raises(Exception, match="epoch_check"):
        import_study(elsewhere, document, store)
    assert find_study(elsewhere, NAME) is None
    assert find_study(elsewhere, finals.name) is None
    assert {file for file in store.root.rglob("*") if file.is_file()} == files


def broken(document: StudyDocument) -> StudyDocument:
    """With an epoch of the finals that cannot be."""
    finals = json.loads(json.dumps(document.content["finals"]))
    finals["epochs"][0]["epoch"] = -1
    return replace(document, content=document.content | {"finals": finals})

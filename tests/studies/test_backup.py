"""A study exported, imported elsewhere and exported again is the same, all of it."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import optuna
import pytest
from sqlalchemy import text
from support.backups import (
    NAME,
    exported,
    seen_by_optuna,
    seen_by_people,
    storage_of,
    told,
    worker_on,
)
from support.studies import simulated_study

from hpo.claims.claims import End
from hpo.studies.backup.document import SECTIONS, STUDY
from hpo.studies.backup.export import export_study
from hpo.studies.backup.file import to_bytes
from hpo.studies.backup.restore import import_study
from hpo.studies.store import load_study

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.storage.artifacts.folder import FolderStore
    from hpo.studies.store import Study

# Columns that are not in a document, each with its reason
OMITTED = {
    "hpo.study": {
        "study_id": "the database's own", "parent_id": "the finals stand in their study",
    },
    "hpo.final": {
        "trial_id": "the database's own", "study_id": "same", "of_trial_id": "by its number",
        "of_number": "`of_trial`",
    },
    "hpo.worker": {
        "worker_id": "the database's own", "study_id": "the database's own",
        "slot": "of a Ray actor that lives on", "expires_at": "nobody of them is alive elsewhere",
        "warning": "speaks of a living worker",
    },
    "hpo.lease": {
        "trial_id": "the database's own", "study_id": "the database's own",
        "worker_id": "by its place", "token": "made anew, so that neither study fences the other",
        "expires_at": "over, or over at once", "released": "true of what ran",
        "cleared": "true of what ended: nothing of it is in the new study's areas",
    },
    "hpo.attempt": {
        "trial_id": "the database's own", "study_id": "the database's own",
        "worker_id": "by its place", "token": "made anew",
    },
    "hpo.epoch": {"trial_id": "the database's own", "change": "the database's own"},
    "hpo.artifact": {"trial_id": "the database's own"},
    "hpo.checkpoint": {"trial_id": "the database's own", "token": "by its attempt"},
    "hpo.promotion": {
        "study_id": "the database's own", "study_name": "the study's", "seq": "`place`",
    },
    "public.study_directions": {"study_direction_id": "the database's own", "study_id": "same"},
    "public.study_user_attributes": {"study_user_attribute_id": "same", "study_id": "same"},
    "public.study_system_attributes": {"study_system_attribute_id": "same", "study_id": "same"},
    "public.trials": {"trial_id": "the database's own", "study_id": "same", "number": "`trial`"},
    "public.trial_params": {"param_id": "the database's own", "trial_id": "same"},
    "public.trial_values": {"trial_value_id": "the database's own", "trial_id": "same"},
    "public.trial_intermediate_values": {"trial_intermediate_value_id": "same", "trial_id": "same"},
    "public.trial_user_attributes": {"trial_user_attribute_id": "same", "trial_id": "same"},
    "public.trial_system_attributes": {"trial_system_attribute_id": "same", "trial_id": "same"},
}  # fmt: skip
# Tables that are not in a document, each with its reason
LEFT_OUT = {
    "hpo.mirror": "MLflow is filled anew",
    "hpo.mirror_study": "MLflow is filled anew",
    "hpo.alias_move": "under way in the exporter's MLflow",
    "hpo.dataset": "of no one study; a row goes along in `made`",
    "hpo.version": "the schema's",
    "public.studies": "the name alone",
    "public.trial_heartbeats": "of living processes",
    "public.version_info": "Optuna's schema",
    "public.alembic_version": "Optuna's schema",
}


# A round trip


def test_a_round_trip_is_equal(
    engine: Engine, elsewhere: Engine, rich: Study, store: FolderStore
) -> None:
    """Exported, imported elsewhere and exported again: the same document, all of it."""
    first = exported(engine)
    assert first.summary()["trials"] == {
        "complete": 3, "failed": 1, "pruned": 1, "running": 1, "waiting": 1,
    }  # fmt: skip
    assert [name for name in SECTIONS if not first.content[name]] == ["final"]
    import_study(elsewhere, first, store)
    second = exported(elsewhere)
    assert second.content == first.content
    assert second.sha256() == first.sha256()
    assert rich.uid == load_study(elsewhere, NAME).uid


def test_plain_optuna_and_people_see_the_same(
    engine: Engine, elsewhere: Engine, rich: Study, store: FolderStore
) -> None:
    """Trials, attributes, notes, statistics and every trial's page are equal on both sides."""
    import_study(elsewhere, exported(engine), store)
    assert rich.state == "stopped"
    assert seen_by_optuna(elsewhere) == seen_by_optuna(engine)
    assert seen_by_people(elsewhere) == seen_by_people(engine)
    assert load_study(elsewhere, NAME).spec == rich.spec


def test_two_exports_of_the_same_study_are_the_same_bytes(engine: Engine, rich: Study) -> None:
    """Nothing in the file tells when it was made; gzip included."""
    one, two = (export_study(engine, rich, artifacts="here") for _ in range(2))
    for compressed in (False, True):
        assert to_bytes(one, compressed=compressed) == to_bytes(two, compressed=compressed)


@pytest.mark.parametrize("seed", range(6))
def test_any_study_survives_the_round_trip(
    engine: Engine, elsewhere: Engine, store: FolderStore, tmp_path: Path, seed: int
) -> None:
    """Random trials of plain Optuna and of workers, with every kind of float and text."""
    random_study(engine, store, tmp_path, random.Random(seed))
    first = exported(engine, "random")
    import_study(elsewhere, first, store)
    assert exported(elsewhere, "random").content == first.content
    assert seen_by_optuna(elsewhere, "random") == seen_by_optuna(engine, "random")


def random_study(engine: Engine, store: FolderStore, folder: Path, rng: random.Random) -> None:
    """A study called `random`."""
    store.require_writable()
    study = simulated_study(engine, study="random", trials=20)
    claims = worker_on(engine, study)
    storage = storage_of(engine)
    plain = optuna.load_study(study_name="random", storage=storage)

    def figure() -> float:
        return rng.choice(
            [math.nan, math.inf, -math.inf, -0.0, rng.random(), rng.uniform(-1, 1) * 1e-308,
             rng.expovariate(1) * 10.0 ** rng.randint(-300, 300)]
        )  # fmt: skip

    def words() -> str:
        return "".join(
            chr(rng.choice([10, 34, 39, 92, 37, 58, 228, 0x4E2D, 0x1F600])) for _ in "12345"
        )

    for _ in range(rng.randint(0, 6)):
        end = rng.choice([End.COMPLETE, End.PRUNED, End.FAIL])
        told(claims, store, folder, end, *(figure() for _ in range(3)), rng.random())
    for _ in range(rng.randint(0, 4)):
        trial = plain.ask()
        trial.suggest_float(words(), -1e300, 1e300)
        trial.suggest_categorical(words(), [None, True, words(), 1.5])
        trial.report(figure(), rng.randint(0, 9))
        trial.set_user_attr(words(), [words(), figure()])
        if rng.random() < 0.7:
            plain.tell(trial, rng.choice([math.inf, rng.random()]))
    plain.enqueue_trial({words(): rng.random()}, user_attrs={words(): words()})
    plain.set_user_attr(words(), words())
    storage.engine.dispose()


def test_every_column_is_carried_or_left_out_for_a_reason(engine: Engine) -> None:
    """A column that a later migration adds cannot be forgotten here."""
    carried = {column for one in SECTIONS.values() for column in (*one.key, *one.others)} | {*STUDY}
    with engine.connect() as connection:
        columns = connection.execute(
            text(
                "select table_schema || '.' || table_name, column_name"
                " from information_schema.columns where table_schema in ('hpo', 'public')"
            )
        ).all()
    assert columns
    tables = {table for table, _ in columns}
    assert tables == {*OMITTED, *LEFT_OUT}
    for table, column in columns:
        if table in OMITTED:
            assert (column in carried) or (column in OMITTED[table]), (table, column)

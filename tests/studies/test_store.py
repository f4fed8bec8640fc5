"""Studies on real PostgreSQL: stored, found, opened again and deleted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from sqlalchemy import text
from support.studies import simulated_spec, simulated_study

from hpo.claims.claims import Claim, Claims, End
from hpo.errors import StudyExistsError, UnknownStudyError
from hpo.storage.postgres.engine import Database, make_engine
from hpo.studies.spec import Choice, Promotion, differences
from hpo.studies.store import (
    delete_study,
    enqueue,
    extend,
    find_study,
    list_studies,
    load_study,
    store_study,
)
from hpo.trainer import Epoch

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.studies.spec import StudySpec
    from hpo.studies.store import Study

POINT = {"x": 0.9, "y": 0.01, "kind": "a"}


def create(engine: Engine, spec: StudySpec, **changes: Any) -> tuple[Study, bool]:
    options = {"fingerprint": "f" * 64, "code_version": "simulated 1"} | changes
    return store_study(engine, spec, **options)


def rows(engine: Engine) -> dict[str, int]:
    """How many rows each table of Optuna's and ours has, where it has any."""
    with engine.connect() as connection:
        names = connection.scalars(
            text(
                "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in "
                "('public', 'hpo') and tablename not in ('version', 'alembic_version', "
                "'version_info')"
            )
        ).all()
        counts = {
            name: connection.scalar(text(f"select count(*) from {name}"))  # noqa: S608 - the catalogue's names
            for name in names
        }
    return {name: count for name, count in counts.items() if count}


def run_one(engine: Engine, study: Study) -> Claim:
    """Claim, report, tell with a file: rows in every table of a trial."""
    claims = Claims(Database(engine, patience_s=30.0), study, register(engine, study), lease_s=30.0)
    claim = claims.claim()
    assert isinstance(claim, Claim)
    claims.report(claim, Epoch(1, {"mAP50": 0.5}))
    claims.tell(claim, End.COMPLETE, attrs={"worker": "here"})
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into hpo.artifact (trial_id, name, sha256, bytes) "
                "values (:id, 'a', 'b', 1);"
                "insert into hpo.mirror (trial_id, study_id) values (:id, :study);"
                "insert into hpo.mirror_study (study_id) values (:study) on conflict do nothing;"
                "insert into trial_heartbeats (trial_id, heartbeat) values (:id, now())"
            ),
            {"id": claim.trial_id, "study": study.study_id},
        )
    return claim


def register(engine: Engine, study: Study) -> int:
    with engine.begin() as connection:
        return int(
            connection.execute(
                text(
                    "insert into hpo.worker (study_id, host, pid, device) "
                    "values (:study, 'h', 1, 'cpu') returning worker_id"
                ),
                {"study": study.study_id},
            ).scalar_one()
        )


def promote(engine: Engine, study: Study) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into hpo.promotion (promotion_id, study_id, study_name, outcome, model, "
                "alias, evidence) values (gen_random_uuid(), :id, :name, 'none', 'm', 'a', '{}')"
            ),
            {"id": study.study_id, "name": study.name},
        )


def test_a_stored_spec_is_the_one_that_was_given(engine: Engine) -> None:
    """Numbers of every size come back equal through jsonb, and so does the hash."""
    train = {
        "tiny": 1e-5, "tenth": 0.1, "one": 1.0, "whole": 1, "huge": 1e16, "smallest": 5e-324,
        "largest": 1.7976931348623157e308, "long": 2**53 + 1, "longer": 10**30, "minus": -0.0,
        "third": 1 / 3, "text": "ü\u2028", "list": [1.0, {"b": 2.5e-7, "a": None}], "flag": True,
    }  # fmt: skip
    spec = simulated_spec(
        train=train, baselines=(POINT,), promotion=Promotion(model="m", alias="a")
    )
    study, made = create(engine, spec)
    assert made
    assert differences(study.spec, spec) == []
    assert study.spec.sha256() == study.spec_sha256 == spec.sha256()
    assert isinstance(study.spec.train["one"], float)
    assert isinstance(study.spec.train["whole"], int)


def test_optuna_sees_the_study_with_its_metric_and_baselines(
    engine: Engine, database_url: str
) -> None:
    """Plain Optuna reads direction, metric name, attributes and the waiting baselines."""
    spec = simulated_spec(baselines=(POINT, POINT))
    create(engine, spec)
    plain = optuna.load_study(study_name=spec.study, storage=database_url)
    assert plain.direction.name == "MAXIMIZE"
    assert plain.metric_names == ["mAP50"]
    assert plain.user_attrs["hpo:spec_sha256"] == spec.sha256()
    assert [trial.state.name for trial in plain.trials] == ["WAITING", "WAITING"]
    assert plain.trials[0].system_attrs == {"fixed_params": POINT}


def test_creating_twice_is_an_error_that_names_the_way_out(engine: Engine) -> None:
    """Without --exist-ok the second creation says what to add."""
    create(engine, simulated_spec())
    with pytest.raises(StudyExistsError, match="a study 'simulated-test' exists") as caught:
        create(engine, simulated_spec())
    assert "--exist-ok" in caught.value.hint
    assert caught.value.exit_code == 2


def test_an_equal_study_with_exist_ok_changes_nothing(engine: Engine) -> None:
    """Every row of every table stays, baselines and budget included."""
    study, _ = create(engine, simulated_spec(baselines=(POINT,)))
    extend(engine, study, 9)
    before = rows(engine)
    again, made = create(engine, simulated_spec(baselines=(POINT,)), exist_ok=True)
    assert not made
    assert (again.study_id, again.trials) == (study.study_id, 9)
    assert rows(engine) == before


def test_another_spec_is_refused_with_the_differences(engine: Engine) -> None:
    """--exist-ok does not run one study under the name of another."""
    study, _ = create(engine, simulated_spec())
    other = simulated_spec(trials=7, sampler=Choice("random", {}), train={"epoch_s": 0.5})
    with pytest.raises(StudyExistsError) as caught:
        create(engine, other, exist_ok=True, fingerprint="e" * 64)
    message = str(caught.value)
    assert "budget.trials: 6 -> 7" in message
    assert "train.epoch_s: 0.01 -> 0.5" in message
    assert f"dataset fingerprint: {'f' * 64} -> {'e' * 64}" in message
    assert load_study(engine, study.name) == study


def test_other_data_under_an_equal_spec_is_refused(engine: Engine) -> None:
    """The same file over changed images is another study."""
    create(engine, simulated_spec())
    with pytest.raises(StudyExistsError, match="dataset fingerprint"):
        create(engine, simulated_spec(), exist_ok=True, fingerprint="e" * 64)


def test_another_file_to_start_from_under_an_equal_spec_is_refused(engine: Engine) -> None:
    """The weights at `model` have changed; a study of an earlier version knew none of them."""
    create(engine, simulated_spec(), model_sha256="a" * 64)
    with pytest.raises(StudyExistsError, match=r"sha256 of the model's file: aaa.* -> bbb"):
        create(engine, simulated_spec(), exist_ok=True, model_sha256="b" * 64)
    assert not create(engine, simulated_spec(), exist_ok=True, model_sha256="a" * 64)[1]
    earlier = simulated_spec(study="earlier")
    create(engine, earlier)
    assert not create(engine, earlier, exist_ok=True, model_sha256="a" * 64)[1]


def test_creating_at_once_makes_one_study(engine: Engine, database_url: str) -> None:
    """Of eight creators one makes it; seven find it, or are told that it exists."""
    workers = make_engine(database_url, pool_size=8)
    start = threading.Barrier(8)

    def attempt(number: int) -> str:
        start.wait()
        try:
            _, made = create(workers, simulated_spec(baselines=(POINT,)), exist_ok=number % 2 == 0)
        except StudyExistsError:
            return "refused"
        return "made" if made else "found"

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(attempt, range(8)))
    workers.dispose()
    assert said.count("made") == 1
    assert said.count("found") >= 3
    counts = rows(engine)
    assert (counts["public.studies"], counts["hpo.study"], counts["public.trials"]) == (1, 1, 1)


def test_a_creation_that_fails_half_way_leaves_nothing(engine: Engine) -> None:
    """What the database refuses in the last statement takes the first ones with it."""
    spec = simulated_spec(baselines=(POINT,))
    with engine.begin() as connection:
        connection.execute(
            text(
                "create function refuse() returns trigger language plpgsql as "
                "$$ begin raise exception 'the disk is on fire'; end $$;"
                "create trigger t before insert on trials execute function refuse()"
            )
        )
    with pytest.raises(Exception, match="the disk is on fire"):
        create(engine, spec)
    assert rows(engine) == {}


def test_a_study_deleted_in_optuna_can_be_created_again(engine: Engine, database_url: str) -> None:
    """Our rows of it are forgotten, none are left over, and the new one starts empty."""
    study, _ = create(engine, simulated_spec())
    run_one(engine, study)
    optuna.delete_study(study_name=study.name, storage=database_url)
    assert find_study(engine, study.name) is None
    assert list_studies(engine) == []
    again, made = create(engine, simulated_spec(trials=2))
    assert made
    assert again.trials == 2
    left = rows(engine)
    left.pop("hpo.mirror", None)  # the mirror forgets its own, with the runs in MLflow
    left.pop("hpo.mirror_study", None)
    assert {name: count for name, count in left.items() if name.startswith("hpo.")} == {
        "hpo.study": 1
    }


def test_a_study_that_plain_optuna_made_is_not_taken(engine: Engine, database_url: str) -> None:
    """Its name is refused, with --exist-ok too, and nothing of it changes."""
    optuna.create_study(study_name="simulated-test", storage=database_url)
    before = rows(engine)
    for exist_ok in (False, True):
        with pytest.raises(StudyExistsError, match="did not create"):
            create(engine, simulated_spec(), exist_ok=exist_ok)
    assert rows(engine) == before


def test_deleting_leaves_no_row_but_promotions(engine: Engine) -> None:
    """Optuna's tables and ours are empty of it; another study keeps all of its own."""
    kept = simulated_study(engine, study="kept")
    run_one(engine, kept)
    before = rows(engine)
    study = simulated_study(engine, baselines=(POINT,))
    run_one(engine, study)
    promote(engine, study)
    enqueue(engine, study, POINT, {})
    delete_study(engine, study)
    assert rows(engine) == before | {"hpo.promotion": 1}
    assert find_study(engine, study.name) is None
    with pytest.raises(UnknownStudyError, match="was deleted"):
        delete_study(engine, study)


def test_every_table_of_optunas_is_emptied_by_a_deletion(engine: Engine) -> None:
    """A table that a new Optuna adds for studies or trials is not forgotten."""
    with engine.connect() as connection:
        pointing = connection.scalars(
            text(
                "select distinct conrelid::regclass::text from pg_constraint where contype = 'f' "
                "and confrelid in ('public.studies'::regclass, 'public.trials'::regclass)"
            )
        ).all()
    assert set(pointing) == {
        "study_directions", "study_system_attributes", "study_user_attributes", "trials",
        "trial_heartbeats", "trial_intermediate_values", "trial_params",
        "trial_system_attributes", "trial_user_attributes", "trial_values",
    }  # fmt: skip


def test_a_deletion_waits_for_a_write_and_the_next_write_is_lost(engine: Engine) -> None:
    """A worker in the middle of a report neither fails nor leaves rows behind."""
    study = simulated_study(engine)
    claims = Claims(Database(engine, patience_s=30.0), study, 1, lease_s=30.0)
    claim = claims.claim()
    assert isinstance(claim, Claim)
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            connection.execute(
                text("select hpo.guard(:trial, :token)"),
                {"trial": claim.trial_id, "token": claim.token},
            )
            late = pool.submit(delete_study, engine, study)
            connection.execute(
                text(
                    "insert into trial_intermediate_values (trial_id, step, intermediate_value, "
                    "intermediate_value_type) values (:id, 1, 0.5, 'FINITE')"
                ),
                {"id": claim.trial_id},
            )
        late.result(timeout=20)
    assert claims.report(claim, Epoch(1, {"mAP50": 0.5})).value == "lost"
    assert rows(engine) == {}

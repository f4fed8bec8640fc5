"""Studies on real PostgreSQL: create, find, choose, steer and delete."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from fixtures.studies import simulated_spec, simulated_study
from sqlalchemy import text

from hpo.claims import Claim, Claims, End
from hpo.database.engine import make_engine
from hpo.errors import StudyClosedError, StudyExistsError, UnknownStudyError, UsageError
from hpo.spec import Choice, Promotion, differences
from hpo.status import status
from hpo.study import (
    choose_study,
    create_study,
    delete_study,
    enqueue,
    extend,
    find_study,
    list_studies,
    load_study,
    set_state,
)
from hpo.trainer import Epoch

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.spec import StudySpec
    from hpo.study import Study

POINT = {"x": 0.9, "y": 0.01, "kind": "a"}


def create(engine: Engine, spec: StudySpec, **changes: Any) -> tuple[Study, bool]:
    options = {"fingerprint": "f" * 64, "code_version": "simulated 1"} | changes
    return create_study(engine, spec, **options)


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
    claims = Claims(engine, study, register(engine, study), lease_s=30.0, patience_s=30.0)
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
    spec = simulated_spec(train=train, baselines=(POINT,), promotion=Promotion("m", "a"))
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
    claims = Claims(engine, study, 1, lease_s=30.0, patience_s=30.0)
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


# Which study is meant


def test_with_no_study_the_user_is_told_how_to_make_one(engine: Engine) -> None:
    """Reading and writing commands say the same."""
    for writing in (True, False):
        with pytest.raises(UnknownStudyError, match="there is no study") as caught:
            choose_study(engine, None, writing=writing)
        assert "hpo create-study" in caught.value.hint


def test_a_named_study_is_taken_or_refused_with_the_nearest(engine: Engine) -> None:
    """A name is never guessed; the nearest one is offered."""
    simulated_study(engine)
    assert choose_study(engine, "simulated-test", writing=True) == ("simulated-test", "")
    with pytest.raises(
        UnknownStudyError, match=r"'simulated-tset' \(did you mean 'simulated-test'"
    ):
        choose_study(engine, "simulated-tset", writing=False)


def test_the_only_open_study_is_the_default(engine: Engine) -> None:
    """Finished and stopped ones do not count; nothing needs to be said."""
    for name in ("finished", "stopped", "open"):
        study = simulated_study(engine, study=name, trials=1)
        if name == "finished":
            run_one(engine, study)
        if name == "stopped":
            set_state(engine, study, "stopped")
    assert [item.state for item in list_studies(engine)] == ["open", "stopped", "finished"]
    for writing in (True, False):
        assert choose_study(engine, None, writing=writing) == ("open", "")


def test_of_several_open_studies_reading_takes_the_newest_and_writing_refuses(
    engine: Engine,
) -> None:
    """Reading says which it took; writing lists them."""
    for name in ("one", "two"):
        simulated_study(engine, study=name)
    name, remark = choose_study(engine, None, writing=False)
    assert name == "two"
    assert "two" in remark
    with pytest.raises(UnknownStudyError, match="several studies are open: two, one") as caught:
        choose_study(engine, None, writing=True)
    assert "--study" in caught.value.hint


def test_with_no_open_study_a_single_one_is_meant(engine: Engine) -> None:
    """`hpo extend` after the end needs no name; among several it does."""
    run_one(engine, simulated_study(engine, study="one", trials=1))
    assert choose_study(engine, None, writing=True) == ("one", "")
    run_one(engine, simulated_study(engine, study="two", trials=1))
    assert choose_study(engine, None, writing=False)[0] == "two"
    with pytest.raises(UnknownStudyError, match="no study is open, and there are several"):
        choose_study(engine, None, writing=True)


# Steering


def test_an_enqueued_trial_needs_room_in_the_budget(engine: Engine) -> None:
    """Claimed and waiting trials together never overrun it; the error says how to raise it."""
    study = simulated_study(engine, trials=2)
    run_one(engine, study)
    assert enqueue(engine, study, {"x": 0.9}, {"y": 0.01, "kind": "a"}) == 1
    with pytest.raises(StudyClosedError, match="1 claimed, 1 waiting") as caught:
        enqueue(engine, study, POINT, {})
    assert "hpo extend --study simulated-test --trials 3" in caught.value.hint


def test_an_enqueued_trial_that_could_never_start_is_refused(engine: Engine) -> None:
    """After budget.timeout no trial starts any more."""
    study = simulated_study(engine, trials=5)
    run_one(engine, study)
    with engine.begin() as connection:
        connection.execute(text("update hpo.study set timeout_s = 0.001"))
    with pytest.raises(StudyClosedError, match="is over"):
        enqueue(engine, study, POINT, {})


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"z": 1}, "z: the search space has no such parameter"),
        ({"x": 7}, "x: 7.0 lies outside"),
        ({"kind": "a", "depth": 3}, "depth: exists only where kind is b"),
        ({"x": "much"}, "x: 'much' is no number"),
    ],
)
def test_an_impossible_trial_is_not_enqueued(
    engine: Engine, params: dict[str, Any], words: str
) -> None:
    """Unknown parameters and values out of range write nothing."""
    study = simulated_study(engine)
    with pytest.raises(UsageError, match=words):
        enqueue(engine, study, params, {"x": 0.2, "y": 0.1, "kind": "a", "depth": 2})
    assert "public.trials" not in rows(engine)


def test_a_budget_is_only_raised(engine: Engine) -> None:
    """`extend` takes the new total, and refuses one that is not above the present."""
    study = simulated_study(engine, trials=3)
    for trials in (1, 3):
        with pytest.raises(UsageError, match=f"--trials {trials} is not above the present budget"):
            extend(engine, study, trials)
    extend(engine, study, 4)
    assert load_study(engine, study.name).trials == 4
    grid = simulated_study(engine, study="grid", sampler=Choice("grid", {}))
    with pytest.raises(UsageError, match="a grid has as many points as it has"):
        extend(engine, grid, 100)


def test_steering_a_study_that_was_deleted_says_so(engine: Engine, database_url: str) -> None:
    """Between choosing and writing another hand may delete it."""
    study = simulated_study(engine)
    optuna.delete_study(study_name=study.name, storage=database_url)
    for act in (
        lambda: enqueue(engine, study, POINT, {}),
        lambda: extend(engine, study, 99),
        lambda: set_state(engine, study, "stopped"),
        lambda: status(engine, study),
    ):
        with pytest.raises(UnknownStudyError, match="the study 'simulated-test' was deleted"):
            act()


def test_status_is_plain_json(engine: Engine) -> None:
    """The document holds what DESIGN promises, and nothing that JSON cannot."""
    study = simulated_study(engine, trials=3)
    run_one(engine, study)
    document = status(engine, study)
    assert json.loads(json.dumps(document)) == document
    assert document["state"] == "open"
    assert document["simulated"] is True
    assert document["budget"] == {"trials": 3, "claimed": 1, "epochs": 3}
    assert document["counts"] == {
        "complete": 1, "pruned": 0, "failed": 0, "running": 0, "waiting": 0,
    }  # fmt: skip
    assert document["best"]["value"] == 0.5
    assert document["champion"] is None

"""Finals in what lists, chooses, steers and deletes studies, on real PostgreSQL."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from sqlalchemy import text
from support.backups import worker_on
from support.command_line import PREFIXES, in_process
from support.studies import claimed, evaluated, simulated_study, with_finals

from hpo.claims.claims import End, NoTrial
from hpo.errors import UnknownStudyError, UsageError
from hpo.storage.artifacts.folder import FolderStore
from hpo.studies.finals import finals_of, retry_final
from hpo.studies.status import status
from hpo.studies.store import (
    choose_study,
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
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.claims.claims import Claims
    from hpo.settings import Settings
    from hpo.studies.store import Study

NAME = "contest"
FINALS = f"{NAME}/finals"
POINT = {"x": 0.9, "y": 0.01, "kind": "a"}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """The artifact store."""
    store = FolderStore(tmp_path / "artifacts")
    store.require_writable()
    return store


def finished(engine: Engine, name: str = NAME, trials: int = 3) -> Study:
    """A finished study of complete trials, the later the better."""
    study = simulated_study(engine, study=name, trials=trials)
    claims = worker_on(engine, study)
    for number in range(trials):
        claim = claimed(claims)
        claims.report(claim, Epoch(1, {"mAP50": number / 8}))
        assert claims.tell(claim, End.COMPLETE)
    return study


@pytest.fixture
def contest(engine: Engine) -> tuple[Study, Study, Claims]:
    """A finished study, its three finals, and a worker of these."""
    study = finished(engine)
    finals = with_finals(engine, study, 2, 1, 0)
    return study, finals, worker_on(engine, finals, "finals-host")


Contest = tuple["Study", "Study", "Claims"]


def counts(engine: Engine) -> dict[str, int]:
    """Rows of each table that holds something of a study."""
    tables = (
        "studies", "trials", "trial_params", "trial_system_attributes", "trial_user_attributes",
        "hpo.study", "hpo.final", "hpo.lease", "hpo.attempt", "hpo.worker", "hpo.epoch",
        "hpo.artifact", "hpo.mirror", "hpo.mirror_study",
    )  # fmt: skip
    with engine.connect() as connection:
        return {
            name: int(connection.scalar(text(f"select count(*) from {name}")) or 0)  # noqa: S608 - names from above
            for name in tables
        }


# Listed and chosen


def test_finals_stand_below_their_study(engine: Engine, contest: Contest) -> None:
    """Whatever else was made since; they are told apart by the study whose they are."""
    study, _, _ = contest
    simulated_study(engine, study="newer")
    shown = [(item.name, item.state, item.parent_id) for item in list_studies(engine)]
    assert shown == [
        ("newer", "open", None), (NAME, "finished", None), (FINALS, "open", study.study_id),
    ]  # fmt: skip


def test_finals_are_meant_only_when_named(engine: Engine, contest: Contest) -> None:
    """Never chosen for the user; the study is not done while its finals are not."""
    _, finals, claims = contest
    assert choose_study(engine, None, writing=True) == (NAME, "")
    assert choose_study(engine, FINALS, writing=True) == (FINALS, "")
    finished(engine, "later")
    assert choose_study(engine, None, writing=True) == (NAME, "")  # the only one with work left
    for _ in range(3):
        claim = claimed(claims)
        claims.report(claim, Epoch(1, {"mAP50": 0.5}))
        claims.tell(claim, End.COMPLETE)
    with pytest.raises(UnknownStudyError, match=rf"no study is open.*: later, {NAME}$"):
        choose_study(engine, None, writing=True)
    assert choose_study(engine, None, writing=False)[0] == "later"
    assert find_study(engine, finals.name) is not None


def test_status_says_how_far_the_finals_are(
    engine: Engine, contest: Contest, store: FolderStore, tmp_path: Path
) -> None:
    """Counts and workers of the finals in their study's document, which stays plain JSON."""
    study, finals, claims = contest
    before = status(engine, simulated_study(engine, study="without"))
    assert (before["finals"], before["finals_of"]) == (None, None)
    evaluated(claims, store, tmp_path, 0.5)
    evaluated(claims, store, tmp_path, 0.5, End.FAIL)
    claims.report(claimed(claims), Epoch(1, {"mAP50": 0.125}))
    document = status(engine, study)
    assert json.loads(json.dumps(document)) == document
    assert document.keys() == before.keys()
    assert (document["state"], document["workers"][0]["worker"]) == ("finished", "host-ä:7")
    [worker] = document["finals"].pop("workers")
    assert worker.pop("lease_s") > 50
    assert worker == {
        "worker": "finals-host:7", "device": "cpu", "trial": 2, "epoch": 1, "value": 0.125,
    }  # fmt: skip
    assert document["finals"] == {
        "study": FINALS, "trials": 3, "done": 1, "running": 1, "failed": 1, "waiting": 0,
    }  # fmt: skip
    # Three trials and the study's own run, and as many of the finals
    assert document["mirror"]["behind"] == 8
    own = status(engine, finals)
    assert (own["finals"], own["finals_of"]) == (None, NAME)
    assert own["decided"]  # nothing is promoted from finals by themselves


# Steered


def test_the_trials_of_finals_are_not_for_people_to_choose(
    engine: Engine, contest: Contest
) -> None:
    """Neither enqueued nor extended: refused with what can be done."""
    _, finals, _ = contest
    before = counts(engine)
    for act in (
        lambda: enqueue(engine, finals, POINT, {}),
        lambda: extend(engine, finals, 99),
    ):
        with pytest.raises(UsageError, match=f"its trials are the best ones of '{NAME}'") as caught:
            act()
        assert f"hpo retry N --study {FINALS}" in caught.value.hint
    assert counts(engine) == before
    assert load_study(engine, FINALS).trials == 3


def test_finals_stop_and_go_on_with_their_study(engine: Engine, contest: Contest) -> None:
    """And by themselves, which leaves their study as it is."""
    study, finals, claims = contest
    set_state(engine, study, "stopped")
    assert claims.claim() is NoTrial.STOPPED
    set_state(engine, study, "open")
    claimed(claims)
    set_state(engine, finals, "stopped")
    assert claims.claim() is NoTrial.STOPPED
    assert load_study(engine, NAME).state == "open"


def failed(claims: Claims) -> int:
    """The number of the finals' first trial, which failed, while the others are complete."""
    first = claimed(claims)
    assert claims.tell(first, End.FAIL, reason="error: told so")
    for _ in range(2):
        claim = claimed(claims)
        claims.report(claim, Epoch(1, {"mAP50": 0.5}))
        claims.tell(claim, End.COMPLETE)
    assert claims.claim() is NoTrial.FINISHED
    return first.number


def test_a_failed_final_is_tried_again_in_its_place(engine: Engine, contest: Contest) -> None:
    """Same parameters, same parent trial and seed, room in the budget; it counts once."""
    study, finals, claims = contest
    number = failed(claims)
    before = asked(engine)
    with engine.connect() as connection:
        [stored] = connection.scalars(
            text(
                "select value_json from trials t join trial_system_attributes a using (trial_id)"
                " where t.study_id = :id and t.number = :number and a.key = 'fixed_params'"
            ),
            {"id": finals.study_id, "number": number},
        )
    assert retry_final(engine, finals, number) == 3
    assert status(engine, study)["finals"]["waiting"] == 1
    assert status(engine, study)["finals"]["failed"] == 0
    assert load_study(engine, FINALS).trials == 4
    again = claimed(claims)
    assert again.number == 3
    assert json.loads(stored).items() <= again.params.items()
    after = asked(engine)
    assert [row[1:] for row in after] == [row[1:] for row in before]
    assert {row[0] for row in after} - {row[0] for row in before} == {again.trial_id}
    claims.report(again, Epoch(1, {"mAP50": 0.75}))
    assert claims.tell(again, End.COMPLETE)
    assert claims.claim() is NoTrial.FINISHED
    assert status(engine, study)["finals"]["done"] == 3
    assert with_finals(engine, study, 2, 1, 0).trials == 4  # asked for again: nothing is added


def asked(engine: Engine) -> list[Any]:
    """The rows of hpo.final: the trial last known to do it, and what it is to do."""
    sql = "select trial_id, of_trial_id, of_number, seed, trained from hpo.final order by 2, 4"
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def test_only_a_failed_final_is_tried_again_and_once(engine: Engine, contest: Contest) -> None:
    """Two people at the same moment make one trial."""
    _, finals, claims = contest
    number = failed(claims)
    with pytest.raises(UsageError, match="trial 1 of 'contest/finals' is complete"):
        retry_final(engine, finals, 1)
    with pytest.raises(UsageError, match="has no trial 9"):
        retry_final(engine, finals, 9)
    start = threading.Barrier(2)

    def attempt(_: int) -> str:
        start.wait()
        try:
            return str(retry_final(engine, finals, number))
        except UsageError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(attempt, range(2)))
    assert said == ["3", "trial 0 of 'contest/finals' was tried again already"]
    assert load_study(engine, FINALS).trials == 4


# Deleted


def test_a_deleted_study_takes_its_finals_along(
    engine: Engine, store: FolderStore, tmp_path: Path
) -> None:
    """No row of either is left; another study's finals stay."""
    other = finished(engine, "other")
    evaluated(worker_on(engine, with_finals(engine, other, 0)), store, tmp_path, 0.5)
    before = counts(engine)
    study = finished(engine)
    claims = worker_on(engine, with_finals(engine, study, 0, 1))
    evaluated(claims, store, tmp_path, 0.5)
    running = claimed(claims)
    delete_study(engine, study)
    assert counts(engine) == before
    assert find_study(engine, FINALS) is None
    assert claims.report(running, Epoch(1, {"mAP50": 0.5})).value == "lost"


def test_finals_deleted_alone_can_be_made_again(engine: Engine, contest: Contest) -> None:
    """Their study stays as it is; the new ones start from nothing."""
    study, finals, claims = contest
    claimed(claims)
    delete_study(engine, finals)
    assert finals_of(engine, study) is None
    assert asked(engine) == []
    assert status(engine, study)["finals"] is None
    assert claims.claim() is NoTrial.DELETED
    again = with_finals(engine, study, 1)
    assert (again.trials, again.parent_id) == (1, study.study_id)


def test_a_study_deleted_in_optuna_leaves_no_finals_behind(
    engine: Engine, contest: Contest, database_url: str
) -> None:
    """They go with the next study that is made, Optuna's rows included: the name is free again."""
    _, _, claims = contest
    claimed(claims)
    optuna.delete_study(study_name=NAME, storage=database_url)
    assert [item.name for item in list_studies(engine)] == [FINALS]
    with pytest.raises(UnknownStudyError, match="there is no study"):
        choose_study(engine, None, writing=False)
    again = finished(engine)
    assert [item.name for item in list_studies(engine)] == [NAME]
    assert asked(engine) == []
    assert with_finals(engine, again, 0).trials == 1


def test_finals_deleted_in_optuna_are_forgotten(
    engine: Engine, contest: Contest, database_url: str
) -> None:
    """With the next study that is made, as other studies are."""
    study, _, _ = contest
    optuna.delete_study(study_name=FINALS, storage=database_url)
    assert status(engine, study)["finals"] is None
    simulated_study(engine, study="another")
    assert asked(engine) == []
    assert with_finals(engine, study, 0).study_id != contest[1].study_id


# The command line


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `hpo ARGUMENTS` on the test's database."""
    settings.home.mkdir()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
    env = inherited | {"HPO_STORAGE": str(settings.storage), "HPO_HOME": str(settings.home)}

    def call(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = in_process(tmp_path, env, *arguments)
        assert done.returncode == code, done
        return done

    return call


def test_commands_know_finals_by_name(
    engine: Engine, contest: Contest, store: FolderStore, tmp_path: Path, run: Any
) -> None:
    """Listed, shown, tried again and deleted as NAME/finals; steered no other way."""
    _, _, claims = contest
    evaluated(claims, store, tmp_path, 0.625)
    evaluated(claims, store, tmp_path, 0.5, End.FAIL)
    listed = run("list").stdout.splitlines()
    assert listed == [
        f"{NAME:<30} finished  3/3 trials", f"  {FINALS:<28} open      2/3 trials",
    ]  # fmt: skip
    assert "finals: 1 of 3 evaluated, 1 failed" in run("status").stdout
    shown = json.loads(run("trials", "--study", FINALS, "--json").stdout)
    assert [row["state"] for row in shown] == ["complete", "failed", "waiting"]
    shown = json.loads(run("show", "0", "--study", FINALS, "--json").stdout)
    assert shown["attributes"]["test_mAP50"] == 0.4375
    refused = run("extend", "--trials", "9", "--study", FINALS, code=2)
    assert "holds finals" in refused.stderr
    assert "holds finals" in run("enqueue", "x=0.5", "--study", FINALS, code=2).stderr
    again = run("retry", "1", "--study", FINALS).stdout
    assert again == "Trial 3 waits for a worker, with the parameters of 1.\n"
    run("delete", "--yes", "--study", FINALS)
    assert run("list").stdout.splitlines() == listed[:1]
    run("delete", "--yes")
    assert counts(engine)["studies"] == 0

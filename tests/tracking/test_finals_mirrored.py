"""Finals in MLflow: under their study's run, in its experiment, and never mixed up with it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from support.backups import worker_on
from support.studies import TESTED, Bench, evaluated, with_finals

from hpo.claims.claims import End
from hpo.storage.artifacts.opening import open_store
from hpo.studies.status import status
from hpo.tracking.dashboard import show_pending
from hpo.tracking.mirror import Mirror, open_mirror
from hpo.tracking.mirror_thread import MirrorThread
from hpo.tracking.verify import mend, verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine
    from support.mlflow_server import Emptied

    from hpo.settings import Settings
    from hpo.studies.store import Study

PARENT = "mlflow.parentRunId"


class Contest:
    """A bench's study of three trials, and its finals of two of them, one of which failed."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        for value in (0.1, 0.2, 0.3):
            bench.trial(value)
        self.finals: Study = with_finals(bench.engine, bench.study, 2, 1)
        claims = worker_on(bench.engine, self.finals, "finals-host")
        store = open_store(bench.settings)
        evaluated(claims, store, bench.folder, 0.625)
        evaluated(claims, store, bench.folder, 0.5, End.FAIL)
        self._open: list[Mirror] = []

    def mirror(self) -> Mirror:
        """A mirror of the finals."""
        self._open.append(open_mirror(self.bench.settings, self.finals.study_id))
        return self._open[-1]

    def sync(self) -> None:
        """Both studies are in MLflow afterwards."""
        for one in (self.bench.mirror(), self.mirror()):
            result = one.sync_study()
            assert (result.errors, result.behind) == ([], 0)

    def differences(self) -> list[str]:
        """Of both."""
        bench, ids = self.bench, (self.bench.study.study_id, self.finals.study_id)
        found = [verify(bench.engine, bench.client(), one).differences for one in ids]
        return [str(one) for part in found for one in part]

    def runs(self) -> dict[str, Any]:
        """Every live run of the study's experiment by its name, of which each is there once."""
        runs = {run.info.run_name: run for run in self.bench.runs()}
        assert len(runs) == len(self.bench.runs())
        return runs

    def names(self) -> set[str]:
        """What `runs` has when all is there."""
        own = self.bench.study.name
        trials = {f"trial-000{number}" for number in range(3)}
        return {own, f"{own}/finals", "final-0000", "final-0001"} | trials

    def close(self) -> None:
        """Close the mirrors."""
        for one in self._open:
            one.close()


@pytest.fixture
def contest(bench: Bench) -> Iterator[Contest]:
    """A contest on the shared MLflow database."""
    one = Contest(bench)
    yield one
    one.close()


def test_finals_stand_under_their_study_in_its_experiment(contest: Contest) -> None:
    """Nested, tagged with the trial and seed that they are of, with the figures of the test."""
    contest.sync()
    assert contest.differences() == []
    runs = contest.runs()
    assert runs.keys() == contest.names()
    own = contest.bench.study.name
    above = {name: run.data.tags.get(PARENT) for name, run in runs.items()}
    assert above[own] is None
    assert above[f"{own}/finals"] == above["trial-0000"] == runs[own].info.run_id
    assert above["final-0000"] == above["final-0001"] == runs[f"{own}/finals"].info.run_id
    final = runs["final-0000"].data
    expected = {
        "hpo.study": f"{own}/finals", "hpo.finals_of": own, "hpo.final_of": "2", "hpo.seed": "0",
        "hpo.trained": "false", "hpo.state": "COMPLETE", "attr.test_note": "words",
    }  # fmt: skip
    assert expected.items() <= final.tags.items()
    assert final.params == runs["trial-0002"].data.params
    metrics = {name.replace("test_", "test/"): value for name, value in TESTED.items()}
    assert metrics == {k: v for k, v in final.metrics.items() if k.startswith("test/")}
    history = contest.bench.client().get_metric_history(
        runs["final-0000"].info.run_id, "test/mAP50"
    )
    assert [(one.step, one.value) for one in history] == [(0, 0.4375)]
    assert not [name for name in runs["trial-0002"].data.metrics if name.startswith("test/")]
    assert runs["final-0001"].info.status == "FAILED"


def test_what_was_altered_in_mlflow_is_found_and_mended(contest: Contest) -> None:
    """Figures of the test and the place under the study's run included."""
    contest.sync()
    client, runs = contest.bench.client(), contest.runs()
    finals_run = runs[contest.finals.name].info.run_id
    client.log_metric(runs["final-0000"].info.run_id, "test/mAP50", 0.9, step=0)
    client.set_tag(runs["final-0000"].info.run_id, "hpo.final_of", "1")
    client.set_tag(finals_run, PARENT, "elsewhere")
    study_run = runs[contest.bench.study.name].info.run_id
    assert contest.differences() == [
        f"finals: tag {PARENT}: {study_run!r} expected, 'elsewhere' in MLflow",
        "final-0000: tag hpo.final_of: '2' expected, '1' in MLflow",
        "final-0000: metric test/mAP50, step 0: 0.4375 expected, 0.9 in MLflow",
    ]
    found = verify(contest.bench.engine, client, contest.finals.study_id)
    assert mend(client, found.differences) == 3
    assert contest.differences() == []


def test_deleted_runs_are_rebuilt_without_touching_the_other_study(contest: Contest) -> None:
    """The study's own run, those of its finals, and twins: each mirror keeps to its own."""
    contest.sync()
    client, before = contest.bench.client(), contest.runs()
    client.delete_run(before["final-0000"].info.run_id)
    client.delete_run(before[contest.finals.name].info.run_id)
    assert contest.bench.mirror().reconcile() == 0
    assert contest.mirror().sync_study().rebuilt == 1
    after = contest.runs()
    assert after.keys() == contest.names()
    kept = [name for name in before if before[name].info.run_id == after[name].info.run_id]
    assert set(kept) == contest.names() - {"final-0000", contest.finals.name}
    # What stood under a run that is gone is moved under the new one
    client.delete_run(after[contest.bench.study.name].info.run_id)
    contest.sync()
    assert contest.runs().keys() == contest.names()
    for study in (contest.bench.study, contest.finals):
        mend(client, verify(contest.bench.engine, client, study.study_id).differences)
    assert contest.differences() == []


def test_mirrors_of_both_at_once_build_everything_once(contest: Contest) -> None:
    """Two threads of each study, as two workers have them, in an experiment that is not there."""
    settings, studies = contest.bench.settings, (contest.bench.study, contest.finals)
    threads = [MirrorThread(settings, study) for study in (*studies, *reversed(studies))]
    assert all(thread.close(120) for thread in threads)
    assert contest.differences() == []
    assert contest.runs().keys() == contest.names()
    document = status(contest.bench.engine, contest.bench.study)
    assert document["mirror"] == {"behind": 0, "error": None}


def test_a_finals_mirror_waits_for_no_lock_of_its_own(contest: Contest) -> None:
    """One connection is enough for it, while its study's mirror is busy."""
    first, second = contest.bench.mirror(), contest.mirror()
    with first.sync_state.locked_study():
        late = threading.Thread(target=second.sync_study)
        late.start()
        time.sleep(0.5)
        assert late.is_alive()  # the study's run comes first
    late.join(60)
    assert not late.is_alive()
    assert second.pending_count() == 0
    found = verify(contest.bench.engine, contest.bench.client(), contest.finals.study_id)
    assert (found.differences, found.runs) == ([], 3)


@pytest.mark.parametrize("emptied", ["direct"], indirect=True)
def test_an_emptied_mlflow_is_rebuilt_for_both(
    engine: Engine, settings: Settings, emptied: Emptied, tmp_path: Path
) -> None:
    """By the finals' mirror, which finds it out first, and then by the study's own pass."""
    contest = Contest(Bench(engine, replace(settings, tracking_uri=emptied.uri), tmp_path))
    contest.sync()
    emptied.lose()
    assert contest.mirror().sync_study().rebuilt == 2
    # Its study's trials are known to be missing, without another look at MLflow
    assert status(engine, contest.bench.study)["mirror"]["behind"] == 3
    assert contest.bench.mirror().sync_pending().copied == 3
    assert contest.differences() == []
    assert contest.runs().keys() == contest.names()
    contest.close()
    contest.bench.close()


def test_the_dashboard_leads_to_the_runs_and_says_what_a_final_is(contest: Contest) -> None:
    """A note on each final names the trial that it looks at again."""
    contest.sync()
    mirror = contest.mirror()
    assert show_pending(mirror, contest.bench.settings) == 2
    with contest.bench.engine.connect() as connection:
        notes = connection.scalars(
            text(
                "select value_json from study_system_attributes"
                " where key like '%note_str:0' and study_id = :id"
            ),
            {"id": contest.finals.study_id},
        )
        said = "\n".join(notes)
    own = contest.bench.study.name
    assert f"Final of trial 2 of {own}, its own weights." in said
    assert f"The best trials of {own} once more, evaluated on the test split." in said

"""A trial trained again from what is stored: equal, close or different, and why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from sqlalchemy import text
from support.command_line import HPO
from support.studies import HYPERBAND, simulated_spec, simulated_study, with_finals
from support.training import TRAIN, again, change, is_running, make_images, wait_until, work

from hpo.claims.claims import Claim
from hpo.datasets.fingerprint import fingerprint
from hpo.errors import UsageError
from hpo.studies.spec import Budget, Choice, Promotion
from hpo.studies.store import store_study
from hpo.studies.trials import trial_rows
from search_spaces.reader import load_space
from workers.context import StudyContext, WorkerContext
from workers.reproduce.report import Sameness
from workers.reproduce.run import job_of, read_trial, reproduce
from workers.trial_runner import make_job
from workers.yolo.arguments import code_version

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.settings import Settings


def plant(engine: Engine, epoch: int, **metrics: float) -> None:
    """Record other metrics of an epoch."""
    change(
        engine, "update hpo.epoch set metrics = metrics || cast(:metrics as jsonb) "
        "where epoch = :epoch", epoch=epoch, metrics=json.dumps(metrics),
    )  # fmt: skip


def everything(engine: Engine) -> dict[str, list[str]]:
    """Every row of every table."""
    with engine.connect() as connection:
        tables = connection.execute(
            text(
                "select format('%I.%I', table_schema, table_name) from information_schema.tables "
                "where table_schema in ('hpo', 'public') and table_type = 'BASE TABLE'"
            )
        ).scalars()
        return {
            table: sorted(connection.execute(text(f"select t::text from {table} t")).scalars())  # noqa: S608 - names of the catalogue
            for table in tables
        }


def files(folder: str | Path) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*"))


def environment(settings: Settings) -> dict[str, str]:
    known = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    return known | {"HPO_STORAGE": str(settings.storage), "HPO_HOME": str(settings.home)}


def hpo(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HPO, "reproduce", *arguments], env=environment(settings), cwd=settings.home.parent,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


# Equal, close, different


def test_a_trial_comes_out_the_same_and_nothing_is_written(here: Settings, engine: Engine) -> None:
    """Every metric of every epoch, the weights, the arguments; no row, no file, no folder stays."""
    study = simulated_study(engine, trials=2)
    work(here, study, trials=2)
    rows, stored = everything(engine), files(here.artifacts)
    done = hpo(here, "1", "--study", study.name, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["verdict"], found["trial"], found["simulated"]) == ("equal", 1, True)
    assert [one["verdict"] for one in found["epochs"]] == ["equal"] * 3
    assert found["weights"]["equal"]
    assert found["weights"]["now"] == found["weights"]["recorded"]
    assert found["arguments"] == found["environment"]["differences"] == found["notes"] == []
    lines = [line for line in done.stderr.splitlines() if "epoch" in line]
    assert [line.split()[3] for line in lines] == ["1/3", "2/3", "3/3"]
    assert everything(engine) == rows
    assert files(here.artifacts) == stored
    assert files(here.home / "runs") == [str(here.home / "runs" / ".lock")]


def test_another_figure_in_one_epoch_is_found_there(here: Settings, engine: Engine) -> None:
    """Exit code 1; the other epochs are equal, and a person reads which one is not."""
    study = simulated_study(engine)
    work(here, study)
    plant(engine, 2, mAP50=0.9)
    done = hpo(here, "0", "--study", study.name)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line.rpartition(" ")[2] for line in lines[:3]] == ["equal", "different", "equal"]
    assert "1 of 3 epochs differs, the most at epoch 2: mAP50 was 0.9, is 0." in lines[3]
    assert "SIMULATED" in lines[4]


def test_a_figure_within_the_tolerance_is_close(here: Settings, engine: Engine) -> None:
    """By the objective, and as near as the user asks for."""
    study = simulated_study(engine)
    work(here, study)
    value = read_trial(engine, study, 0).epochs[3]["mAP50"]
    assert value is not None
    plant(engine, 3, mAP50=value + 0.005)
    assert again(here, engine, study).verdict is Sameness.CLOSE
    assert again(here, engine, study, tolerance=0.004).verdict is Sameness.DIFFERENT


def test_another_seed_does_not_pass_for_the_same(here: Settings, engine: Engine) -> None:
    """The comparison notices a training that is not the trial's, and lost weights do not end it."""
    study = simulated_study(engine)
    work(here, study)
    recorded = replace(read_trial(engine, study, 0), seed=7)
    found = reproduce(here, recorded, watch=lambda _: None)
    assert found.verdict is not Sameness.EQUAL
    assert found.weights is not None
    assert (found.weights["equal"], found.weights["note"]) == (False, "")
    (stored,) = Path(here.artifacts).rglob(found.weights["recorded"])
    stored.unlink()
    found = reproduce(here, recorded, watch=lambda _: None)
    assert found.weights is not None
    assert "is not in " in found.weights["note"]


def test_only_the_first_epochs_where_that_is_asked(here: Settings, engine: Engine) -> None:
    """What comes later is neither trained nor judged."""
    study = simulated_study(engine)
    work(here, study)
    plant(engine, 3, mAP50=0.9)
    found = again(here, engine, study, until=2)
    assert [one.number for one in found.epochs] == [1, 2]
    assert found.verdict is Sameness.EQUAL
    assert found.weights is None
    assert again(here, engine, study, until=9).verdict is Sameness.DIFFERENT


# Pruned, failed, of another kind


def test_a_pruned_trial_is_compared_up_to_its_last_epoch(here: Settings, engine: Engine) -> None:
    """On the schedule of a whole training, whose rest is not trained."""
    study = simulated_study(engine, trials=10, epochs=9, pruner=HYPERBAND)
    work(here, study, trials=10)
    with engine.connect() as connection:
        pruned = [row for row in trial_rows(connection, study) if row.state == "pruned"]
    row = pruned[-1]
    assert row.epochs < 9
    found = again(here, engine, study, number=row.number)
    assert [one.number for one in found.epochs] == list(range(1, row.epochs + 1))
    assert found.verdict is Sameness.EQUAL
    assert found.weights is not None
    assert found.weights["equal"]
    assert found.sentence().startswith(f"trial {row.number} (pruned) is reproduced: ")


@pytest.mark.parametrize("how", ["fail_at", "nan_at", "crash_at"])
def test_a_failed_trial_fails_again(here: Settings, engine: Engine, how: str) -> None:
    """It says how it failed and that it fails again, after as many equal epochs."""
    study = simulated_study(engine, train={"epoch_s": 0.01, how: 3})
    work(here, study)
    found = again(here, engine, study)
    assert found.failure is not None
    assert found.failure_now is not None
    assert found.failure_now.reason == found.failure.reason
    assert [one.sameness for one in found.epochs] == [Sameness.EQUAL] * 2
    assert found.verdict is Sameness.EQUAL
    assert "failed after epoch 2" in found.sentence()
    assert "fails again in the same way" in found.sentence()


@pytest.mark.promotion
def test_a_failure_that_does_not_come_again_is_said(here: Settings, engine: Engine) -> None:
    """A full memory was the machine's: the training ends where it goes past that."""
    study = simulated_study(engine, epochs=6)
    work(here, study)
    change(engine, "delete from hpo.epoch where epoch > 2")
    change(engine, "update trials set state = 'FAIL'")
    change(engine, "update hpo.lease set told_state = 'FAIL', reason = 'out_of_memory: killed'")
    found = again(here, engine, study)
    assert found.verdict is Sameness.DIFFERENT
    assert [one.number for one in found.epochs] == [1, 2]
    assert "(out_of_memory: killed) and does not fail there again" in found.sentence()


def test_a_trial_whose_epochs_were_searched(here: Settings, engine: Engine, tmp_path: Path) -> None:
    """It is as long as it was, and gets the fixed parameters that Optuna does not store."""
    file = tmp_path / "space.yaml"
    file.write_text(
        "name: lengths\ndescription: d\ntrainer: simulated\nparameters:\n"
        "  x: {type: float, low: 0.1, high: 0.9}\n  epochs: {type: int, low: 2, high: 5}\n"
        "  depth: {type: fixed, value: 5}\n  kind: {type: fixed, value: b}\n"
    )
    spec = simulated_spec(space=load_space(str(file)))
    spec = replace(spec, budget=Budget(1, None, None))
    study, _ = store_study(engine, spec, fingerprint=None, code_version="simulated 1")
    work(here, study)
    recorded = read_trial(engine, study, 0)
    assert (recorded.params["depth"], recorded.params["kind"]) == (5, "b")
    assert recorded.length == recorded.params["epochs"] == recorded.last
    assert again(here, engine, study).verdict is Sameness.EQUAL


def test_a_final_is_trained_with_its_own_seed(here: Settings, engine: Engine) -> None:
    """One that only evaluated has trained nothing: it names the trial that did."""
    promotion = Promotion(model="simulated-test", alias="champion", finalists=1, seeds=2)
    study = simulated_study(engine, trials=1, promotion=promotion)
    work(here, study)
    finals = with_finals(engine, study, 0)
    work(here, finals, trials=2)
    recorded = read_trial(engine, finals, 1)
    assert recorded.seed == study.spec.seed + 1
    found = reproduce(here, recorded, watch=lambda _: None)
    assert (found.verdict, len(found.epochs)) == (Sameness.EQUAL, 3)
    with pytest.raises(UsageError, match="evaluated the weights of trial 0") as caught:
        read_trial(engine, finals, 0)
    assert f"hpo reproduce 0 --study {study.name}" in caught.value.hint


def test_the_job_is_the_one_that_a_worker_makes(here: Settings, engine: Engine) -> None:
    """Whatever decides the figures is made in the same way in both places."""
    study = simulated_study(engine)
    work(here, study)
    recorded = read_trial(engine, study, 0)
    token: Any = type("Token", (), {"hex": "0" * 32})
    claim = Claim(
        trial_id=1, number=0, token=token, takeovers=0, pruning_checked_to=0, params=recorded.params
    )
    nothing: Any = None
    worker = WorkerContext(
        settings=here,
        database=nothing,
        process=nothing,
        runs=here.home,
        data=None,
        model="model",
        device="cpu",
        shutdown=nothing,
        watch=nothing,
        stall_timeout_s=None,
        slot=None,
        started=0.0,
    )
    context = StudyContext(worker=worker, study=study, claims=nothing, store=nothing)
    worked = make_job(context, claim, recorded.seed)
    own = job_of(recorded, None, "model", "cpu", worked.run_dir)
    assert own == replace(worked, checkpoint_every=0)


# Refused, interrupted


def test_a_trial_that_is_not_there_is_refused(here: Settings, engine: Engine) -> None:
    """With what there is; so is one that has not ended."""
    study = simulated_study(engine, baselines=({"x": 0.5, "y": 0.1, "kind": "a"},))
    done = hpo(here, "7", "--study", study.name)
    assert done.returncode == 2
    assert "has no trial 7: it has 1, from 0 on" in done.stderr
    with pytest.raises(UsageError, match="trial 0 is waiting; only an ended one"):
        read_trial(engine, study, 0)


def test_an_interrupted_reproduction_leaves_nothing_behind(here: Settings, engine: Engine) -> None:
    """Ctrl-C: exit code 130, no run folder, no training process."""
    study = simulated_study(engine, epochs=8, train={"epoch_s": 0.2})
    work(here, study)
    rows = everything(engine)
    log = here.home.parent / "said.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [HPO, "reproduce", "0", "--study", study.name],
            env=environment(here) | {"PYTHONUNBUFFERED": "1"}, cwd=here.home.parent,
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        wait_until(lambda: b"epoch 1/8" in log.read_bytes(), "its first epoch")
        children = [child.pid for child in psutil.Process(process.pid).children()]
        assert children
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, log.read_text()
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not any(map(is_running, children)), "the training process is gone")
    assert files(here.home / "runs") == [str(here.home / "runs" / ".lock")]
    assert everything(engine) == rows


# A real training


def test_a_real_training_is_reproduced_to_the_bit(
    here: Settings, engine: Engine, tmp_path: Path
) -> None:
    """Every figure and every stored number of the weights; other data are refused with exit 2."""
    data = make_images(tmp_path / "set", count=8)
    spec = simulated_spec(
        study="pictures", trainer="yolo", model="yolov8n.yaml", data=str(data), epochs=2,
        space=load_space("yolov8n-quick"), sampler=Choice("random", {}), trials=1, train=TRAIN,
    )  # fmt: skip
    mark = fingerprint(data, home=here.home)
    study, _ = store_study(engine, spec, fingerprint=mark, code_version=code_version())
    work(here, study)
    recorded = read_trial(engine, study, 0)
    assert recorded.epochs[1]["train/box_loss"] != recorded.epochs[2]["train/box_loss"]
    found = again(here, engine, study)
    assert found.verdict is Sameness.EQUAL, found.sentence()
    assert found.sentence() == "trial 0 is reproduced: all 2 epochs are equal in every metric"
    assert found.weights is not None
    assert found.weights["arrays"], found.weights
    assert (found.arguments, found.environment) == ([], [])
    (tmp_path / "set" / "labels" / "val" / "0.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    with pytest.raises(UsageError, match="was created with " + mark[:12]) as caught:
        again(here, engine, study)
    assert caught.value.exit_code == 2

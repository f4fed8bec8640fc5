"""Train a recorded trial again and compare, leaving no trace.

Neither the study nor MLflow nor the store hears of it: the training has a run folder of its own,
which is removed. It must do as `workers.trial_runner` does, without the lease.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from hpo.errors import HpoError, MismatchError, StoreError, TrialError, UsageError, WeightsError
from hpo.host.environment import UNSAID, differences, this_machine
from hpo.storage.artifacts.opening import open_store
from hpo.storage.artifacts.store import sha256_of
from hpo.storage.postgres.engine import connect
from hpo.studies.finals import final_of_number
from hpo.studies.model_file import model_here
from hpo.studies.preflight import require_matching_environment
from hpo.studies.trials import trial_details, trial_rows
from hpo.trainer import Directive, Job, load_trainer
from workers.device import choose_device, visible_gpus
from workers.reproduce.report import ComparedEpoch, Failure, Reproduction, compare
from workers.training_process.client import TrainingProcess
from workers.workspace import own_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from hpo.settings import Settings
    from hpo.studies.store import Study
    from hpo.trainer import Epoch, Result

T = TypeVar("T")

TOLERANCE = 0.01
EFFECTIVE = "effective.json"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A trial that ended, as PostgreSQL has it.

    Attributes:
        study: its study.
        number: within the study.
        state: `complete`, `pruned` or `failed`.
        params: every active parameter, fixed ones included.
        seed: of its training.
        epochs: number -> every metric; null stands for NaN.
        reason: of a failure, `reason: message`.
        files: name -> sha256 of what was kept of it.
        attempts: `worker` and `environment` of each, the last one at the end.
        device: what the last one trained on; "" where that is not known.
    """

    study: Study
    number: int
    state: str
    params: dict[str, Any]
    seed: int
    epochs: dict[int, dict[str, float | None]]
    reason: str
    files: dict[str, str]
    attempts: list[dict[str, Any]]
    device: str

    @property
    def last(self) -> int:
        """The last recorded epoch; 0 before the first."""
        return max(self.epochs, default=0)

    @property
    def length(self) -> int:
        """Epochs of the whole training."""
        return self.study.spec.budget.epochs or int(self.params["epochs"])

    @property
    def machine(self) -> dict[str, Any]:
        """Where its last attempt ran, as far as that was recorded."""
        found = self.attempts[-1]["environment"] if self.attempts else None
        return dict(found or {"trainer": self.study.code_version})


def read_trial(engine: Engine, study: Study, number: int) -> Recorded:
    """The trial of that number.

    Raises:
        UsageError: there is none, it has not ended, or it trained nothing.
    """
    with engine.connect() as connection:
        try:
            details = trial_details(connection, study, number)
        except UsageError as error:
            count = len(trial_rows(connection, study))
            raise UsageError(f"{error}: it has {count}, from 0 on", hint=error.hint) from None
        seed = _seed(connection, study, number)
    if details["state"] in ("running", "waiting"):
        raise UsageError(
            f"trial {number} is {details['state']}; only an ended one can be reproduced",
            hint=f"`hpo show {number} --study {study.name}` shows where it stands.",
        )
    epochs = {row.pop("epoch"): row for row in details["history"]}
    for row in epochs.values():
        del row["at"]
    return Recorded(
        study=study,
        number=number,
        state=details["state"],
        params=study.spec.space.with_fixed(details["params"]),
        seed=seed,
        epochs=epochs,
        reason=details["reason"] or "",
        files={file["name"]: file["sha256"] for file in details["files"]},
        attempts=[
            {key: row[key] for key in ("worker", "environment")} for row in details["attempts"]
        ],
        device=details["attributes"].get("device") or "",
    )


def _seed(connection: Connection, study: Study, number: int) -> int:
    if study.parent_id is None:
        return study.spec.seed
    row = final_of_number(connection, study, number)
    if row is None:
        raise UsageError(
            f"trial {number} of '{study.name}' failed and was tried again as another one",
            hint=f"`hpo trials --study {study.name}` shows the trial in its place.",
        )
    if not row.trained:
        raise UsageError(
            f"trial {number} of '{study.name}' trained nothing: it evaluated the weights of trial "
            f"{row.of_number} of '{row.parent}'",
            hint=f"`hpo reproduce {row.of_number} --study {row.parent}` trains that one again.",
        )
    return int(row.seed)


def job_of(recorded: Recorded, data: Path | None, model: str, device: str, run_dir: Path) -> Job:
    """The training that the trial was; no checkpoint is made, which changes no figure."""
    spec = recorded.study.spec
    return Job(
        trial=recorded.number,
        model=model,
        params=recorded.params,
        train=spec.train,
        epochs=recorded.length,
        seed=recorded.seed,
        metric=spec.objective.metric,
        direction=spec.objective.direction,
        data=data,
        device=device,
        run_dir=run_dir,
        checkpoint_every=0,
        model_sha256=recorded.study.model_sha256,
    )


def reproduce(
    settings: Settings,
    recorded: Recorded,
    *,
    watch: Callable[[ComparedEpoch], None],
    device: str = "auto",
    tolerance: float = TOLERANCE,
    until: int | None = None,
    stall_timeout_s: float | None = None,
) -> Reproduction:
    """Train it again and compare; interrupted, it leaves nothing behind.

    Args:
        settings: of this machine.
        recorded: the trial.
        watch: is told each compared epoch.
        device: auto takes the kind that the trial was trained on, where this machine has one.
        tolerance: largest difference of the objective that counts as close.
        until: the last epoch to train; None: as far as the trial came.
        stall_timeout_s: longest silence of the training; None for no limit.

    Raises:
        UsageError: this machine has not the study's data.
        HpoError: this machine cannot train it.
    """
    if not settings.home.is_dir():
        raise UsageError(
            f"there is no folder {settings.home}",
            hint="The training runs there: set HPO_HOME, or work in the project's folder.",
        )
    data = _comparable(lambda: _same_data(recorded.study, settings))
    device = choose_device(_kind_of(recorded) if device == "auto" else device)
    borrowed = _borrowed(recorded.machine)
    replay = _Replay(recorded, tolerance, until, watch)
    trainer = recorded.study.spec.trainer
    with (
        own_folder(settings.home / "runs") as runs,
        TrainingProcess(trainer, settings.home / "logs", borrowed, scratch=runs) as process,
    ):
        model = _comparable(
            lambda: model_here(recorded.study, open_store(settings), runs / "start")
        )
        job = job_of(recorded, data, model, device, runs / "reproduced")
        job.run_dir.mkdir()
        replay.train(process, job, stall_timeout_s)
        weights, arguments, notes = replay.compare_files(settings, runs)
    version = load_trainer(trainer).describe().code_version
    now = this_machine(device, version, {**os.environ, **borrowed})
    if borrowed:
        taken = ", ".join(f"{name}={value}" for name, value in borrowed.items())
        notes.append(f"set for this training as it was recorded: {taken}")
    return Reproduction(
        study=recorded.study.name,
        number=recorded.number,
        state=recorded.state,
        metric=job.metric,
        tolerance=tolerance,
        epochs=tuple(replay.epochs),
        failure=Failure(recorded.reason, recorded.last) if recorded.state == "failed" else None,
        failure_now=replay.failure,
        until=replay.until,
        weights=weights,
        arguments=arguments,
        environment=differences(recorded.machine, now),
        notes=[*_where(recorded), *notes],
        machines={"recorded": recorded.machine, "now": now},
    )


def _same_data(study: Study, settings: Settings) -> Path | None:
    """The dataset here; another version of the trainer's code is no hindrance, but a difference."""
    version = load_trainer(study.spec.trainer).describe().code_version
    engine = connect(settings)  # for what it says of pushed datasets
    try:
        return require_matching_environment(replace(study, code_version=version), settings, engine)
    finally:
        engine.dispose()


def _comparable(look: Callable[[], T]) -> T:
    """What `look` finds; exit code 1 says that a training was compared and is not the same."""
    try:
        return look()
    except (MismatchError, WeightsError) as error:
        raise UsageError(str(error), hint=error.hint) from error


def _kind_of(recorded: Recorded) -> str:
    kind = str(recorded.machine.get("device") or recorded.device).partition(":")[0]
    return kind if kind == "cpu" or (kind == "cuda" and visible_gpus()) else "auto"


def _borrowed(machine: Mapping[str, Any]) -> dict[str, str]:
    """Recorded variables that nobody set here: threads change figures, and can be had the same."""
    recorded: Mapping[str, str] = machine.get("variables") or {}
    return {
        name: value
        for name, value in recorded.items()
        if name not in os.environ and value != UNSAID
    }


def _where(recorded: Recorded) -> list[str]:
    """What to know of the machines that the trial ran on."""
    attempts = recorded.attempts
    notes = []
    if attempts and not attempts[-1]["environment"]:
        notes.append("where the trial ran was not recorded: the worker's version did not do that")
    hosts = {str(attempt["worker"]).rpartition(":")[0] for attempt in attempts}
    if len(hosts) > 1:
        notes.append(
            f"its {len(attempts)} attempts ran on {len(hosts)} machines, {', '.join(sorted(hosts))}"
            "; this one is compared with the last"
        )
    for number, attempt in enumerate(attempts[:-1], 1):
        if attempt["environment"]:
            lines = differences(attempt["environment"], recorded.machine)
            notes += [f"between its attempt {number} and the last: {line}" for line in lines]
    return notes


class _Replay:
    """One training of a recorded trial, and what is seen of it.

    Attributes:
        epochs: compared so far.
        failure: how it failed; None when it did not.
        until: the last epoch that was asked for; None when the trial did not come further.
    """

    def __init__(
        self,
        recorded: Recorded,
        tolerance: float,
        until: int | None,
        watch: Callable[[ComparedEpoch], None],
    ) -> None:
        self.epochs: list[ComparedEpoch] = []
        self.failure: Failure | None = None
        # A failed trial came further than its last recorded epoch: that is where it failed
        came = recorded.last + (recorded.state == "failed")
        self.until = until if until is not None and until < came else None
        self._recorded, self._tolerance, self._watch = recorded, tolerance, watch
        self._metric = recorded.study.spec.objective.metric
        self._trained = 0
        self._result: Result | None = None

    def train(self, process: TrainingProcess, job: Job, stall_timeout_s: float | None) -> None:
        """Train as far as the trial came."""
        recorded = self._recorded
        try:
            result = process.train(job, self._report, stall_timeout_s=stall_timeout_s)
        except TrialError as error:
            self.failure = Failure(f"{error.reason}: {error}", self._trained)
            return
        if result.best_epoch is None and self._trained >= job.epochs:
            text = f"diverged: no epoch had a finite {job.metric}"  # as TrialRunner says it
            self.failure = Failure(text, self._trained)
            return
        self._result = result
        if recorded.state != "failed" and self.until is None:
            for number in sorted(recorded.epochs):
                if number > self._trained:  # it stopped earlier by itself
                    self._see(number, None)

    def _report(self, epoch: Epoch) -> Directive:
        recorded, number = self._recorded, epoch.number
        self._trained = number
        if recorded.state == "failed" and number > recorded.last:
            return Directive.PRUNE  # it does not fail here
        self._see(number, epoch.metrics)
        # The end by itself is left to the trainer: a complete trial had it too
        done = recorded.state == "pruned" and number >= recorded.last
        if done or number == self.until or number not in recorded.epochs:
            return Directive.PRUNE
        return Directive.GO

    def _see(self, number: int, metrics: Mapping[str, float | None] | None) -> None:
        before = self._recorded.epochs.get(number)
        self.epochs.append(compare(number, before, metrics, self._metric, self._tolerance))
        self._watch(self.epochs[-1])

    def compare_files(
        self, settings: Settings, folder: Path
    ) -> tuple[dict[str, Any] | None, list[str], list[str]]:
        """(weights, differing arguments, notes); what the store does not give is a note."""
        result, recorded, notes = self._result, self._recorded, []
        if result is None or recorded.state == "failed":
            return None, [], []
        arguments: list[str] = []
        try:
            if EFFECTIVE in recorded.files:
                arguments = self._arguments(settings, result, folder)
        except (StoreError, WeightsError) as error:
            notes.append(f"the arguments that it was trained with are not compared: {error}")
        weights = None if self.until is not None else self._weights(settings, result, folder)
        return weights, arguments, notes

    def _arguments(self, settings: Settings, result: Result, folder: Path) -> list[str]:
        file = open_store(settings).fetch(self._recorded.files[EFFECTIVE], folder / EFFECTIVE)
        before = json.loads(file.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(dict(result.effective), default=str))
        return differences({"arguments": before}, {"arguments": now})

    def _weights(self, settings: Settings, result: Result, folder: Path) -> dict[str, Any] | None:
        name = next((name for name in self._recorded.files if name.startswith("weights/")), None)
        if name is None or result.weights is None:
            return None
        before, now = self._recorded.files[name], sha256_of(result.weights)
        found: dict[str, Any] = {"recorded": before, "now": now, "equal": before == now}
        found |= {"arrays": True if before == now else None, "note": ""}
        if before != now:
            try:
                stored = open_store(settings).fetch(before, folder / "recorded-weights")
                found["arrays"] = same_arrays(stored, result.weights)
            except HpoError as error:
                found["note"] = str(error)
        return found


def same_arrays(one: Path, other: Path) -> bool | None:
    """Whether two files of PyTorch store the same numbers; None where they are no such files.

    Such a file is a ZIP archive with the bytes of each tensor as a member `NAME/data/N`. Beside
    them stands what a training notes, for instance the folder of its run.
    """
    if not (zipfile.is_zipfile(one) and zipfile.is_zipfile(other)):
        return None
    with zipfile.ZipFile(one) as first, zipfile.ZipFile(other) as second:
        left, right = _members(first), _members(second)
        return left.keys() == right.keys() and all(
            first.read(left[key]) == second.read(right[key]) for key in left
        )


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    """Place below the archive's own folder -> name, of each tensor's bytes."""
    parts = {name.partition("/")[2]: name for name in archive.namelist()}
    return {place: name for place, name in parts.items() if place.startswith("data/")}

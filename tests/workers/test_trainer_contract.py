"""The Trainer protocol's promises, kept by every trainer; run in the training process.

What an evaluation gives has a contract of its own, in test_evaluation_contract.py.
"""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.trainers import SIMULATED, YOLO, measured
from support.training import Keeper, Recorder, continued

from hpo.errors import CheckpointError, TrialError, WeightsError
from hpo.trainer import Directive, Trainer, TrainSpec, load_trainer
from workers.trainer_support import draft_of, state_file
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.trainers import Kind

    from hpo.trainer import Job


class TrainerContract:
    """What any trainer promises."""

    kind: Kind
    other_metric: str
    other_train: dict[str, Any]
    state_suffix: str

    @pytest.fixture(scope="class")
    @classmethod
    def process(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingProcess]:
        with TrainingProcess(cls.kind.name, tmp_path_factory.mktemp("logs")) as process:
            yield process

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
        return cls.kind.data(tmp_path_factory.mktemp("images"))

    @pytest.fixture
    def job(self, tmp_path: Path, data: Path | None) -> Job:
        return self.kind.job(tmp_path / "run", data)

    def spec(self, job: Job, **changes: Any) -> TrainSpec:
        spec = TrainSpec(
            model=job.model,
            train=job.train,
            searched={name: (value,) for name, value in job.params.items()},
            epochs=job.epochs,
            metric=job.metric,
            direction=job.direction,
            data=job.data,
        )
        return dataclasses.replace(spec, **changes)

    def test_it_is_found_by_its_name_and_says_it(self) -> None:
        """The entry point leads to a Trainer of that name."""
        trainer = load_trainer(self.kind.name)
        assert isinstance(trainer, Trainer)
        assert trainer.describe().name == self.kind.name

    def test_every_default_is_within_its_own_bounds(self, job: Job) -> None:
        """A baseline of defaults is a sound study."""
        trainer = load_trainer(self.kind.name)
        arguments = trainer.describe().arguments
        for name in set(arguments) - {"epochs"} - set(job.train) - set(job.params):
            train = {**job.train, name: arguments[name].default}
            faults = trainer.check(self.spec(job, train=train))
            assert not [fault for fault in faults if "value" in fault], name

    def test_a_sound_study_has_no_faults(self, job: Job) -> None:
        """The job of these tests passes the check."""
        assert list(load_trainer(self.kind.name).check(self.spec(job))) == []

    def test_faults_are_all_named_at_once(self, job: Job) -> None:
        """Three wrong things give three sentences, each with its key."""
        spec = self.spec(job, train={"nonsense": 1}, searched={"rubbish": (0, 1)}, metric="luck")
        faults = load_trainer(self.kind.name).check(spec)
        for key in ("train.nonsense:", "search_space.rubbish:", "objective.metric:"):
            assert [fault for fault in faults if fault.startswith(key)], faults

    def test_epochs_are_reported_in_order_with_every_figure(
        self, process: TrainingProcess, job: Job
    ) -> None:
        """Epochs count from 1, once each, with `seconds` and every metric that is promised."""
        seen = Recorder()
        process.train(job, seen)
        promised = {*load_trainer(self.kind.name).describe().metrics, "seconds"}
        assert seen.numbers == list(range(1, job.epochs + 1))
        assert all(promised <= set(epoch.metrics) for epoch in seen.epochs)
        kinds = {type(value) for epoch in seen.epochs for value in epoch.metrics.values()}
        assert kinds <= {float, int}

    @pytest.mark.parametrize("which", ["metric", "other_metric"])
    def test_the_best_epoch_is_the_earliest_best_by_the_jobs_metric(
        self, process: TrainingProcess, job: Job, which: str
    ) -> None:
        """Best is what was reported best, the earliest on a tie, and its weights are kept."""
        metric = job.metric if which == "metric" else self.other_metric
        direction = load_trainer(self.kind.name).describe().metrics[metric]
        job = dataclasses.replace(job, metric=metric, direction=direction)
        seen = Recorder()
        result = process.train(job, seen)
        values = seen.values(metric)
        best = max(values) if direction == "maximize" else min(values)
        assert result.best_epoch == values.index(best) + 1
        assert result.weights is not None
        assert result.weights.is_relative_to(job.run_dir)
        assert result.weights.is_file()
        assert all(path.is_file() for path in result.pictures.values())

    def test_prune_ends_at_that_epoch_and_keeps_the_weights(
        self, process: TrainingProcess, job: Job
    ) -> None:
        """A pruned training reports no further epoch and returns what it has."""
        seen = Recorder(at=2, verdict=Directive.PRUNE)
        result = process.train(job, seen)
        assert seen.numbers == [1, 2]
        assert result.best_epoch in (1, 2)
        assert result.weights is not None
        assert process.evaluate(result.weights, job, "val").images > 0

    def test_stop_ends_at_that_epoch(self, process: TrainingProcess, job: Job) -> None:
        """A stopped training leaves, and the process is fit for another."""
        seen = Recorder(at=1, verdict=Directive.STOP)
        process.train(job, seen)
        assert seen.numbers == [1]
        again = Recorder(at=1, verdict=Directive.STOP)
        process.train(job, again)
        assert again.numbers == [1]

    def test_the_effective_arguments_hold_the_parameters(
        self, process: TrainingProcess, job: Job
    ) -> None:
        """What was asked for is what is recorded as used."""
        result = process.train(job, Recorder(at=1, verdict=Directive.PRUNE))
        asked = {**job.train, **job.params, "epochs": job.epochs}
        assert {name: result.effective[name] for name in asked} == asked

    def test_a_parameter_that_cannot_be_applied_fails_the_trial(
        self, process: TrainingProcess, job: Job
    ) -> None:
        """An unknown parameter is an error, never ignored."""
        with pytest.raises(TrialError, match="nonsense"):
            process.train(dataclasses.replace(job, params={"nonsense": 1}), Recorder())

    def test_epochs_searched_and_epochs_trained_must_agree(
        self, process: TrainingProcess, job: Job
    ) -> None:
        """A job whose parameter `epochs` is not its number of epochs is refused."""
        job = dataclasses.replace(job, params={**job.params, "epochs": job.epochs + 1})
        with pytest.raises(TrialError, match=r"parameter epochs=4 was not applied: effective 3"):
            process.train(job, Recorder())

    def test_the_same_seed_gives_the_same_figures(
        self, process: TrainingProcess, job: Job, tmp_path: Path
    ) -> None:
        """Two trainings with one seed agree in every figure but the time."""
        runs = []
        for name in ("first", "second"):
            seen = Recorder()
            process.train(dataclasses.replace(job, run_dir=tmp_path / name), seen)
            runs.append(
                [{**epoch.metrics, "seconds": 0.0} for epoch in seen.epochs],
            )
        assert runs[0] == runs[1]

    def test_everything_is_written_below_the_run_dir(
        self, process: TrainingProcess, job: Job, tmp_path: Path
    ) -> None:
        """A training leaves nothing beside its own folder, nor in the current one."""
        here = sorted(Path.cwd().iterdir())
        process.train(job, Recorder())
        assert [path.name for path in tmp_path.iterdir()] == [job.run_dir.name]
        new = set(Path.cwd().iterdir()) - set(here)
        assert not {path.name for path in new} & {"runs", "mlruns", "weights", "mlflow.db"}

    def test_a_continued_training_is_the_uninterrupted_one(
        self, process: TrainingProcess, job: Job, tmp_path: Path
    ) -> None:
        """From each checkpoint on: the same figures, best epoch and weights."""
        job = dataclasses.replace(job, checkpoint_every=1)
        seen = Keeper(tmp_path / "kept")
        whole = process.train(job, seen)
        assert sorted(seen.kept) == [1, 2]
        for number, checkpoint in seen.kept.items():
            again = Keeper(tmp_path / f"kept-again-{number}")
            result = process.train(continued(job, checkpoint, tmp_path / f"{number}"), again)
            assert again.numbers == list(range(number + 1, job.epochs + 1))
            assert again.figures == seen.figures[number:]
            assert result.best_epoch == whole.best_epoch
            assert result.weights is not None
            assert whole.weights is not None
            assert result.weights.name == whole.weights.name
            assert result.effective == whole.effective
            assert measured(process, result.weights, job) == measured(process, whole.weights, job)

    @pytest.mark.parametrize(("every", "due"), [(0, []), (1, [1, 2]), (2, [2]), (3, [])])
    def test_checkpoints_come_as_often_as_asked_and_change_no_figure(
        self, process: TrainingProcess, job: Job, tmp_path: Path, every: int, due: list[int]
    ) -> None:
        """Every n-th epoch has one, the last epoch never, and none costs a digit."""
        plain, seen = Keeper(tmp_path / "none"), Keeper(tmp_path / "kept")
        process.train(dataclasses.replace(job, run_dir=tmp_path / "plain"), plain)
        process.train(dataclasses.replace(job, checkpoint_every=every), seen)
        assert list(seen.kept) == due
        assert [seen.kept[number].epoch for number in due] == due
        assert seen.figures == plain.figures
        assert {epoch.warning for epoch in seen.epochs} == {""}

    def test_a_checkpoints_files_stay_as_they_were(
        self, process: TrainingProcess, job: Job, tmp_path: Path
    ) -> None:
        """They can be read while the training goes on and after its end."""
        seen = Keeper(tmp_path / "kept")
        process.train(dataclasses.replace(job, checkpoint_every=1), seen)
        for epoch in seen.epochs[:-1]:
            handed_out, copy = epoch.checkpoint, seen.kept[epoch.number]
            assert handed_out is not None
            assert handed_out.weights is not None
            assert copy.weights is not None
            assert handed_out.weights.read_bytes() == copy.weights.read_bytes()
            assert handed_out.weights.is_relative_to(job.run_dir)
            assert handed_out.state.is_relative_to(job.run_dir)
        assert len({copy.state.read_bytes() for copy in seen.kept.values()}) == 2

    @pytest.mark.parametrize("harm", ["cut", "changed", "missing", "no weights"])
    def test_a_damaged_checkpoint_is_refused(
        self, process: TrainingProcess, job: Job, tmp_path: Path, harm: str
    ) -> None:
        """CheckpointError before anything is trained, and the process is fit for the next job."""
        seen = Keeper(tmp_path / "kept", at=1, verdict=Directive.STOP)
        process.train(dataclasses.replace(job, checkpoint_every=1), seen)
        pid = process.pid
        harmed = continued(job, seen.kept[1], tmp_path / "harmed")
        assert harmed.resume is not None
        assert harmed.resume.weights is not None
        content = harmed.resume.state.read_bytes()
        half = len(content) // 2
        match harm:
            case "cut":
                harmed.resume.state.write_bytes(content[:half])
            case "changed":
                other = bytes([content[half] ^ 1])
                harmed.resume.state.write_bytes(content[:half] + other + content[half + 1 :])
            case "missing":
                harmed.resume.state.unlink()
            case "no weights":
                harmed.resume.weights.unlink()
        after = Recorder()
        with pytest.raises(CheckpointError, match="state"):
            process.train(harmed, after)
        assert after.epochs == []
        process.train(continued(job, seen.kept[1], tmp_path / "sound"), after)
        assert after.numbers == [2, 3]
        assert process.pid == pid

    def test_a_checkpoint_of_another_training_is_refused(
        self, process: TrainingProcess, job: Job, tmp_path: Path
    ) -> None:
        """Other parameters, arguments, epochs, seed, metric or number are named, was and is."""
        seen = Keeper(tmp_path / "kept", at=1, verdict=Directive.STOP)
        process.train(dataclasses.replace(job, checkpoint_every=1), seen)
        own = continued(job, seen.kept[1], tmp_path / "own")
        assert own.resume is not None
        name, value = next(iter(job.params.items()))
        others = {
            f"params.{name} is {value}, expected {value / 2}": {"params": {name: value / 2}},
            "train.": {"train": {**job.train, **self.other_train}},
            "epochs is 3, expected 4": {"epochs": 4},
            "seed is 0, expected 1": {"seed": 1},
            f"metric is 'mAP50', expected '{self.other_metric}'": {"metric": self.other_metric},
            "epoch is 1, expected 2": {"resume": dataclasses.replace(own.resume, epoch=2)},
        }
        after = Recorder()
        for words, changes in others.items():
            with pytest.raises(CheckpointError, match="is of another training") as caught:
                process.train(dataclasses.replace(own, **changes), after)
            assert words in str(caught.value)
        assert after.epochs == []

    def test_a_checkpoint_that_finds_no_room_costs_a_warning_only(
        self, process: TrainingProcess, job: Job
    ) -> None:
        """With the device full at epoch 1 the training goes on and says so; epoch 2 has one."""
        draft = draft_of(state_file(job, 1, self.state_suffix))
        draft.symlink_to("/dev/full")
        seen = Recorder()
        process.train(dataclasses.replace(job, checkpoint_every=1), seen)
        assert "No space left on device" in seen.epochs[0].warning
        assert [epoch.checkpoint is not None for epoch in seen.epochs] == [False, True, False]
        assert seen.epochs[1].warning == ""

    def test_weights_that_cannot_be_read_are_refused(
        self, process: TrainingProcess, job: Job, tmp_path: Path
    ) -> None:
        """A damaged file is a WeightsError that names it."""
        damaged = tmp_path / "damaged.pt"
        damaged.write_bytes(b"PK\x03\x04 cut in the middle")
        with pytest.raises(WeightsError, match=r"damaged\.pt"):
            process.evaluate(damaged, job, "val")

    def test_a_package_stands_alone(self, process: TrainingProcess, job: Job) -> None:
        """Its code imports nothing of this project, and every file of it is there."""
        weights = process.train(job, Recorder(at=1, verdict=Directive.PRUNE)).weights
        assert weights is not None
        package = process.package(weights, job)
        tree = ast.parse(package.code.read_text())
        imported = {
            name.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for name in node.names
        } | {
            (node.module or "").partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
        }
        assert not imported & {"hpo", "workers", "search_spaces"}
        assert all(path.is_file() for path in package.artifacts.values())
        assert package.code.is_relative_to(job.run_dir)
        columns = ["image", "x1", "y1", "x2", "y2", "class", "name", "confidence"]
        assert list(package.outputs) == columns


class TestSimulated(TrainerContract):
    """The simulated trainer."""

    kind = SIMULATED
    other_metric = "loss"
    other_train: dict[str, Any] = {"epoch_s": 0.02}  # noqa: RUF012 - read only
    state_suffix = ".json"


class TestYolo(TrainerContract):
    """YOLOv8n from scratch on 16 drawn images of 64 px."""

    kind = YOLO
    other_metric = "recall"
    other_train: dict[str, Any] = {"optimizer": "SGD"}  # noqa: RUF012 - read only
    state_suffix = ".pt"

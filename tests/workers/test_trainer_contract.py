"""The Trainer protocol's promises, kept by every trainer; run in the training process.

What an evaluation gives has a contract of its own, in test_evaluation_contract.py.
"""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.training import SIMULATED, YOLO, Keeper, Recorder, continued, measured

from hpo.errors import CheckpointError, TrialError, WeightsError
from hpo.trainer import Directive, Trainer, TrainSpec, load_trainer
from workers.trainer_support import draft_of, state_file
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.training import Kind

    from hpo.trainer import Job, Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """A training that went to its end, shared by the tests of a class: nobody changes it.

    Attributes:
        job: what was trained, in a folder of its own.
        seen: its epochs, with a copy of each checkpoint.
        result: what it returned.
        beside: names in the folder of its run_dir when it had ended.
        left_here: names that are new in the current folder.
    """

    job: Job
    seen: Keeper
    result: Result
    beside: list[str]
    left_here: set[str]


def trained(process: TrainingProcess, job: Job, kept: Path) -> Training:
    """Train to the end."""
    here = {path.name for path in Path.cwd().iterdir()}
    seen = Keeper(kept)
    result = process.train(job, seen)
    return Training(
        job=job,
        seen=seen,
        result=result,
        beside=[path.name for path in job.run_dir.parent.iterdir()],
        left_here={path.name for path in Path.cwd().iterdir()} - here,
    )


class TrainerContract:
    """What any trainer promises.

    Attributes:
        other_metric: one that the job's is not.
        other_train: arguments that make it another training.
        state_suffix: of a checkpoint's state.
    """

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

    @pytest.fixture(scope="class")
    @classmethod
    def whole(
        cls,
        process: TrainingProcess,
        data: Path | None,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Training:
        """Three epochs with a checkpoint after each that may have one."""
        folder = tmp_path_factory.mktemp("whole")
        job = cls.kind.job(folder / "run", data, checkpoint_every=1)
        return trained(process, job, tmp_path_factory.mktemp("kept"))

    @pytest.fixture(scope="class")
    @classmethod
    def plain(
        cls,
        process: TrainingProcess,
        data: Path | None,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Training:
        """The same without a checkpoint."""
        job = cls.kind.job(tmp_path_factory.mktemp("plain") / "run", data)
        return trained(process, job, tmp_path_factory.mktemp("none"))

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

    def test_epochs_are_reported_in_order_with_every_figure(self, whole: Training) -> None:
        """Epochs count from 1, once each, with `seconds` and every metric that is promised."""
        promised = {*load_trainer(self.kind.name).describe().metrics, "seconds"}
        assert whole.seen.numbers == list(range(1, whole.job.epochs + 1))
        assert all(promised <= set(epoch.metrics) for epoch in whole.seen.epochs)
        kinds = {type(value) for epoch in whole.seen.epochs for value in epoch.metrics.values()}
        assert kinds <= {float, int}

    def assert_best(self, training: Training) -> None:
        """Best is what was reported best, the earliest on a tie, and its weights are kept."""
        job, result, values = training.job, training.result, training.seen.values
        reported = values(job.metric)
        best = max(reported) if job.direction == "maximize" else min(reported)
        assert result.best_epoch == reported.index(best) + 1
        assert result.weights is not None
        assert result.weights.is_relative_to(job.run_dir)
        assert result.weights.is_file()
        assert all(path.is_file() for path in result.pictures.values())

    def test_the_best_epoch_is_the_earliest_best_by_the_jobs_metric(self, whole: Training) -> None:
        """By the metric of the job that all these tests share."""
        self.assert_best(whole)

    def test_the_best_epoch_follows_another_metric(
        self, process: TrainingProcess, job: Job, tmp_path: Path
    ) -> None:
        """Its direction may be the other one."""
        direction = load_trainer(self.kind.name).describe().metrics[self.other_metric]
        job = dataclasses.replace(job, metric=self.other_metric, direction=direction)
        self.assert_best(trained(process, job, tmp_path / "kept"))

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

    def test_the_effective_arguments_hold_the_parameters(self, whole: Training) -> None:
        """What was asked for is what is recorded as used."""
        asked = {**whole.job.train, **whole.job.params, "epochs": whole.job.epochs}
        assert {name: whole.result.effective[name] for name in asked} == asked

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

    def test_the_same_seed_gives_the_same_figures(self, whole: Training, plain: Training) -> None:
        """Two trainings with one seed agree in every figure but the time."""
        assert whole.job.seed == plain.job.seed
        assert whole.seen.figures == plain.seen.figures

    def test_everything_is_written_below_the_run_dir(self, whole: Training) -> None:
        """A training leaves nothing beside its own folder, nor in the current one."""
        assert whole.beside == [whole.job.run_dir.name]
        assert not whole.left_here & {"runs", "mlruns", "weights", "mlflow.db"}

    def test_a_continued_training_is_the_uninterrupted_one(
        self, process: TrainingProcess, whole: Training, job: Job, tmp_path: Path
    ) -> None:
        """From each checkpoint on: the same figures, best epoch and weights."""
        seen, expected = whole.seen, whole.result
        assert sorted(seen.kept) == [1, 2]
        assert expected.weights is not None
        evaluated = measured(process, expected.weights, job)
        for number, checkpoint in seen.kept.items():
            again = Keeper(tmp_path / f"kept-again-{number}")
            result = process.train(continued(whole.job, checkpoint, tmp_path / f"{number}"), again)
            assert again.numbers == list(range(number + 1, job.epochs + 1))
            assert again.figures == seen.figures[number:]
            assert result.best_epoch == expected.best_epoch
            assert result.weights is not None
            assert result.weights.name == expected.weights.name
            assert result.effective == expected.effective
            assert measured(process, result.weights, job) == evaluated

    def test_checkpoints_come_after_every_epoch_but_the_last(
        self, whole: Training, plain: Training
    ) -> None:
        """None where none is asked for; no checkpoint costs a digit."""
        assert list(plain.seen.kept) == []
        assert [whole.seen.kept[number].epoch for number in whole.seen.kept] == [1, 2]
        assert whole.seen.figures == plain.seen.figures
        assert {epoch.warning for epoch in (*whole.seen.epochs, *plain.seen.epochs)} == {""}

    def test_checkpoints_come_as_often_as_asked(
        self, process: TrainingProcess, job: Job, plain: Training, tmp_path: Path
    ) -> None:
        """After every second epoch there is one after the second."""
        often = dataclasses.replace(job, checkpoint_every=2)
        seen = trained(process, often, tmp_path / "kept").seen
        assert {number: one.epoch for number, one in seen.kept.items()} == {2: 2}
        assert seen.figures == plain.seen.figures
        assert {epoch.warning for epoch in seen.epochs} == {""}

    def test_a_checkpoints_files_stay_as_they_were(self, whole: Training) -> None:
        """They can be read while the training goes on and after its end."""
        for epoch in whole.seen.epochs[:-1]:
            handed_out, copy = epoch.checkpoint, whole.seen.kept[epoch.number]
            assert handed_out is not None
            assert handed_out.weights is not None
            assert copy.weights is not None
            assert handed_out.weights.read_bytes() == copy.weights.read_bytes()
            assert handed_out.weights.is_relative_to(whole.job.run_dir)
            assert handed_out.state.is_relative_to(whole.job.run_dir)
        assert len({copy.state.read_bytes() for copy in whole.seen.kept.values()}) == 2

    @pytest.mark.parametrize("harm", ["cut", "changed", "missing", "no weights"])
    def test_a_damaged_checkpoint_is_refused(
        self, process: TrainingProcess, whole: Training, tmp_path: Path, harm: str
    ) -> None:
        """CheckpointError before anything is trained, in a process that stays."""
        harmed = continued(whole.job, whole.seen.kept[1], tmp_path / "harmed")
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
        process.warm()
        after, pid = Recorder(), process.pid
        with pytest.raises(CheckpointError, match="state"):
            process.train(harmed, after)
        assert after.epochs == []
        assert process.pid == pid

    def test_after_a_damaged_checkpoint_the_process_is_fit_for_the_next_job(
        self, process: TrainingProcess, whole: Training, tmp_path: Path
    ) -> None:
        """The same checkpoint, undamaged, is continued from."""
        harmed = continued(whole.job, whole.seen.kept[1], tmp_path / "harmed")
        assert harmed.resume is not None
        harmed.resume.state.write_bytes(b"no state")
        after = Recorder()
        with pytest.raises(CheckpointError, match="state"):
            process.train(harmed, after)
        pid = process.pid
        process.train(continued(whole.job, whole.seen.kept[1], tmp_path / "sound"), after)
        assert after.numbers == [2, 3]
        assert process.pid == pid

    def test_a_checkpoint_of_another_training_is_refused(
        self, process: TrainingProcess, whole: Training, tmp_path: Path
    ) -> None:
        """Other parameters, arguments, epochs, seed, metric or number are named, was and is."""
        job = whole.job
        own = continued(job, whole.seen.kept[1], tmp_path / "own")
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

    def test_a_package_stands_alone(
        self, process: TrainingProcess, whole: Training, job: Job
    ) -> None:
        """Its code imports nothing of this project, and every file of it is there."""
        assert whole.result.weights is not None
        package = process.package(whole.result.weights, job)
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

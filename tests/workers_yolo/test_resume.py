"""A YOLO trial that is killed and continued is the trial that nobody killed, figure by figure."""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from support.training import Keeper, Recorder, continued, in_torch, make_images, make_job

from hpo.errors import CheckpointError, TrialError
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.training import Trained

    from hpo.trainer import Directive, Epoch, Job, Result

# What makes it hard: 6 batches an epoch and a step after every 4, the last batch smaller, warm-up
# over two epochs, images that a mosaic picks from those seen lately, mosaics that end in mid-run
HARD: dict[str, Any] = {
    "imgsz": 64,
    "batch": 4,
    "nbs": 16,
    "optimizer": "AdamW",
    "warmup_epochs": 2.0,
    "close_mosaic": 2,
    "mixup": 0.3,
    "cache": False,
    "plots": False,
}
OTHER: dict[str, Any] = {"optimizer": "SGD", "cache": "ram", "multi_scale": 0.5, "nbs": 20}
EPOCHS = 4


@dataclasses.dataclass
class Lab:
    """A process, a dataset of 22 images, and weights that find something.

    Attributes:
        base: weights after 30 epochs.
    """

    process: TrainingProcess
    data: Path
    base: Path

    def job(self, run_dir: Path, **changes: Any) -> Job:
        fields: dict[str, Any] = {"model": str(self.base), "train": HARD, "params": {"lr0": 0.001}}
        fields |= {"epochs": EPOCHS, "data": self.data, "checkpoint_every": 1}
        return make_job(run_dir, **{**fields, **changes})

    def train_until_killed(self, job: Job, seen: Keeper, at: int) -> None:
        """Train; kill the process (SIGKILL) when it has reported epoch `at`."""

        def report(epoch: Epoch) -> Directive:
            verdict = seen(epoch)
            if epoch.number == at:
                assert self.process.pid is not None
                os.kill(self.process.pid, signal.SIGKILL)
            return verdict

        with pytest.raises(TrialError, match="SIGKILL"):
            self.process.train(job, report)


@pytest.fixture(scope="module")
def lab(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("lab")
    data = make_images(root / "images", count=22)
    with TrainingProcess("yolo", root / "logs") as process:
        yield Lab(process, data, trained.weights)


@pytest.fixture(scope="module")
def uninterrupted(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Keeper]:
    """The hard training as it is when nothing happens."""
    root = tmp_path_factory.mktemp("uninterrupted")
    seen = Keeper(root / "kept")
    return lab.process.train(lab.job(root / "run"), seen), seen


def assert_same_weights(one: Result, other: Result) -> None:
    """Both agree in every tensor."""
    code = """
    a, b = (torch.load(f, weights_only=False)["model"].state_dict() for f in sys.argv[1:])
    print(json.dumps(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)))
    """
    assert in_torch(code, one.weights, other.weights) is True


@pytest.mark.parametrize(
    "at", [pytest.param(1, marks=pytest.mark.e2e), 2, pytest.param(3, marks=pytest.mark.e2e)]
)
def test_killed_after_each_epoch_every_later_figure_is_the_same(
    lab: Lab, uninterrupted: tuple[Result, Keeper], tmp_path: Path, at: int
) -> None:
    """SIGKILL, a fresh process, another folder: figures, best epoch and weights are equal."""
    whole, seen = uninterrupted
    assert len({one["mAP50"] for one in seen.figures}) == EPOCHS, "the figures must tell epochs"
    before, after = Keeper(tmp_path / "kept"), Keeper(tmp_path / "kept-after")
    lab.train_until_killed(lab.job(tmp_path / "killed"), before, at)
    job = continued(lab.job(tmp_path), before.kept[at], tmp_path / "continued")
    result = lab.process.train(job, after)
    assert after.numbers == list(range(at + 1, EPOCHS + 1))
    for told, expected in zip(before.figures + after.figures, seen.figures, strict=True):
        assert told == pytest.approx(expected, abs=1e-6)
    assert result.best_epoch == whole.best_epoch
    assert result.effective == whole.effective
    assert_same_weights(result, whole)


@pytest.mark.faults
def test_killed_twice_with_other_settings_it_is_still_the_same(lab: Lab, tmp_path: Path) -> None:
    """SGD with its momentum's warm-up, all images in memory, sizes that change, 2 checkpoints."""
    train = {**HARD, **OTHER}
    whole = Keeper(tmp_path / "whole-kept")
    expected = lab.process.train(lab.job(tmp_path / "whole", train=train), whole)
    first, second, third = (Keeper(tmp_path / f"kept-{life}") for life in range(3))
    job = lab.job(tmp_path / "first", train=train)
    lab.train_until_killed(job, first, at=1)
    # It got to its third epoch, of which no checkpoint was stored: that epoch is trained again
    job = continued(job, first.kept[1], tmp_path / "second")
    lab.train_until_killed(job, second, at=3)
    job = continued(job, second.kept[2], tmp_path / "third")
    result = lab.process.train(job, third)
    assert third.numbers == [3, 4]
    told = [*first.figures, second.figures[0], *third.figures]
    assert second.figures[1] == third.figures[0]
    for one, other in zip(told, whole.figures, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert result.best_epoch == expected.best_epoch
    assert_same_weights(result, expected)


def test_a_stop_by_patience_comes_at_the_same_epoch(lab: Lab, tmp_path: Path) -> None:
    """The stopper goes on counting, and the epoch that it ends with has no checkpoint."""
    train = {**HARD, "patience": 2, "freeze": 22}  # little left to learn
    job = lab.job(tmp_path / "whole", train=train, params={"lr0": 0.0}, epochs=20)
    whole = Keeper(tmp_path / "kept")
    expected = lab.process.train(job, whole)
    last = whole.numbers[-1]
    assert last < 20, "it must stop early"
    assert last not in whole.kept
    after = Keeper(tmp_path / "kept-after")
    job = continued(job, whole.kept[last - 1], tmp_path / "continued")
    assert lab.process.train(job, after).best_epoch == expected.best_epoch
    assert after.figures == whole.figures[last - 1 :]


def test_the_pictures_show_the_epochs_of_all_lives(
    lab: Lab, uninterrupted: tuple[Result, Keeper], tmp_path: Path
) -> None:
    """results.png is drawn of every epoch, those before the kill too."""
    whole, seen = uninterrupted
    job = continued(lab.job(tmp_path), seen.kept[3], tmp_path / "run")
    result = lab.process.train(job, Recorder())
    rows = [line.split(",")[0] for line in (job.run_dir / "results.csv").read_text().splitlines()]
    assert rows == ["epoch", "1", "2", "3", "4"]
    assert set(result.pictures) == set(whole.pictures)


def test_another_dataset_is_refused(
    lab: Lab, uninterrupted: tuple[Result, Keeper], tmp_path: Path
) -> None:
    """A checkpoint of 22 images is not continued with 16."""
    other = make_images(tmp_path / "images", count=16)
    job = continued(lab.job(tmp_path, data=other), uninterrupted[1].kept[2], tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"of 22 images .*expected 16 images"):
        lab.process.train(job, Recorder())


@pytest.mark.faults
def test_another_number_of_threads_is_said(
    lab: Lab, uninterrupted: tuple[Result, Keeper], tmp_path: Path
) -> None:
    """The last digits may then differ: the log tells it, and the training goes on."""
    job = continued(lab.job(tmp_path), uninterrupted[1].kept[3], tmp_path / "run")
    seen = Recorder()
    with TrainingProcess("yolo", tmp_path / "logs", {"OMP_NUM_THREADS": "2"}) as process:
        process.train(job, seen)
        assert process.log is not None
        assert "figures may differ" in process.log.read_text()
        assert "threads was 1, is 2" in process.log.read_text()
    assert seen.numbers == [4]


def test_a_state_from_a_cpu_is_laid_out_as_cuda_wants_it() -> None:
    """Its kernels read an optimizer's tensors with the strides of the parameter."""
    code = """
    from workers.yolo.checkpoint import _lay_out_as_parameters
    conv = torch.nn.Conv2d(4, 8, 3)
    adam = torch.optim.AdamW(conv.parameters())
    conv(torch.rand(1, 4, 5, 5)).sum().backward()
    adam.step()
    before = {name: value.clone() for name, value in adam.state[conv.weight].items()}
    conv.to(memory_format=torch.channels_last)
    _lay_out_as_parameters(adam)
    after = adam.state[conv.weight]
    print(json.dumps([
        all(torch.equal(after[name], before[name]) for name in before),
        [after[name].stride() == conv.weight.stride() for name in ("exp_avg", "exp_avg_sq")],
        before["exp_avg"].stride() == conv.weight.stride(),
    ]))
    """
    assert in_torch(code) == [True, [True, True], False]

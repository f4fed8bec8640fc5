"""What comes from elsewhere is data: weights, checkpoints, label caches and arrays run no code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from optuna.trial import create_trial
from support.studies import simulated_spec
from support.training import TRAIN, make_images, make_job

from hpo.errors import CheckpointError, MismatchError, TrialError, WeightsError
from hpo.evaluation.detections import Detections
from hpo.storage.artifacts.folder import FolderStore
from hpo.studies.samplers import make_sampler
from hpo.studies.spec import Choice
from hpo.trainer import Checkpoint, Directive
from workers.training_process.client import TrainingProcess
from workers.yolo.data import load_labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpo.trainer import Job


def torch_save(content: object, file: Path) -> None:
    """`torch.save`; torch is loaded where it is needed and nowhere else."""
    import torch

    torch.save(content, file)


class Touch:
    """Pickled, it is code: whoever unpickles it makes a file."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._trace,))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """The file that is there only when code ran; a plain unpickling is seen to make it."""
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Touch(proof)))  # noqa: S301 - our own bytes
    assert proof.exists()
    return tmp_path / "code-ran"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingProcess]:
    """A training process with Ultralytics in it, as a worker has."""
    folder = tmp_path_factory.mktemp("process")
    with TrainingProcess("yolo", folder, scratch=folder) as one:
        yield one


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset's YAML."""
    return make_images(tmp_path_factory.mktemp("images"))


def yolo_job(folder: Path, data: Path, **changes: Any) -> Job:
    fields = {"model": "yolov8n.yaml", "train": TRAIN, "params": {"lr0": 0.004}, "data": data}
    return make_job(folder / "run", **{**fields, "epochs": 1, **changes})


def go_on(_: object) -> Directive:
    return Directive.GO


@pytest.mark.cluster
def test_weights_that_hold_code_are_refused_before_it_runs(
    trace: Path, tmp_path: Path, images: Path, process: TrainingProcess
) -> None:
    """A study's `model: some.pt` and a champion's weights, both well-formed pickles with code."""
    planted = tmp_path / "planted.pt"
    torch_save({"model": Touch(trace), "train_args": {}}, planted)
    with pytest.raises(TrialError, match="cannot be loaded as weights"):
        process.train(yolo_job(tmp_path, images, model=str(planted)), go_on)
    with pytest.raises(WeightsError, match="cannot be loaded as weights"):
        process.evaluate(planted, yolo_job(tmp_path, images), "val")
    assert not trace.exists()


@pytest.mark.cluster
def test_a_checkpoint_that_holds_code_is_refused_before_it_runs(
    trace: Path, tmp_path: Path, images: Path, process: TrainingProcess
) -> None:
    """Even one whose sha256 somebody put into PostgreSQL too."""
    state = tmp_path / "state"
    torch_save({"identity": {}, "epoch": 1, "best_epoch": 1, "model": Touch(trace)}, state)
    resume = Checkpoint(1, state, None, None)
    with pytest.raises(CheckpointError, match="cannot be continued from"):
        process.train(yolo_job(tmp_path, images, resume=resume), go_on)
    assert not trace.exists()


@pytest.mark.cluster
def test_an_architecture_cannot_run_code(
    trace: Path, tmp_path: Path, images: Path, process: TrainingProcess
) -> None:
    """`activation:` of a model's YAML is Python to Ultralytics; here it only names a layer."""
    import ultralytics

    source = Path(ultralytics.__file__).parent / "cfg" / "models" / "v8" / "yolov8.yaml"
    planted = tmp_path / "yolov8n-mine.yaml"
    code = f"__import__('pathlib').Path({str(trace)!r}).touch() or torch.nn.SiLU()"
    planted.write_text(f'activation: "{code}"\n{source.read_text()}')
    with pytest.raises(TrialError, match="activation"):
        process.train(yolo_job(tmp_path, images, model=str(planted)), go_on)
    assert not trace.exists()


@pytest.mark.cluster
def test_a_label_cache_that_comes_with_a_dataset_runs_no_code(
    trace: Path, tmp_path: Path, process: TrainingProcess
) -> None:
    """It is thrown away and made anew from the labels, and the training goes on."""
    data = make_images(tmp_path / "data")
    folder = data.parent
    for labels in (folder / "labels").iterdir():
        with labels.with_suffix(".cache").open("wb") as file:
            np.save(file, np.array({"labels": Touch(trace)}, dtype=object), allow_pickle=True)
    result = process.train(yolo_job(tmp_path, data), go_on)
    assert result.weights is not None
    assert not trace.exists()
    caches = list((folder / "labels").glob("*.cache"))
    assert caches
    for cache in caches:  # ours by now, and read the second time
        assert load_labels(cache)["labels"]


def test_the_state_of_a_sampler_runs_no_code(trace: Path) -> None:
    """CMA-ES keeps a pickle in PostgreSQL, which `hpo import` takes over from a file as it is."""
    pytest.importorskip("cmaes", reason="the extra `cmaes` is not installed")
    spec = simulated_spec(sampler=Choice("cmaes", {"startup_trials": 1}))
    planted = create_trial(
        value=0.5, system_attrs={"cma:optimizer:0": pickle.dumps(Touch(trace)).hex()}
    )
    sampler: Any = make_sampler(spec, 1, 1)
    with pytest.raises(MismatchError, match="trial -1 holds cannot be used"):
        sampler._restore_optimizer([planted])
    assert not trace.exists()


def test_an_altered_file_of_the_store_does_not_get_as_far_as_a_loader(
    trace: Path, tmp_path: Path
) -> None:
    """A well-formed file in its place has another sha256: it is not even copied out."""
    store = FolderStore(tmp_path / "store")
    store.require_writable()
    (tmp_path / "best.pt").write_bytes(b"the weights")
    sha256 = store.put(tmp_path / "best.pt").sha256
    torch_save({"model": Touch(trace)}, tmp_path / "store" / "objects" / sha256[:2] / sha256)
    with pytest.raises(WeightsError, match="was altered"):
        store.fetch(sha256, tmp_path / "fetched.pt")
    assert not (tmp_path / "fetched.pt").exists()
    assert not trace.exists()


def test_detections_with_pickled_objects_are_refused(trace: Path, tmp_path: Path) -> None:
    """Arrays of numbers and texts only: an array of objects is a pickle."""
    path = tmp_path / "detections.npz"
    planted = np.array([Touch(trace)], dtype=object)
    np.savez(path, scheme=np.array(1), images=planted)
    with pytest.raises(WeightsError, match="holds no detections"):
        Detections.load(path)
    assert not trace.exists()

"""The Trainer protocol: what a trial's training is to the service.

Trainers are found by the entry-point group `hpo.trainers`. Their modules import without torch:
their heavy imports happen inside `train`, `evaluate` and `package`, which run in the worker's
training process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hpo.errors import SpecError
from search_spaces.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

GROUP = "hpo.trainers"


class Directive(Enum):
    """What a reported epoch is answered with."""

    GO = "go"  # train on
    PRUNE = "prune"  # the pruner ends this trial: return what there is
    STOP = "stop"  # the worker drains or lost its lease: leave, the result is not used


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One training argument that a study may fix under `train:` or search.

    Attributes:
        default: the trainer's own default.
        kind: `float`, `int`, `bool` or `str`.
        help: one line.
        low: smallest value accepted, None for no bound.
        high: largest value accepted, None for no bound.
        choices: the values accepted, () for any.
    """

    default: Any
    kind: str
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a trainer can do.

    Attributes:
        name: the entry point's name.
        arguments: every argument by name; `epochs` among them where it may be searched.
        metrics: name -> direction (`maximize` or `minimize`) of each metric of an epoch that may
            be the objective.
        models: example values for `model`.
        simulated: True when results are not of a real training and must be shown as such.
        needs_data: whether a dataset is required.
        devices: kinds of device it runs on, for instance ("cpu", "cuda").
        code_version: what, together with the study's spec, decides a trial's figures
            (for instance "ultralytics 8.4.190"); a worker with another one is told so.
        weights_loader: Python that loads the weights of a registered version without MLflow's
            model, for people to copy; `{uri}` in it stands for the version's URI as a quoted
            string. "" where there is no other way than MLflow's.
    """

    name: str
    arguments: Mapping[str, Argument]
    metrics: Mapping[str, str]
    models: tuple[str, ...]
    simulated: bool
    needs_data: bool
    devices: tuple[str, ...]
    code_version: str
    weights_loader: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """The part of a study that a trainer is asked about before anything is written.

    Attributes:
        model: weights or architecture, for instance `yolov8n.yaml`.
        train: fixed arguments.
        searched: name -> (lowest, highest) value of each numeric searched argument, or the tuple
            of choices of a categorical one.
        epochs: epochs of each trial; None when `epochs` is searched.
        metric: the objective's metric.
        direction: `maximize` or `minimize`.
        data: the dataset's YAML on this machine; None for a trainer that needs none.
    """

    model: str
    train: Mapping[str, Any]
    searched: Mapping[str, tuple[Any, ...]]
    epochs: int | None
    metric: str
    direction: str
    data: Path | None


@dataclass(frozen=True)
class Checkpoint:
    """What another process, on another machine too, continues a training from.

    Attributes:
        epoch: number of the epoch that it is the end of.
        state: file with everything that the next epoch needs. It is written once and never changed;
            whoever gets it from a report removes it when it is stored or not wanted.
        best_epoch: number of the best epoch so far; None while there is none.
        weights: file of that epoch's weights, as `Result.weights`; never changed after it was
            handed out; None when there are none.
    """

    epoch: int
    state: Path
    best_epoch: int | None
    weights: Path | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, complete in itself; it is sent to the training process.

    Attributes:
        trial: the trial's number, for names and logs only.
        model: weights or architecture: the path of a file, or a name that the trainer knows.
        params: the trial's parameters. Each must be found in the effective arguments.
        train: the study's fixed arguments.
        epochs: number of epochs.
        seed: the study's seed for training.
        metric: the objective's metric; the best epoch is best by this one.
        direction: `maximize` or `minimize`.
        data: the dataset's YAML; None for a trainer that needs none.
        device: "cpu", "cuda" (the only visible one) or "cuda:N".
        run_dir: an empty folder of this job's own; everything it writes goes here.
        resume: where to go on; None starts at the first epoch. Its files lie in `run_dir`.
        checkpoint_every: epochs between two checkpoints; 0 makes none. Whether they are made
            does not change any figure of the training.
        model_sha256: of the file `model`, whose path is another one in each process; None where
            the study has none.
    """

    trial: int
    model: str
    params: Mapping[str, Any]
    train: Mapping[str, Any]
    epochs: int
    seed: int
    metric: str
    direction: str
    data: Path | None
    device: str
    run_dir: Path
    resume: Checkpoint | None = None
    checkpoint_every: int = 1
    model_sha256: str | None = None


@dataclass(frozen=True)
class Epoch:
    """One trained and validated epoch.

    Attributes:
        number: counted from 1.
        metrics: every figure of the epoch by name, `seconds` (of training and validation) and
            the objective's metric among them. Finite, or NaN where a figure does not exist.
        checkpoint: the training's state after this epoch, where one was due. There is none after
            the last epoch: what is left then is done in a moment.
        warning: why a checkpoint that was due could not be written; "" when all is well.
    """

    number: int
    metrics: Mapping[str, float]
    checkpoint: Checkpoint | None = None
    warning: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a training left behind.

    Attributes:
        best_epoch: number of the best epoch by the objective's metric, the earliest on a tie.
        weights: file of the best epoch's weights; None when no epoch ended or none exist.
        pictures: name (for instance `confusion_matrix.png`) -> file, all of the best epoch.
        effective: the arguments that the training really used, by name.
        train_s: seconds spent inside the trainer's own training and validation.
    """

    best_epoch: int | None
    weights: Path | None
    pictures: Mapping[str, Path] = field(default_factory=dict)
    effective: Mapping[str, Any] = field(default_factory=dict)
    train_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of weights on one split of a dataset.

    Attributes:
        metrics: name -> value, the same names as an epoch's.
        images: number of images evaluated.
        per_class: class name -> AP50, AP50-95, precision and recall; classes without a true box
            in the split are not there.
        detections: file of `hpo.evaluation.detections`, below the job's `run_dir`: each image's
            boxes and what should have been found; None from a trainer that detects nothing.
        latency_ms: `median` and `p95` of one image at a time, decoded before and boxes after.
        device: what the latency was measured on, by name.
        parameters: of the model; None where that means nothing.
        gflops: 10^9 floating-point operations for one image at the evaluation's size.
        weights_bytes: of the weights' file.
        settings: what else decides the figures, for instance `imgsz`.
    """

    metrics: Mapping[str, float]
    images: int
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    detections: Path | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    parameters: int | None = None
    gflops: float | None = None
    weights_bytes: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a model registry needs to load the weights elsewhere, without this package's source.

    Attributes:
        code: a "models from code" file (MLflow's term) that defines and sets the model.
        artifacts: name -> file that the code finds in its context under that name.
        requirements: pip requirements of the code.
        example: images for the input example, each an H x W x 3 uint8 RGB array as nested lists,
            or a path; None when there is none.
        outputs: name -> MLflow type of each column of a prediction, in order.
        params: name -> default of each parameter of `predict`; MLflow passes on only those that
            the signature declares.
        licence: of the weights and of the code that runs them, as an SPDX id; "" when the trainer
            does not say.
        licence_note: what follows from it for whoever uses the model, in sentences; "" for nothing.
        licence_text: its full text, LICENSE among the model's files; "" for none.
        card: the model card as Markdown, README.md among the model's files; "" for none. Whoever
            registers the model writes it: a trainer knows no figures but its own.
        metadata: what the model's MLmodel file says of it beside `licence`, JSON-able.
    """

    code: Path
    artifacts: Mapping[str, Path]
    requirements: tuple[str, ...]
    example: Any
    outputs: Mapping[str, str]
    params: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    licence_note: str = ""
    licence_text: str = ""
    card: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Trainer(Protocol):
    """A kind of training. One instance serves one process; calls do not overlap.

    `describe` and `check` run in any process and import nothing heavy; the others run in the
    training process, may import what they like, and raise TrialError for a failure whose reason
    they know.
    """

    def describe(self) -> Description:
        """Arguments with defaults and bounds, metrics, devices and version of the trainer."""
        ...

    def check(self, spec: TrainSpec) -> Sequence[str]:
        """Faults of a study, in words, each starting with the key it speaks of; () when none."""
        ...

    def warm(self) -> None:
        """Import what `train` needs, so that no trial waits for it; called once, may do nothing."""
        ...

    def train(self, job: Job, report: Callable[[Epoch], Directive]) -> Result:
        """Train; call `report` once after each epoch and do what it answers.

        With `job.resume` the first epoch trained is the one after the checkpoint's, and on the CPU
        with the same number of threads every later figure is that of the uninterrupted training.

        Raises:
            TrialError: the training failed for a known reason.
            CheckpointError: `job.resume` cannot be continued from; nothing was trained.
        """
        ...

    def evaluate(self, weights: Path, job: Job, split: str) -> Evaluation:
        """Evaluate weights on `split` (`train`, `val` or `test`) of the job's dataset.

        Raises:
            WeightsError: the file cannot be read as weights.
        """
        ...

    def package(self, weights: Path, job: Job) -> Package:
        """What a registry needs to load `weights` elsewhere; writes only below `job.run_dir`."""
        ...


@runtime_checkable
class PinnedModelTrainer(Protocol):
    """What a trainer offers beside the Trainer protocol where a study's `model` may be a file.

    The service pins the file by its content and gives `train` the path of a copy as `Job.model`.
    """

    def start_file(self, model: str) -> Path | None:
        """The file that a training of `model` starts from; None where the trainer's code holds it.

        Runs in any process and imports nothing heavy. The file may have to be downloaded first.

        Raises:
            WeightsError: a file of this folder would be taken for the trainer's own model.
        """
        ...

    def prepare(self, model: str) -> Path:
        """Return the file of `start_file`, downloaded if missing, once `train` can use it.

        Runs in the training process.

        Raises:
            HpoError: it cannot be had, or is no model.
        """
        ...


@runtime_checkable
class OnnxExporter(Protocol):
    """What a trainer may offer beside the Trainer protocol."""

    def export_onnx(self, weights: Path, job: Job) -> Path:
        """An ONNX file that was seen to find what `weights` find; writes only below `job.run_dir`.

        Raises:
            ExportError: it finds something else, or cannot be made here.
            WeightsError: the file cannot be read as weights.
        """
        ...


# Follow from detections and true boxes, whatever the detector: what a test split is judged by
DETECTION_METRICS = ("mAP50", "mAP50-95", "precision", "recall")


def sign_of(direction: str) -> int:
    """+1 for `maximize`, where a larger value is better; -1 for `minimize`."""
    return 1 if direction == "maximize" else -1


def trainer_names() -> list[str]:
    """Names of the installed trainers, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_trainer(name: str) -> Trainer:
    """The trainer of that name.

    Raises:
        SpecError: none is installed under that name.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        fault = f"trainer: '{name}' is not installed{did_you_mean(name, trainer_names())}"
        raise SpecError("study", [fault], hint=f"Installed trainers: {', '.join(trainer_names())}")
    trainer = points[0].load()()
    if not isinstance(trainer, Trainer):
        raise SpecError("study", [f"trainer: '{name}' does not keep the Trainer protocol"])
    return trainer

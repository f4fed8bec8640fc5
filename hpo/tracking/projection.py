"""What MLflow is to show of a study and its trials, computed from their rows in PostgreSQL.

The mirror writes these values, and `verify` compares MLflow's with them.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from hpo.studies.spec import StudySpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Row

STATUS = {"RUNNING": "RUNNING", "COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
STUDY_STATUS = {"open": "RUNNING", "finished": "FINISHED", "stopped": "KILLED"}
LONGEST_PARAM = 6000  # characters, MLflow's limit
LONGEST_TAG = 8000
_LONGEST_NAME = 250
_TESTED = "test_"  # starts the attributes with a final's figures on the test split
_REFUSED = re.compile(r"[^/\w.\- :]")  # characters that MLflow takes in no name
# MLflow's databases hold no infinity; it stores the largest number instead
_SPECIAL = {"INF_POS": sys.float_info.max, "INF_NEG": -sys.float_info.max, "NAN": math.nan}


class Point(NamedTuple):
    """One figure: metric, step (an epoch, counted from 1), milliseconds since 1970, value."""

    metric: str
    step: int
    at_ms: int
    value: float


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """A study; `spec` and what follows from it are None for a plain Optuna study.

    Attributes:
        created_ms: when it was created, or its first trial started; None when neither is known.
        created_here: whether `created_ms` tells this study from another one of the same id.
        last_ms: end of its last trial so far.
        metric: name of its intermediate values.
        names: name of each final value.
        simulated: whether its figures are not of a real training.
        parent_id: of finals, the study whose best trials they look at again.
        parent_run_id: that study's own run, as far as it is known.
        model_sha256: of the file that every training starts from; None where there is none.
    """

    study_id: int
    name: str
    spec: StudySpec | None
    spec_sha256: str | None
    fingerprint: str | None
    code_version: str | None
    trials: int | None
    created_ms: int | None
    created_here: bool
    last_ms: int | None
    metric: str
    names: tuple[str, ...]
    simulated: bool
    experiment_id: str | None
    run_id: str | None
    best: tuple[int, float] | None
    parent_id: int | None = None
    parent_run_id: str | None = None
    model_sha256: str | None = None

    @property
    def experiment(self) -> str:
        """Name of the study's experiment in MLflow: finals are shown with their study."""
        return self.name if self.parent_id is None else self.name.rpartition("/")[0]

    @property
    def dataset(self) -> tuple[str, str] | None:
        """(name, fingerprint) of the dataset; None where there is none."""
        if self.fingerprint is None:
            return None
        return (self.spec and self.spec.data) or self.name, self.fingerprint

    def params(self) -> dict[str, str]:
        """Parameters of the study's run: everything that all its trials share."""
        if self.spec is None:
            return {}
        spec = self.spec
        plain = {
            "trainer": spec.trainer, "model": spec.model, "data": spec.data, "seed": spec.seed,
            "space": spec.space.name, "metric": spec.objective.metric,
            "direction": spec.objective.direction, "sampler": spec.sampler.name,
            "pruner": spec.pruner.name, "epochs": spec.budget.epochs,
        }  # fmt: skip
        return _texts({k: v for k, v in plain.items() if v is not None}) | self.fixed()

    def fixed(self) -> dict[str, str]:
        """The fixed training arguments, which every trial's run shows too."""
        train = {} if self.spec is None else self.spec.train
        return _texts({f"train/{name}": value for name, value in train.items()})

    def tags(self) -> dict[str, str]:
        """Tags of the study's run."""
        best = {} if self.best is None else {
            "hpo.best_trial": self.best[0], "hpo.best_value": self.best[1],
        }  # fmt: skip
        return self.common_tags() | _tags({"hpo.kind": "study", "hpo.budget": self.trials} | best)

    def common_tags(self) -> dict[str, str]:
        """Tags that the study's run and its trials' runs share."""
        return _tags(
            {
                "hpo.study": self.name, "hpo.study_id": self.study_id,
                "hpo.spec_sha256": self.spec_sha256, "hpo.dataset_fingerprint": self.fingerprint,
                "hpo.code_version": self.code_version, "hpo.model_sha256": self.model_sha256,
                "simulated": self.simulated or None,
                "hpo.finals_of": None if self.parent_id is None else self.experiment,
            }
        )  # fmt: skip


@dataclass(frozen=True)
class TrialProjection:
    """A trial of `study`, with its figures since a mark.

    Attributes:
        study: its study.
        row: of the statement `mirror_trial`.
        known: how many of Optuna's own intermediate values the mark has already.
    """

    study: StudyRow
    row: Any
    known: int

    @property
    def trial_id(self) -> int:
        return int(self.row.trial_id)

    @property
    def number(self) -> int:
        return int(self.row.number)

    @property
    def state(self) -> str:
        return str(self.row.state)

    @property
    def change(self) -> int:
        """The newest change of the trial's epochs; 0 before the first epoch."""
        return int(self.row.last_change or 0)

    @property
    def ended(self) -> bool:
        return self.state in ("COMPLETE", "PRUNED", "FAIL")

    @property
    def name(self) -> str:
        kind = "trial" if self.study.parent_id is None else "final"
        return f"{kind}-{self.number:04d}"

    @property
    def files(self) -> dict[str, tuple[str, int]]:
        """Name -> (sha256, bytes) of the trial's files; {} while it runs."""
        return {name: (pair[0], int(pair[1])) for name, pair in self.row.files.items()}

    def is_at(self, mark: Any) -> bool:
        """Whether the mark says that MLflow has all of the trial."""
        return bool(
            mark.run_id is not None
            and (mark.state, mark.files) == (self.state, self.ended)
            and (mark.change, mark.steps) == (self.change, len(self.row.steps))
        )

    def params(self) -> dict[str, str]:
        """The trial's active parameters, fixed ones included, and the study's fixed arguments."""
        from optuna.distributions import json_to_distribution

        searched = {
            name: json_to_distribution(text).to_external_repr(value)
            for name, (value, text) in self.row.params.items()
        }
        if not searched and self.study.spec is not None and self.study.spec.space.searched:
            return self.study.fixed()  # not sampled yet
        spec = self.study.spec
        active = searched if spec is None else spec.space.with_fixed(searched)
        return _texts(active) | self.study.fixed()

    def tags(self) -> dict[str, str]:
        """Tags of the trial's run."""
        row = self.row
        value = _value(*row.results[0]) if len(row.results) == 1 else None
        own = {
            "hpo.kind": "trial", "hpo.trial": self.number, "hpo.state": self.state,
            "hpo.worker_host": row.host, "hpo.takeovers": row.takeovers,
            "hpo.fail_reason": row.reason, "hpo.value": value, "hpo.best_epoch": row.best_epoch,
            # optuna-dashboard can end a trial; it never competes
            "hpo.ended_by": "another hand" if row.leased and self.ended and not row.told else None,
        }  # fmt: skip
        # Of which trial it is the final, and how it differs from that
        own |= dict(zip(("hpo.final_of", "hpo.seed", "hpo.trained"), row.final or (), strict=False))
        attrs = {f"attr.{key}": json.loads(text) for key, text in row.user_attrs.items()}
        return self.study.common_tags() | _tags(own) | _tags(attrs)

    def points(self) -> list[Point]:
        """The trial's figures in the order of their steps; NaN only takes a figure back."""
        start_ms = int(self.row.start_ms or 0)
        points = []
        for epoch, at_ms, metrics in self.row.epochs:
            for metric, value in metrics.items():
                # After a takeover an epoch is trained again: what was a figure may be NaN now.
                if value is not None or self.row.takeovers:
                    figure = math.nan if value is None else float(value)
                    points.append(Point(metric_name(metric), epoch, at_ms, figure))
        # They may come out of order: at the end all are taken.
        for step, value, kind in self.row.steps[0 if self.ended else self.known :]:
            figure = _value(value, kind)
            # Optuna keeps no time of an intermediate value
            if not math.isnan(figure):
                points.append(Point(metric_name(self.study.metric), step, start_ms, figure))
        return points + self._result() + self._tested()

    def _tested(self) -> list[Point]:
        """Figures of a complete final on the test split, which belong to no epoch."""
        if self.study.parent_id is None or self.state != "COMPLETE":
            return []
        values = {key: json.loads(text) for key, text in sorted(self.row.user_attrs.items())}
        return [
            Point(metric_name(f"test/{key.removeprefix(_TESTED)}"), 0, self.row.end_ms or 0, value)
            for key, value in values.items()
            if key.startswith(_TESTED) and _is_figure(value)
        ]

    def _result(self) -> list[Point]:
        if not self.ended:
            return []
        names = self.study.names if len(self.row.results) > 1 else ("",)
        step, at_ms = int(self.row.best_epoch or 0), int(self.row.end_ms or 0)
        values = [_value(*pair) for pair in self.row.results]
        return [
            Point(metric_name(f"value/{name}" if name else "value"), step, at_ms, value)
            for name, value in zip(names, values, strict=False)
            if not math.isnan(value)
        ]


def study_row(row: Row[Any], best: Row[Any] | None) -> StudyRow:
    """The study of a row of the statement `mirror_study` and its best trial's of `mirror_best`."""
    spec = None if row.spec is None else StudySpec.from_dict(row.spec)
    given = [] if row.metric_names is None else json.loads(row.metric_names)
    names = given or [str(place) for place in range(len(row.directions))]
    return StudyRow(
        study_id=row.study_id,
        name=row.name,
        spec=spec,
        spec_sha256=row.spec_sha256,
        fingerprint=row.dataset_fingerprint,
        code_version=row.code_version,
        trials=row.trials,
        created_ms=row.created_ms or row.first_ms,
        created_here=row.created_ms is not None,
        last_ms=row.last_ms,
        metric=given[0] if given else "objective",
        names=tuple(names),
        simulated=spec is not None and _simulated(spec.trainer),
        experiment_id=row.experiment_id,
        run_id=row.run_id,
        best=None if best is None else (best.number, best.value),
        parent_id=row.parent_id,
        parent_run_id=row.parent_run_id,
        model_sha256=row.model_sha256,
    )


def metric_name(name: str) -> str:
    """The name as MLflow takes it: Ultralytics' parentheses, for one, it refuses."""
    clean = posixpath.normpath(_REFUSED.sub("_", name)[:_LONGEST_NAME]).lstrip("/")
    return "_" if clean in ("", ".", "..") or clean.startswith("../") else clean


@cache
def _simulated(trainer: str) -> bool:
    from hpo.errors import SpecError
    from hpo.trainer import load_trainer

    try:
        return load_trainer(trainer).describe().simulated
    except SpecError:  # the trainer is not installed on this machine
        return False


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _value(value: float | None, kind: str) -> float:
    return _SPECIAL.get(kind, math.nan) if value is None else float(value)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {metric_name(name): _text(value)[:LONGEST_PARAM] for name, value in values.items()}


def _tags(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        metric_name(name): _text(value)[:LONGEST_TAG]
        for name, value in values.items()
        if value is not None
    }


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return (
        json.dumps(value, sort_keys=True) if isinstance(value, bool | dict | list) else str(value)
    )

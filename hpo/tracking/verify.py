"""Compare MLflow's runs of a study with PostgreSQL, figure by figure, and mend what differs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.storage.artifacts.store import sha256_of
from hpo.studies.status import mirror_lag
from hpo.tracking import runs
from hpo.tracking.projection import STATUS, STUDY_STATUS
from hpo.tracking.sync_state import read_study, read_trial, trial_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy import Engine

    from hpo.tracking.client import Client
    from hpo.tracking.projection import Point, StudyRow, TrialProjection

_PARENT = "mlflow.parentRunId"
_NOTHING = "nothing"


@dataclass(frozen=True)
class Mend:
    """What makes a difference go away in place.

    Attributes:
        run_id: the run.
        name: a tag's or metric's.
        step: of the metric; None for a tag.
        value: the tag's text or the metric's figure, NaN to take a point back.
    """

    run_id: str
    name: str
    step: int | None
    value: str | float


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """One thing that MLflow has otherwise than PostgreSQL.

    Attributes:
        where: the run, for instance `trial-0007` or `study`; of finals `final-0002` or `finals`.
        what: for instance `metric mAP50, step 3`.
        expected: what PostgreSQL says.
        found: what MLflow says.
        mend: what mends it in place; None where only a new run does.
    """

    where: str
    what: str
    expected: str
    found: str
    mend: Mend | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.expected} expected, {self.found} in MLflow"


@dataclass(frozen=True)
class Verified:
    """How many runs were compared, and every difference found."""

    runs: int
    differences: list[Mismatch]


def verify(
    engine: Engine,
    client: Client,
    study_id: int,
    *,
    on_trial: Callable[[int, int], None] | None = None,
) -> Verified:
    """Compare all runs of a study.

    Args:
        engine: the studies' database.
        client: MLflow.
        study_id: Optuna's id.
        on_trial: called with (how many are done, of how many).

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    with engine.connect() as connection:
        study = read_study(connection, study_id)
        ids = trial_ids(connection, study_id)
        behind = mirror_lag(connection, study_id)
    if study is None or behind is None:
        return Verified(0, [])
    found = _by_place(client, study)
    differences = list(_study(client, study, behind.study_state, found.pop("study", [])))
    parent = study.run_id
    for done, trial_id in enumerate(ids):
        if on_trial is not None:
            on_trial(done, len(ids))
        with engine.connect() as connection:  # none is held while MLflow is asked
            trial = read_trial(connection, study, trial_id)
        if trial is not None:
            differences += _trial(client, trial, parent, found.pop(str(trial.number), []))
    for place, extra in found.items():
        differences += [
            Mismatch(where=f"trial-{place}", what="run", expected=_NOTHING, found=run.info.run_id)
            for run in extra
        ]
    return Verified(len(ids) + 1, differences)


def mend(client: Client, differences: Iterable[Mismatch]) -> int:
    """Mend what can be mended in place: tags, and figures by a newer point; returns how many.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    count = 0
    for one in differences:
        if one.mend is None:
            continue
        if one.mend.step is None:
            client.set_tag(one.mend.run_id, one.mend.name, one.mend.value)
        else:
            now_ms = int(time.time() * 1000)  # the newest point of a step counts
            client.log_metric(
                one.mend.run_id, one.mend.name, one.mend.value, timestamp=now_ms, step=one.mend.step
            )
        count += 1
    return count


def _by_place(client: Client, study: StudyRow) -> dict[str, list[Any]]:
    """All live runs that say they are of the study, by trial number; `study` for its own."""
    experiment = runs.find_experiment(client, study.experiment_id, study.experiment)
    if experiment is None or experiment.lifecycle_stage != "active":
        return {}
    tags = {"hpo.study_id": str(study.study_id)}
    places: dict[str, list[Any]] = {}
    for run in runs.find_runs(client, experiment.experiment_id, tags):
        place = "study" if run.data.tags.get("hpo.kind") == "study" else None
        place = place or run.data.tags.get("hpo.trial", "of no number")
        places.setdefault(place, []).append(run)
    return places


def _study(client: Client, study: StudyRow, state: str, found: list[Any]) -> Iterator[Mismatch]:
    where = "study" if study.parent_id is None else "finals"
    run = yield from _single(where, study.run_id, found)
    if run is None:
        return
    tags = study.tags() | {"hpo.state": state}
    if study.parent_run_id is not None:
        tags[_PARENT] = study.parent_run_id
    # The best trial moves while the study is open; it is written when the study's state changes.
    if state == "open":
        tags = {key: text for key, text in tags.items() if not key.startswith("hpo.best_")}
    yield from _texts(where, "parameter", study.params(), run.data.params)
    yield from _tags(where, tags, run)
    yield from _same(where, "status", STUDY_STATUS[state], run.info.status)
    if study.spec is not None and "study.json" not in runs.list_files(client, run.info.run_id):
        yield Mismatch(where=where, what="file study.json", expected="a file", found=_NOTHING)


def _trial(
    client: Client, trial: TrialProjection, parent: str | None, found: list[Any]
) -> Iterator[Mismatch]:
    where = trial.name
    run = yield from _single(where, None, found)
    if run is None:
        return
    info = run.info
    tags = trial.tags() | ({} if parent is None else {_PARENT: parent})
    yield from _texts(where, "parameter", trial.params(), run.data.params, exact=True)
    yield from _tags(where, tags, run)
    yield from _same(where, "status", STATUS[trial.state], info.status)
    yield from _same(where, "start", trial.row.start_ms, info.start_time)
    if trial.ended:
        yield from _same(where, "end", trial.row.end_ms, info.end_time)
        yield from _files(client, trial, run)
    if trial.study.dataset is not None:
        digest = trial.study.dataset[1][: runs.LONGEST_DIGEST]
        there = ", ".join(one.dataset.digest for one in run.inputs.dataset_inputs) or _NOTHING
        yield from _same(where, "dataset", digest, there)
    yield from _metrics(client, where, trial.points(), run)


def _single(where: str, recorded: str | None, found: list[Any]) -> Any:
    """Yields differences; returns the run, or None when there is none."""
    if not found:
        yield Mismatch(where=where, what="run", expected=recorded or "a run", found=_NOTHING)
        return None
    if len(found) > 1:
        ids = ", ".join(sorted(run.info.run_id for run in found))
        yield Mismatch(
            where=where, what="run", expected="one run", found=f"{len(found)} runs: {ids}"
        )
    return next((run for run in found if run.info.run_id == recorded), found[0])


def _metrics(client: Client, where: str, points: Iterable[Point], run: Any) -> Iterator[Mismatch]:
    expected = _newest((p.metric, p.step, p.at_ms, p.value) for p in points)
    names = sorted({metric for metric, _ in expected} | set(run.data.metrics))
    history = [one for name in names for one in client.get_metric_history(run.info.run_id, name)]
    found = _newest((one.key, one.step, one.timestamp, one.value) for one in history)
    for metric, step in sorted(expected.keys() | found.keys()):
        a, b = expected.get((metric, step)), found.get((metric, step))
        if a != b:
            mend = Mend(run.info.run_id, metric, step, math.nan if a is None else a)
            yield Mismatch(
                where=where,
                what=f"metric {metric}, step {step}",
                expected=_figure(a),
                found=_figure(b),
                mend=mend,
            )


def _newest(points: Iterable[tuple[str, int, int, float]]) -> dict[tuple[str, int], float]:
    """(metric, step) -> its newest value. MLflow deletes no point; NaN takes one back."""
    newest: dict[tuple[str, int], tuple[int, float]] = {}
    for metric, step, at_ms, value in points:
        if (metric, step) not in newest or newest[metric, step][0] <= at_ms:
            newest[metric, step] = (at_ms, value)
    return {key: value for key, (_, value) in newest.items() if not math.isnan(value)}


def _files(client: Client, trial: TrialProjection, run: Any) -> Iterator[Mismatch]:
    there = runs.list_files(client, run.info.run_id) if trial.files else {}
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    for name, (sha256, size) in sorted(trial.files.items()):
        if there.get(name) != size:
            found = _NOTHING if name not in there else f"{there[name]} bytes"
            yield Mismatch(
                where=trial.name, what=f"file {name}", expected=f"{size} bytes", found=found
            )
        elif folder.is_dir():  # its content can be read here
            yield from _same(trial.name, f"sha256 of {name}", sha256, sha256_of(folder / name))


def _tags(where: str, expected: Mapping[str, str], run: Any) -> Iterator[Mismatch]:
    for key, text in sorted(expected.items()):
        found = run.data.tags.get(key)
        if found != text:
            mend = Mend(run.info.run_id, key, None, text)
            yield Mismatch(
                where=where,
                what=f"tag {key}",
                expected=_shown(text),
                found=_shown(found),
                mend=mend,
            )


def _texts(
    where: str,
    what: str,
    expected: Mapping[str, str],
    found: Mapping[str, str],
    *,
    exact: bool = False,
) -> Iterator[Mismatch]:
    for key in sorted(expected.keys() | found.keys() if exact else expected.keys()):
        yield from _same(where, f"{what} {key}", expected.get(key), found.get(key))


def _same(where: str, what: str, expected: Any, found: Any) -> Iterator[Mismatch]:
    if expected != found:
        yield Mismatch(where=where, what=what, expected=_shown(expected), found=_shown(found))


def _shown(value: Any) -> str:
    return _NOTHING if value is None else repr(value) if isinstance(value, str) else str(value)


def _figure(value: float | None) -> str:
    return _NOTHING if value is None else repr(value)

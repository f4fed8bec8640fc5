"""Select the trials that may be promoted, the finalists, and the challenger among them.

The challenger is chosen by validation figures alone: the test split decides only whether it beats
the champion, and a split that had chosen it would flatter it.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import UsageError, WeightsError
from hpo.evaluation.record import EvaluationRecord
from hpo.storage.artifacts.opening import open_store
from hpo.studies.finals import SUFFIX, FinalistRef, asked, ensure_finals, final_results
from hpo.studies.status import completion_row
from hpo.studies.trials import best_trials, trial_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Engine, Row

    from hpo.settings import Settings
    from hpo.storage.artifacts.store import ArtifactStore
    from hpo.studies.store import Study


@dataclass(frozen=True)
class StudyCompletion:
    """Where a study stands.

    Attributes:
        open_because: why it is not finished; "" when it is.
        counts: trials by how they ended: `complete`, `pruned`, `failed`, and `typed` for those
            that was completed outside this service.
    """

    open_because: str
    counts: dict[str, int]

    def no_candidate(self) -> str:
        """Why there is nothing to promote, in words."""
        words = [f"{count} {name}" for name, count in self.counts.items() if count]
        ended = ", ".join(words) if words else "none has ended"
        if self.counts["typed"]:
            ended += " (typed: completed outside this service)"
        return f"no trial is complete with a value that a worker told: {ended}"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of a study's best trials.

    Attributes:
        trial_id: Optuna's id.
        number: its number within the study.
        value: the objective's value, of its best epoch.
        best_epoch: counted from 1.
        stored: every parameter that was searched.
        params: every active parameter, fixed ones included.
        weights_name: the weights' name among the trial's artifacts; None when none were kept.
        weights_sha256: hex digest of their content; None when none were kept.
    """

    trial_id: int
    number: int
    value: float
    best_epoch: int
    stored: dict[str, Any]
    params: dict[str, Any]
    weights_name: str | None
    weights_sha256: str | None


def study_completion(connection: Connection, study: Study) -> StudyCompletion | None:
    """Where the study stands; None when it was deleted."""
    row = completion_row(connection, study)
    if row is None:
        return None
    counts = {name: getattr(row, name) for name in ("complete", "pruned", "failed", "typed")}
    because = ""
    if row.running:
        because = f"{row.running} of its trials still run"
    elif row.claimed < row.trials and not row.timed_out:
        because = f"{row.claimed} of {row.trials} trials were claimed"
    return StudyCompletion(because, counts)


def ranked_candidates(connection: Connection, study: Study, limit: int) -> list[Candidate]:
    """The best complete trials told under a lease, best first, the earlier first on a tie.

    Pruned trials never compete, and neither do values typed into the dashboard: nobody told them
    under a lease.
    """
    rows = best_trials(connection, study, limit)
    return [_candidate(connection, study, row) for row in rows]


def candidate_of(connection: Connection, study: Study, number: int) -> Candidate:
    """The trial of that number as a candidate.

    Raises:
        UsageError: it is not complete, or was completed outside this service.
    """
    every = ranked_candidates(connection, study, study.trials)
    found = next((one for one in every if one.number == number), None)
    if found is None:
        there = trial_rows(connection, study, number)
        numbers = ", ".join(str(one.number) for one in every) or "none so far"
        what = f"is {there[0].state}: it cannot be promoted" if there else "does not exist"
        raise UsageError(
            f"trial {number} of '{study.name}' {what}",
            hint=f"Trials that a worker completed: {numbers}.",
        )
    return found


def _candidate(connection: Connection, study: Study, row: Row[Any]) -> Candidate:
    stored = trial_rows(connection, study, row.number)[0].params
    return Candidate(
        trial_id=row.trial_id,
        number=row.number,
        value=row.value,
        best_epoch=row.best_epoch,
        stored=stored,
        params=study.spec.space.with_fixed(stored),
        weights_name=row.weights_name,
        weights_sha256=row.sha256,
    )


EVALUATION = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One training of a finalist.

    Attributes:
        seed: of the training.
        value: the objective on the validation split, of its best epoch.
        best_epoch: counted from 1.
        trial_id: the trial that trained it: the study's own, or one of the finals.
        final: its number among the finals; None where it was not in any.
        own: whether the study's own trial trained it.
        weights_name: name of the weights among that trial's files.
        weights_sha256: of their content.
        evaluated: its figures on the test split; None where a person did without them.
    """

    seed: int
    value: float
    best_epoch: int
    trial_id: int
    final: int | None
    own: bool
    weights_name: str
    weights_sha256: str
    evaluated: EvaluationRecord | None


@dataclass(frozen=True)
class Finalist:
    """One of the best trials, with all its trainings.

    Attributes:
        candidate: the study's trial.
        runs: its trainings, those that are complete.
        out: why it cannot challenge the champion; "" when it can.
    """

    candidate: Candidate
    runs: tuple[SeedRun, ...]
    out: str = ""

    @property
    def value(self) -> float:
        """Mean of the validation values."""
        return statistics.fmean(run.value for run in self.runs) if self.runs else math.nan

    @property
    def spread(self) -> float | None:
        """Standard deviation of the validation values; None for one alone."""
        values = [run.value for run in self.runs]
        return statistics.stdev(values) if len(values) > 1 else None

    def best(self, study: Study) -> SeedRun:
        """The training whose weights stand for it: the best by validation, the first on a tie."""
        return min(self.runs, key=lambda run: study.spec.objective.rank_key(run.value))


def call_finals(engine: Engine, study: Study, numbers: Sequence[int] | None = None) -> Study | None:
    """The study's finals, asked for where they are missing; None when there is no finalist.

    Args:
        engine: the database.
        study: the study.
        numbers: the trials that a person wants there; None for the best ones.

    Raises:
        UnknownStudyError: the study was deleted.
        UsageError: a trial of `numbers` is not complete.
    """
    if numbers is None and not study.spec.promotion.wanted:
        return None
    with engine.connect() as connection:
        if numbers is None:
            called = ranked_candidates(connection, study, study.spec.promotion.finalists)
        else:
            called = [candidate_of(connection, study, number) for number in numbers]
    if not called:
        return None
    return ensure_finals(
        engine, study, [FinalistRef(c.trial_id, c.number, c.stored) for c in called]
    )


def finals_missing(connection: Connection, study: Study, candidates: list[Candidate]) -> str:
    """Why the finals of these candidates are not over, in words; "" when they are."""
    rows = {(row.of_trial_id, row.seed): row for row in final_results(connection, study)}
    seeds = [seed for seed, _ in asked(study.spec)]
    wanted = [(candidate.trial_id, seed) for candidate in candidates for seed in seeds]
    ended = [key for key in wanted if key in rows and rows[key].state in ("COMPLETE", "FAIL")]
    if len(ended) == len(wanted):
        return ""
    return f"{len(ended)} of {len(wanted)} finals are over"


def finalists_of(
    connection: Connection, settings: Settings, study: Study, candidates: Iterable[Candidate]
) -> list[Finalist]:
    """What came of the candidates in the finals, best by validation first."""
    store, rows = open_store(settings), final_results(connection, study)
    with tempfile.TemporaryDirectory(prefix="hpo-finals-") as scratch:
        found = [_finalist(one, rows, study, store, Path(scratch)) for one in candidates]
    # Sorting is stable: on a tie the earlier candidate stays in front
    return sorted(found, key=lambda one: study.spec.objective.rank_key(one.value))


def unexamined(study: Study, candidate: Candidate) -> Finalist:
    """A trial that no final looked at, for a person who promotes it all the same.

    Raises:
        WeightsError: it kept no weights.
    """
    name, sha256 = candidate.weights_name, candidate.weights_sha256
    if name is None or sha256 is None:
        raise WeightsError(
            f"trial {candidate.number} of '{study.name}' kept no weights",
            hint="Its artifacts were deleted, or its trainer keeps none.",
        )
    run = SeedRun(
        seed=study.spec.seed,
        value=candidate.value,
        best_epoch=candidate.best_epoch,
        trial_id=candidate.trial_id,
        final=None,
        own=True,
        weights_name=name,
        weights_sha256=sha256,
        evaluated=None,
    )
    return Finalist(candidate, (run,))


def _finalist(
    candidate: Candidate, rows: Sequence[Any], study: Study, store: ArtifactStore, scratch: Path
) -> Finalist:
    runs: list[SeedRun] = []
    faults: list[str] = []
    for row in rows:
        if row.of_trial_id != candidate.trial_id:
            continue
        if row.state == "FAIL":
            again = f"`hpo retry {row.number} --study {study.name}{SUFFIX}` looks at it again"
            faults.append(f"{row.reason} (mended, {again})")
        elif row.state == "COMPLETE":
            try:
                runs.append(_seed_run(row, candidate, store, scratch))
            except WeightsError as error:
                faults.append(str(error))
    if faults:
        return Finalist(candidate, tuple(runs), "; ".join(dict.fromkeys(faults)))
    if not runs:
        return Finalist(candidate, (), "no final of it is complete")
    finalist = Finalist(candidate, tuple(runs))
    evaluated = finalist.best(study).evaluated
    return finalist if evaluated is None else replace(finalist, out=_broken(evaluated, study))


def _seed_run(row: Any, candidate: Candidate, store: ArtifactStore, scratch: Path) -> SeedRun:
    files = row.files or {}
    weights = sorted(name for name in files if name.startswith("weights/"))
    if EVALUATION not in files or not weights:
        raise WeightsError(f"final {row.number} was completed outside this service")
    file = store.fetch(files[EVALUATION], scratch / f"{row.trial_id}.json")
    try:
        evaluated = EvaluationRecord.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"the evaluation of final {row.number} cannot be read: {error}"
        ) from error
    name = "weights/best.pt" if "weights/best.pt" in weights else weights[0]
    return SeedRun(
        seed=row.seed,
        value=row.value,
        best_epoch=row.best_epoch,
        trial_id=row.trial_id if row.trained else candidate.trial_id,
        final=row.number,
        own=not row.trained,
        weights_name=name,
        weights_sha256=files[name],
        evaluated=evaluated,
    )


def _broken(evaluated: EvaluationRecord, study: Study) -> str:
    """Which limit that has nothing to do with luck the evaluation breaks; "" for none."""
    promotion = study.spec.promotion
    latency, size = evaluated.latency_ms.get("median"), evaluated.weights_bytes / 1e6
    limit = promotion.max_latency_ms
    if limit is not None and (latency is None or latency > limit):
        seen = "is not known" if latency is None else f"of {latency:.1f} ms"
        return f"its latency {seen} breaks the limit of {limit:g} ms"
    if promotion.max_size_mb is not None and size > promotion.max_size_mb:
        return f"its {size:.2f} MB break the limit of {promotion.max_size_mb:g} MB"
    return ""

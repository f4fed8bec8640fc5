"""One trial: train what was claimed, report each epoch under the lease, tell how it ended."""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.claims import End, Standing
from hpo.errors import ServiceError, TrialError
from hpo.lease import LeaseKeeper
from hpo.trainer import Epoch, Job, Result, Verdict
from workers.events import Event, Kind, Watch

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from hpo.artifacts import FolderStore, Stored
    from hpo.claims import Claim, Claims
    from hpo.study import Study
    from workers.process import TrainingProcess

log = logging.getLogger(__name__)

SHOWN = ("batch", "optimizer")  # effective arguments shown with the trial


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        end: None when the trial is not this worker's to end: the lease was lost, or the trial was
            given back unfinished.
        error: of a FAIL, `reason: message`.
        lost: whether the lease was lost.
    """

    end: End | None
    error: str = ""
    lost: bool = False


@dataclass(frozen=True)
class Bench:
    """Where this worker trains: what is the same for all its trials.

    Attributes:
        study: the study.
        claims: its claims.
        process: the training process.
        store: where weights and pictures go.
        runs: folder in which each run gets one of its own, removed when the trial is told.
        data: the dataset's YAML on this machine.
        device: what to train on.
        host: this machine's name, for the record.
        stall_timeout_s: longest silence of a training; None for no limit.
    """

    study: Study
    claims: Claims
    process: TrainingProcess
    store: FolderStore
    runs: Path
    data: Path | None
    device: str
    host: str
    stall_timeout_s: float | None = None


class TrialRun:
    """One claimed trial on a bench; `run` is called once."""

    def __init__(self, bench: Bench, claim: Claim, drain: threading.Event, watch: Watch) -> None:
        self._bench, self._claim, self._drain, self._watch = bench, claim, drain, watch
        self._job = make_job(bench, claim)
        self._answered = Verdict.GO  # the last verdict given to the trainer
        self._lost = False
        self._keeper = LeaseKeeper(bench.claims, claim)

    def run(self) -> Ended:
        """Train and tell.

        Raises:
            DatabaseError: PostgreSQL stayed away longer than the patience.
            OSError: the run's folder or the store cannot be written; the trial is given back.
        """
        claim = self._claim
        params: dict[str, object] = dict(claim.params)
        self._watch(Event(Kind.CLAIMED, claim.number, epochs=self._job.epochs, params=params))
        try:
            self._job.run_dir.mkdir(parents=True)
            with self._keeper:
                ended = self._train()
        except ServiceError:
            raise  # PostgreSQL is gone: asking it to release would wait again; the lease runs out
        except BaseException:
            # Interrupted, or no space: the trial is not over, another worker may have it at once.
            self._release_if_possible()
            raise
        finally:
            shutil.rmtree(self._job.run_dir, ignore_errors=True)
        text = ended.end.value if ended.end else ("lost" if ended.lost else "given back")
        self._watch(Event(Kind.ENDED, claim.number, text=text, value=None))
        return ended

    def _train(self) -> Ended:
        bench = self._bench
        try:
            result = bench.process.train(
                self._job, self._report, poll=self._poll, stall_timeout_s=bench.stall_timeout_s
            )
        except TrialError as error:
            return self._is_lost() if self._lost else self._fail(error)
        if self._lost:
            return self._is_lost()
        return self._give_back() if self._answered is Verdict.STOP else self._finish(result)

    def _report(self, epoch: Epoch) -> Verdict:
        """Store an epoch under the lease and decide how the training goes on."""
        claims, claim = self._bench.claims, self._claim
        standing = claims.report(claim, epoch)
        if standing is Standing.LOST:
            self._lost, self._answered = True, Verdict.STOP
            return self._answered
        value = epoch.metrics.get(self._job.metric, math.nan)
        self._watch(Event(Kind.EPOCH, claim.number, epoch.number, self._job.epochs, value))
        # After its last epoch a trial is done in a moment: it is told, not given back, and not
        # judged, as nothing is left to save by pruning.
        if epoch.number < self._job.epochs:
            if standing is Standing.STOP or self._drain.is_set():
                self._answered = Verdict.STOP
            elif claims.prunes(claim, epoch.number):
                self._answered = Verdict.PRUNE
        return self._answered

    def _poll(self) -> Verdict | None:
        """In mid-epoch only a lost lease ends a training: nobody wants its figures any more."""
        if self._keeper.standing is Standing.LOST:
            self._lost = True
            self._answered = Verdict.STOP
            return Verdict.STOP
        return None

    def _is_lost(self) -> Ended:
        log.warning("trial %d is no longer this worker's", self._claim.number)
        return Ended(None, lost=True)

    def _finish(self, result: Result) -> Ended:
        end = End.PRUNED if self._answered is Verdict.PRUNE else End.COMPLETE
        if end is End.COMPLETE and result.best_epoch is None:
            metric = self._job.metric
            return self._fail(TrialError("diverged", f"no epoch had a finite {metric}"))
        attrs = {
            "worker": self._bench.host,
            "device": self._job.device,
            "best_epoch": result.best_epoch,
            "train_s": round(result.train_s, 3),
            # What machines change most; all the others stand in effective.json.
            **{key: result.effective[key] for key in SHOWN if key in result.effective},
        }
        told = self._bench.claims.tell(self._claim, end, attrs=attrs, files=self._keep(result))
        return Ended(end) if told else self._is_lost()

    def _keep(self, result: Result) -> dict[str, Stored]:
        files = {f"pictures/{name}": path for name, path in result.pictures.items()}
        if result.weights is not None:
            files[f"weights/{result.weights.name}"] = result.weights
        effective = self._job.run_dir / "effective.json"
        effective.write_text(json.dumps(dict(result.effective), indent=2, default=str))
        files[effective.name] = effective
        return {name: self._bench.store.put(path) for name, path in files.items()}

    def _fail(self, error: TrialError) -> Ended:
        attrs = {
            "worker": self._bench.host,
            "fail_reason": error.reason,
            "fail_message": str(error),
        }
        told = self._bench.claims.tell(
            self._claim, End.FAIL, reason=f"{error.reason}: {error}", attrs=attrs
        )
        return Ended(End.FAIL, error=f"{error.reason}: {error}") if told else self._is_lost()

    def _give_back(self) -> Ended:
        self._bench.claims.release(self._claim)
        return Ended(None)

    def _release_if_possible(self) -> None:
        try:
            self._bench.claims.release(self._claim)
        except ServiceError as error:  # the lease runs out by itself; the first error goes on
            log.warning("trial %d not given back: %s", self._claim.number, error)


def make_job(bench: Bench, claim: Claim) -> Job:
    """The training that a claim asks for."""
    spec = bench.study.spec
    epochs = spec.budget.epochs or int(claim.params["epochs"])
    name = f"trial-{claim.number:04d}-{claim.token.hex[:8]}"
    return Job(
        trial=claim.number, model=spec.model, params=claim.params, train=spec.train, epochs=epochs,
        seed=spec.seed, metric=spec.objective.metric, direction=spec.objective.direction,
        data=bench.data, device=bench.device, run_dir=bench.runs / name,
    )  # fmt: skip

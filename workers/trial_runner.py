"""Run one trial: continue or start it, report each epoch under the lease, tell how it ended."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from hpo.claims.checkpoints import Checkpoints
from hpo.claims.claims import End, LeaseStatus
from hpo.claims.heartbeat import LeaseHeartbeat
from hpo.errors import CheckpointError, HpoError, ServiceError, StoreError, TrialError
from hpo.host.log import action_logger
from hpo.trainer import Directive, Epoch, Job, Result
from workers.checkpoints import CheckpointUploader, ResumePoints
from workers.events import Event, Kind, Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hpo.claims.claims import Claim
    from hpo.storage.artifacts.store import Stored
    from workers.context import StudyContext

log = action_logger(__name__)
T = TypeVar("T")

SHOWN = ("batch", "optimizer")  # effective arguments shown with the trial
STORE_WAIT_S = 2.0  # between two tries of a store that is needed now
LEAVING_S = 3.0  # of the grace, kept for the last checkpoint and for giving the trial back
LONGEST_FLUSH_S = 60.0  # for the last checkpoint of a study that was stopped


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


class GiveBackError(Exception):
    """The worker leaves while the trial needs a store that is not there."""


class LostError(Exception):
    """The lease was lost meanwhile."""


class TrialRunner:
    """One claimed trial; `run` is called once."""

    def __init__(
        self, context: StudyContext, claim: Claim, watch: Watch, *, seed: int | None = None
    ) -> None:
        """Prepare; `seed` None takes the study's."""
        self._context, self._claim, self._watch = context, claim, watch
        self._shutdown = context.worker.shutdown
        self._logger = log.bind(**context.claims.ids, trial=claim.number)
        self._job = make_job(context, claim, seed)
        self._answered = Directive.GO  # the last verdict given to the trainer
        self._lost = False
        self._last = 0  # the last epoch of this training
        self._heartbeat = LeaseHeartbeat(context.claims, claim)
        self._checkpoints = Checkpoints(context.claims, claim, context.store)
        self._uploader = CheckpointUploader(self._checkpoints, self._warn)
        self._resume_points = ResumePoints(self._checkpoints, self._job.run_dir, self._when_reached)
        self._warned = ""

    def run(self) -> Ended:
        """Train and tell.

        Raises:
            DatabaseError: PostgreSQL stayed away longer than the patience.
            OSError: the run's folder cannot be written; the trial is given back.
        """
        claim = self._claim
        params: dict[str, object] = dict(claim.params)
        self._watch(
            Event(kind=Kind.CLAIMED, trial=claim.number, epochs=self._job.epochs, params=params)
        )
        try:
            self._job.run_dir.mkdir(parents=True)
            with self._heartbeat:
                ended = self._ended()
        except ServiceError:
            raise  # PostgreSQL is gone: asking it to release would wait again; the lease runs out
        except BaseException:
            # Interrupted, or no space: the trial is not over, another worker may have it at once.
            self._release_if_possible()
            raise
        finally:
            shutil.rmtree(self._job.run_dir, ignore_errors=True)
        text = ended.end.value if ended.end else ("lost" if ended.lost else "given back")
        self._watch(Event(kind=Kind.ENDED, trial=claim.number, text=text, value=None))
        return ended

    def _ended(self) -> Ended:
        try:
            with self._uploader:
                result = self._train()
            if self._lost:
                return self._is_lost()
            if self._answered is Directive.STOP:
                return self._give_back()
            return self._finish(result)
        except TrialError as error:
            return self._is_lost() if self._lost else self._fail(error)
        except LostError:
            return self._is_lost()
        except GiveBackError:
            return self._give_back()

    def _train(self) -> Result:
        """Train from the newest checkpoint that can be continued from; nothing is told yet."""
        worker, points = self._context.worker, self._resume_points
        for resume in points if self._claim.takeovers else (None,):
            self._last = 0 if resume is None else resume.epoch
            if self._claim.takeovers and not self._say_resumed(points.note):
                raise LostError
            try:
                result = worker.process.train(
                    replace(self._job, resume=resume),
                    self._report,
                    poll=self._poll,
                    stall_timeout_s=worker.stall_timeout_s,
                )
            except CheckpointError as error:
                points.refuse(self._last, error)
                continue
            if self._answered is Directive.STOP and not self._lost:
                self._uploader.flush(min(self._shutdown.left_s, LONGEST_FLUSH_S))
            return result
        raise TrialError("error", f"the trainer refused even the start ({points.note})")

    def _say_resumed(self, note: str) -> bool:
        """Record where this attempt begins; False when the trial is another's."""
        number, epoch = self._claim.number, self._last
        if not self._context.claims.resume(self._claim, epoch, note):
            return False
        if note:
            self._logger.warning("trial %d: %s", number, note, action="checkpoint_not_used")
        where = f"goes on after epoch {epoch}" if epoch else "starts again, without a checkpoint"
        text = f"trial {number}: taken over, {where}"
        self._logger.info("%s", text, action="trial_taken_over")
        self._watch(Event(kind=Kind.NOTE, trial=number, text=text))
        return True

    def _report(self, epoch: Epoch) -> Directive:
        """Store an epoch under the lease and decide how the training goes on."""
        claims, claim = self._context.claims, self._claim
        standing = claims.report(claim, epoch)
        if standing is LeaseStatus.LOST:
            self._lost, self._answered = True, Directive.STOP
            return self._answered
        self._last = epoch.number
        if epoch.checkpoint is not None:
            self._uploader.submit(epoch.checkpoint)
        if epoch.warning:
            self._logger.warning(
                "trial %d: %s", claim.number, epoch.warning, action="trainer_warned"
            )
            self._warn(epoch.warning)
        value = epoch.metrics.get(self._job.metric, math.nan)
        self._watch(
            Event(
                kind=Kind.EPOCH,
                trial=claim.number,
                epoch=epoch.number,
                epochs=self._job.epochs,
                value=value,
            )
        )
        # After its last epoch a trial is done in a moment: it is told, not given back, and not
        # judged, as nothing is left to save by pruning.
        if epoch.number < self._job.epochs:
            if standing is LeaseStatus.STOP or self._shutdown.requested:
                self._answered = Directive.STOP
            elif claims.prunes(claim, epoch.number):
                self._answered = Directive.PRUNE
        return self._answered

    def _poll(self) -> Directive | None:
        """Say in mid-epoch whether to stop: for a lost lease, or a grace that is over."""
        self._lost = self._lost or self._heartbeat.standing is LeaseStatus.LOST
        if self._lost or self._shutdown.left_s <= min(LEAVING_S, self._shutdown.grace_s / 2):
            self._answered = Directive.STOP
            return Directive.STOP
        return None

    def _is_lost(self) -> Ended:
        self._logger.warning(
            "trial %d is no longer this worker's", self._claim.number, action="lease_lost"
        )
        if self._warned:
            self._warn("")
        return Ended(None, lost=True)

    def _finish(self, result: Result) -> Ended:
        end = End.PRUNED if self._answered is Directive.PRUNE else End.COMPLETE
        if end is End.COMPLETE and result.best_epoch is None:
            metric = self._job.metric
            return self._fail(TrialError("diverged", f"no epoch had a finite {metric}"))
        attrs = {
            "worker": self._context.worker.host,
            "device": self._job.device,
            "best_epoch": result.best_epoch,
            "train_s": round(result.train_s, 3),
            # What machines change most; all the others stand in effective.json.
            **{key: result.effective[key] for key in SHOWN if key in result.effective},
        }
        files = {name: self._kept(path) for name, path in self._files(result).items()}
        if end is End.COMPLETE:
            more, figures = self._examined(result)
            files |= more
            attrs |= figures
        told = self._context.claims.tell(
            self._claim, end, attrs=attrs, files=files, last=self._last
        )
        return self._told(Ended(end)) if told else self._is_lost()

    def _examined(self, result: Result) -> tuple[dict[str, Stored], dict[str, float]]:
        """(what else is kept of a complete trial, further attributes); nothing for a trial."""
        del result
        return {}, {}

    def _stopped(self) -> GiveBackError | LostError:
        """Why this worker must let go of the trial: it leaves, or the lease is another's."""
        return LostError() if self._lost else GiveBackError()

    def _files(self, result: Result) -> dict[str, Path]:
        files = {f"pictures/{name}": path for name, path in result.pictures.items()}
        if result.weights is not None:
            files[f"weights/{result.weights.name}"] = result.weights
        effective = self._job.run_dir / "effective.json"
        effective.write_text(json.dumps(dict(result.effective), indent=2, default=str))
        return files | {effective.name: effective}

    def _kept(self, path: Path) -> Stored:
        return self._when_reached(lambda: self._context.store.put(path))

    def _when_reached(self, call: Callable[[], T]) -> T:
        """Call until the store answers: nothing can go on without it."""
        while True:
            try:
                return call()
            except StoreError as error:
                text = f"trial {self._claim.number} waits: {error}"
                if text != self._warned:
                    self._logger.warning("%s", text, action="store_waited_for")
                    self._warn(text)
            if self._shutdown.event.wait(STORE_WAIT_S):
                raise GiveBackError
            if self._heartbeat.standing is LeaseStatus.LOST:
                raise LostError

    def _warn(self, text: str) -> None:
        self._warned = text
        self._context.claims.set_worker_warning(text)

    def _fail(self, error: TrialError) -> Ended:
        attrs = {
            "worker": self._context.worker.host,
            "fail_reason": error.reason,
            "fail_message": str(error),
        }
        reason = f"{error.reason}: {error}"
        told = self._context.claims.tell(
            self._claim, End.FAIL, reason=reason, attrs=attrs, last=self._last
        )
        return self._told(Ended(End.FAIL, error=reason)) if told else self._is_lost()

    def _told(self, ended: Ended) -> Ended:
        """Clear the told trial's checkpoints, which are of no use any more."""
        if self._warned:
            self._warn("")
        try:
            self._checkpoints.clear()
        except HpoError as error:
            self._logger.warning(
                "checkpoints of trial %d stay for now: %s",
                self._claim.number,
                error,
                action="checkpoints_not_removed",
            )
        return ended

    def _give_back(self) -> Ended:
        self._context.claims.release(self._claim)
        if self._warned:
            self._warn("")
        return Ended(None)

    def _release_if_possible(self) -> None:
        try:
            self._context.claims.release(self._claim)
        except ServiceError as error:  # the lease runs out by itself; the first error goes on
            self._logger.warning(
                "trial %d not given back: %s",
                self._claim.number,
                error,
                action="trial_not_given_back",
            )


def make_job(context: StudyContext, claim: Claim, seed: int | None = None) -> Job:
    """The training that a claim asks for, from its start; `seed` None takes the study's."""
    worker, study = context.worker, context.study
    spec = study.spec
    return Job(
        trial=claim.number,
        model=worker.model,
        params=claim.params,
        train=spec.train,
        epochs=spec.budget.epochs or int(claim.params["epochs"]),
        seed=spec.seed if seed is None else seed,
        metric=spec.objective.metric,
        direction=spec.objective.direction,
        data=worker.data,
        device=worker.device,
        run_dir=worker.runs / f"trial-{claim.number:04d}-{claim.token.hex[:8]}",
        checkpoint_every=worker.settings.checkpoint_every,
        model_sha256=study.model_sha256,
    )

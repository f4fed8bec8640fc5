"""The workers of one plan as Ray actors: started, waited for, and started again where one is lost.

Ray itself restarts none of them: only here is it known whether a worker was asked to leave, what is
left of its limits, and whether the study still wants it.
"""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from hpo.errors import ClusterError, HpoError, UsageError
from workers.ray_launcher.actor import Base, RayWorker

if TYPE_CHECKING:
    from typing import Self

    from hpo.settings import Settings
    from workers.ray_launcher.actor import Plan
    from workers.shift import Limits, Summary

RESTARTS = 10  # of one worker; a machine that kills it again and again is not worth more
TICK_S = 0.1
ANSWER_S = 5.0  # an actor that runs answers in milliseconds; one without a place on a node never
LEAVE_S = 20.0  # beyond the grace: to stop the training, to give the trial back, for MLflow
OVER = ("finished", "stopped", "deleted")  # a worker that left so speaks for all


@dataclass
class Slot:
    """One worker's place: it outlives the actors that fill it.

    Attributes:
        name: under which PostgreSQL counts the trials that its workers ended.
        actor: the present one.
        deaths: actors that died in it.
    """

    name: str
    actor: Any = None
    deaths: int = 0


class Launch:
    """The running workers of a plan; not for several threads, except `drain`.

    Attributes:
        summaries: of the workers that left by themselves, replaced ones included.
        errors: of those that failed.
        news: what a person should hear, in the order it happened; its reader empties it.
    """

    def __init__(self, plan: Plan, settings: Settings) -> None:
        _refuse_far_nodes(settings)
        self._plan, self._base = plan, Base.of(settings)
        self._kind = ray.remote(
            num_cpus=plan.cpus, num_gpus=plan.gpus, max_restarts=0, max_concurrency=2
        )(RayWorker)
        self._started = time.monotonic()
        self._asked = False  # to leave, by whoever called drain
        self._over = False  # the study wants no worker any more
        self._kill_at = math.inf
        self._deaf_at = math.inf
        self._answers: dict[str, Any] = {}  # slot -> its answer, when that has been asked for
        self.summaries: list[Summary] = []
        self.errors: list[HpoError] = []
        self.news: list[str] = []
        self._running: dict[Any, Slot] = {}
        for _ in range(plan.workers):
            self._fill(Slot(uuid.uuid4().hex))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End at once what still runs; the training processes die with their workers."""
        for slot in self._running.values():
            ray.kill(slot.actor)

    def wait(self, seconds: float) -> bool:
        """Wait for workers to end, at most so long; True when all have."""
        until = time.monotonic() + seconds
        while self._running:
            self._see_to_leaving()
            done, _ = ray.wait(list(self._running), timeout=0)
            for reference in done:
                self._ended(reference, self._running.pop(reference))
            if time.monotonic() >= until:
                break
            # Not in Ray, which holds signals back: two within one wait would be heard as one
            time.sleep(TICK_S)
        return not self._running

    def drain(self) -> None:
        """Let every worker leave within the grace; for signal handlers, so Ray is called later."""
        self._asked = True

    def _fill(self, slot: Slot) -> None:
        slot.actor = self._kind.remote(self._plan, self._base)
        self._running[slot.actor.run.remote(slot.name, self._limits())] = slot

    def _limits(self) -> Limits:
        limits = self._plan.limits
        if limits.timeout_s is None:
            return limits
        left_s = limits.timeout_s - (time.monotonic() - self._started)
        return replace(limits, timeout_s=max(0.0, left_s))

    def _ended(self, reference: Any, slot: Slot) -> None:
        try:
            summary = ray.get(reference)
        except RayTaskError as error:
            self.errors.append(_meaning(error))
        except RayActorError as error:
            self._died(slot, error)
            return
        except RayError as error:
            self.errors.append(ClusterError(f"a worker was lost: {_first_line(error)}"))
        else:
            self.summaries.append(summary)
            self._over = self._over or summary.why in OVER
            if summary.why == "drained" and not (self._asked or self._over):
                self.news.append("a worker had to leave its node; it goes on where there is room")
                self._replace(slot)
                return
        ray.kill(slot.actor)  # what it held on its node is free for those without a place

    def _died(self, slot: Slot, error: RayActorError) -> None:
        if self._asked or self._over:
            return  # it had been asked to leave, or was never needed
        slot.deaths += not error.preempted
        if error.actor_init_failed or slot.deaths > RESTARTS:
            text = f"a worker died {slot.deaths} times: {_first_line(error)}"
            self.errors.append(ClusterError(text))
            return
        self.news.append("a worker or its node died; another takes its place")
        self._replace(slot)

    def _replace(self, slot: Slot) -> None:
        ray.kill(slot.actor)
        self._fill(slot)

    def _see_to_leaving(self) -> None:
        """Ask once, then end those that do not answer, and those that take too long."""
        now = time.monotonic()
        if self._asked and self._kill_at == math.inf:
            self._kill_at = now + self._plan.grace_s + LEAVE_S
            self._ask("drain", now)
        elif self._over and self._deaf_at == math.inf:
            # The others see by themselves that it is over, and may be at the best trial now
            self._ask("ping", now)
        if now >= self._deaf_at:
            for slot in self._running.values():
                if not ray.wait([self._answers[slot.name]], timeout=0)[0]:
                    ray.kill(slot.actor)
        if now >= self._kill_at:
            self.__exit__()

    def _ask(self, what: str, now: float) -> None:
        self._deaf_at = now + ANSWER_S
        for slot in self._running.values():
            self._answers[slot.name] = getattr(slot.actor, what).remote()


def _meaning(error: RayTaskError) -> HpoError:
    cause = error.cause
    if isinstance(cause, HpoError):
        return cause
    if isinstance(cause, OSError):
        return HpoError(f"a worker failed: {cause}", hint="Check HPO_HOME and HPO_ARTIFACTS there.")
    return ClusterError(f"a worker failed: {type(cause).__name__}: {cause}")


def _first_line(error: RayError) -> str:
    return str(error).strip().partition("\n")[0]


def _refuse_far_nodes(settings: Settings) -> None:
    if settings.storage is not None:
        return
    here = ray.util.get_node_ip_address()
    far = [
        node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeManagerAddress"] != here
    ]
    if far:
        raise UsageError(
            f"the cluster has nodes elsewhere ({', '.join(far)}), which cannot reach this "
            "machine's private PostgreSQL",
            hint="Set HPO_STORAGE to a PostgreSQL that all nodes reach, and HPO_ARTIFACTS to a "
            "folder that they share.",
        )

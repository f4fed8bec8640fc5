"""Run the workers of a plan as Ray actors: start, wait, and start again where one is lost.

Ray itself restarts none of them: only here is it known whether a worker was asked to leave, what is
left of its limits, and whether the study still wants it.
"""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from hpo.errors import ClusterError, HpoError, MismatchError, NodesError, UsageError
from workers.ray_launcher.actor import RayWorker

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from ray.actor import ActorClass

    from workers.ray_launcher.actor import Placement, Plan
    from workers.ray_launcher.node_pool import NodePool
    from workers.ray_launcher.node_settings import NodeSettings
    from workers.study_loop import Limits, WorkerSummary

RESTARTS = 10  # of one worker; a machine that kills it again and again is not worth more
TICK_S = 0.1
ANSWER_S = 5.0  # an actor that runs answers in milliseconds; one without a place on a node never
PLACES_S = 6.0  # for an actor to find its place where there is room
SETTLE_S = 1.0  # after a worker's death, until its node is known to have gone with it
LOST_ON_NODE = 3  # workers that may die on one node, before others are asked
LEAVE_S = 20.0  # beyond the grace: to stop the training, to give the trial back, for MLflow
OVER = ("finished", "stopped", "deleted")  # a worker that left so speaks for all


@dataclass(kw_only=True)
class Slot:
    """One worker's place: it outlives the actors that fill it.

    Attributes:
        name: under which PostgreSQL counts the trials that its workers ended.
        actor: the present one.
        asked: its answer to where it is, when it has found a place.
        placement: where it is; None while it waits for room.
        deaths: actors that died in it.
    """

    name: str
    actor: Any = None
    asked: Any = None
    placement: Placement | None = None
    deaths: int = 0


def actor_class(plan: Plan) -> ActorClass[RayWorker]:
    """The actors of a plan.

    They are spread: each then has as much of a node's memory, disk and network as there is, and a
    lost node costs as few trials as can be. Ray's default fills one node to the half first.
    """
    actor: ActorClass[RayWorker] = ray.remote(
        num_cpus=plan.cpus, num_gpus=plan.gpus, max_restarts=0, max_concurrency=2,
        scheduling_strategy="SPREAD",
    )(RayWorker)  # fmt: skip
    return actor


def places(placements: Iterable[Placement | None]) -> str:
    """How many workers are where, for people."""
    count = Counter(placement.address for placement in placements if placement is not None)
    where = ", ".join(f"{number} on {address}" for address, number in sorted(count.items()))
    return f"workers: {where or 'none has a place yet'}"


class Launch:
    """The running workers of a plan; not for several threads, except `drain`.

    Attributes:
        summaries: of the workers that left by themselves, replaced ones included.
        errors: of those that failed.
        news: what a person should hear, in the order it happened; its reader empties it.
    """

    def __init__(self, plan: Plan, node_settings: NodeSettings, pool: NodePool) -> None:
        self._plan, self._node_settings, self._pool = plan, node_settings, pool
        self._kind = actor_class(plan)
        self._started = time.monotonic()
        self._asked = False  # to leave, by whoever called drain
        self._over = False  # the study wants no worker any more
        self._kill_at = math.inf
        self._deaf_at = math.inf
        self._answers: dict[str, Any] = {}  # slot -> its answer, when that has been asked for
        self.summaries: list[WorkerSummary] = []
        self.errors: list[HpoError] = []
        self.news: list[str] = []
        self._running: dict[Any, Slot] = {}
        self._dead: list[tuple[float, Slot, RayActorError]] = []  # when to look at its node
        self._waits_since = math.inf  # some worker has no place
        self._said = ""  # of the places
        self._lost_on: Counter[str] = Counter()
        self._slots = [Slot(name=uuid.uuid4().hex) for _ in range(plan.workers)]
        for slot in self._slots:
            self._fill(slot)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End at once what still runs; the training processes die with their workers."""
        for slot in self._running.values():
            ray.kill(slot.actor)

    def wait(self, seconds: float) -> bool:
        """Wait for workers to end, at most so long; True when all have."""
        until = time.monotonic() + seconds
        while self._running or self._dead:
            self._see_to_leaving()
            self._see_to_dead()
            self._see_to_mended()
            self._see_to_places()
            done, _ = ray.wait(list(self._running), timeout=0)
            for reference in done:
                self._ended(reference, self._running.pop(reference))
            if time.monotonic() >= until:
                break
            # Not in Ray, which holds signals back: two within one wait would be heard as one
            time.sleep(TICK_S)
        return not self._running and not self._dead

    def drain(self) -> None:
        """Let every worker leave within the grace; for signal handlers, so Ray is called later."""
        self._asked = True

    def _fill(self, slot: Slot) -> None:
        slot.actor = self._kind.options(**self._pool.options()).remote(
            self._plan, self._node_settings
        )
        slot.asked, slot.placement = slot.actor.where.remote(), None
        self._running[slot.actor.run.remote(slot.name, self._limits())] = slot

    def _limits(self) -> Limits:
        limits = self._plan.limits
        if limits.timeout_s is None:
            return limits
        left_s = limits.timeout_s - (time.monotonic() - self._started)
        return replace(limits, timeout_s=max(0.0, left_s))

    def _ended(self, reference: Any, slot: Slot) -> None:
        self._place(slot)
        try:
            summary = ray.get(reference)
        except RayTaskError as error:
            self._failed(slot, _meaning(error))
            return
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

    def _failed(self, slot: Slot, error: HpoError) -> None:
        """Of what only its node lacks, other nodes are asked; the rest is the launch's failure."""
        if slot.placement is not None and isinstance(error, UsageError | MismatchError):
            node, known = slot.placement.node, slot.placement.node in self._pool.out
            if isinstance(error, NodesError):
                (found,) = error.faults
                left_out = self._pool.leave_out_unfit(node, error)
            else:
                found = f"{slot.placement.address}: {error}"
                left_out = self._pool.leave_out(node, found)
            if left_out:
                if not known:  # else another worker has told of it
                    self.news.append(f"no worker on {found}")
                self._replace(slot)
                return
        self.errors.append(error)
        ray.kill(slot.actor)

    def _died(self, slot: Slot, error: RayActorError) -> None:
        if self._asked or self._over:
            return  # it had been asked to leave, or was never needed
        if error.actor_init_failed:  # a node that came later, and cannot even start one
            found = self._pool.look_again()
            self.news += [f"no worker on {fault}" for fault in found]
            if not found or not self._pool.usable():
                text = f"a worker could not start: {found[0] if found else _first_line(error)}"
                self.errors.append(ClusterError(text))
                return
            self._after_death(slot, error)
        elif self._node_settings.private or slot.placement is None:
            self.news.append("a worker died; another takes its place")
            self._after_death(slot, error)
        else:
            self._dead.append((time.monotonic() + SETTLE_S, slot, error))

    def _see_to_dead(self) -> None:
        """Replace workers that died; a lost node counts against none, and nobody is sent there."""
        now = time.monotonic()
        due = [one for one in self._dead if now >= one[0]]
        self._dead = [one for one in self._dead if now < one[0]]
        for _, slot, error in due:
            if self._asked or self._over or slot.placement is None:
                continue
            known = slot.placement.node in self._pool.out
            if self._pool.lost(slot.placement.node):
                if not known:
                    self.news.append(
                        f"the node {slot.placement.address} is lost; its workers go on elsewhere"
                    )
                self._replace(slot)
            else:
                self.news.append(
                    f"a worker died on {slot.placement.address}; another takes its place"
                )
                self._suspect(slot)
                self._after_death(slot, error)

    def _after_death(self, slot: Slot, error: RayActorError) -> None:
        slot.deaths += not error.preempted
        if slot.deaths <= RESTARTS:
            self._replace(slot)
            return
        text = f"a worker died {slot.deaths} times: {_first_line(error)}"
        self.errors.append(ClusterError(text))

    def _see_to_mended(self) -> None:
        """Let the workers that wait have the nodes that were unfit when they were asked for."""
        if self._node_settings.private or self._asked or self._over:
            return
        mended = self._pool.mended()
        self.news += [f"workers can run on {name} now" for name in mended]
        for reference, slot in list(self._running.items()) if mended else ():
            self._place(slot)
            if slot.placement is None:
                del self._running[reference]
                self._replace(slot)

    def _suspect(self, slot: Slot) -> None:
        """Leave a node out on which one worker after the other dies, if there is another."""
        if slot.placement is None:
            return
        self._lost_on[slot.placement.node] += 1
        fault = f"{LOST_ON_NODE} workers died there"
        if self._lost_on[slot.placement.node] >= LOST_ON_NODE and self._pool.leave_out(
            slot.placement.node, fault
        ):
            self.news.append(f"no worker on {slot.placement.address}: {fault}")

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
            self._ask("where", now)
        if now >= self._deaf_at:
            for slot in self._running.values():
                if not ray.wait([self._answers[slot.name]], timeout=0)[0]:
                    ray.kill(slot.actor)
        if now >= self._kill_at:
            self.__exit__()

    def _see_to_places(self) -> None:
        """Say where the workers are, and how many wait for room for longer than a start takes."""
        if self._node_settings.private or self._asked or self._over:
            return
        for slot in self._slots:
            self._place(slot)
        waiting = [slot.placement for slot in self._slots].count(None)
        now = time.monotonic()
        self._waits_since = min(self._waits_since, now) if waiting else math.inf
        if waiting and now < self._waits_since + PLACES_S:
            return
        said = places(slot.placement for slot in self._slots)
        if waiting:
            said += f"; {waiting} waiting: {self._pool.why_waiting()}"
        if said != self._said:
            self.news.append(said)
            self._said = said

    def _place(self, slot: Slot) -> None:
        if slot.placement is None and ray.wait([slot.asked], timeout=0)[0]:
            with suppress(RayError):  # it has died since, and `run` tells of what
                slot.placement = ray.get(slot.asked)

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

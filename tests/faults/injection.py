"""Do each planned fault to a world, and note what was really done."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from faults import audit, schedule
from faults.http_proxy import NONE
from faults.http_proxy import Fault as HttpFault
from faults.steps import RELEASE
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from hpo.studies.names import area_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from faults.fleet import Crew, Fleet
    from faults.schedule import Fault
    from faults.world import World

_NEWEST = text("""
    select c.epoch, c.token, c.sha256, c.best_sha256, h.uid, t.number
      from hpo.checkpoint c join public.trials t on t.trial_id = c.trial_id
      join hpo.study h on h.study_id = t.study_id
     where c.trial_id = :trial order by c.epoch desc
""")
_DATABASE = (schedule.RESTART, schedule.CRASH, schedule.CUT, schedule.REFUSED)
_MLFLOW = (schedule.NO_MLFLOW, schedule.MLFLOW_RESTART, schedule.SLOW, schedule.ERRORS)
_STORE = (schedule.FULL, schedule.AWAY)


@dataclass
class Done:
    """One fault that was injected.

    Attributes:
        kind: of faults.schedule.
        at: when it began, in seconds since 1970.
        until: when it was over.
        pid: of the worker that it was for; 0 for none.
        waited: whether another worker was waiting for something to claim.
    """

    kind: str
    at: float
    until: float
    pid: int = 0
    waited: bool = False


@dataclass
class Injector:
    """Injects faults into one study's run.

    Attributes:
        done: what was injected; kills at steps are known to the fleet.
        spoilt: (token, sha256) of the checkpoint files that were damaged or removed -> when.
    """

    world: World
    fleet: Fleet
    study: str
    rng: random.Random
    done: list[Done] = field(default_factory=list)
    spoilt: dict[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._windows: dict[str, tuple[Done, Callable[[], None]]] = {}
        self._threads: list[threading.Thread] = []

    def tick(self) -> None:
        """End what has lasted long enough, and ask workers to leave that are to die doing so."""
        now = time.time()
        for place, (done, end) in list(self._windows.items()):
            if now >= done.until:
                del self._windows[place]
                end()
                done.until = time.time()
        waiting = [crew for crew in self.fleet.living if crew.step in RELEASE and not crew.asked]
        if waiting:
            self._ask(waiting)

    def _ask(self, crews: list[Crew]) -> None:
        try:
            holders = audit.holders(self.world.engine, self.study)
        except DBAPIError:  # another fault is at work
            return
        for crew in crews:
            if crew.pid in holders and holders[crew.pid].epochs:
                crew.ask()

    def heal(self) -> None:
        """End every fault that lasts."""
        for done, _ in self._windows.values():
            done.until = 0.0
        self.tick()
        for thread in self._threads:
            thread.join()
        for crew in self.fleet.living:
            if crew.wakes is not None:
                crew.wake()

    def begin(self, fault: Fault) -> bool:
        """Inject it; False when there is nothing to do it to at the moment."""
        if fault.step is not None:
            self.fleet.to_die.append((fault.step, fault.call))
            return True
        if fault.kind in (*schedule.KILLS, schedule.DRAIN, schedule.PAUSE):
            return self._to_worker(fault)
        return self._to_service(fault)

    def _to_worker(self, fault: Fault) -> bool:
        try:
            return self._to_some_worker(fault)
        except DBAPIError:  # another fault is at work
            return False

    def _to_some_worker(self, fault: Fault) -> bool:
        crew = self._target()
        if crew is None:
            return False
        machine = self.rng.random() < 0.5
        waited = bool(audit.idle(self.world.engine, self.study))
        now = time.time()
        if fault.kind == schedule.PAUSE:
            until = now + self.world.lease_s + fault.seconds
            crew.pause(until, machine=machine)
            self.done.append(Done(fault.kind, now, until, crew.pid))
            return True
        if fault.kind == schedule.DRAIN:
            crew.ask()
        elif fault.kind in (schedule.DAMAGED, schedule.REMOVED):
            if not self._spoil(crew, remove=fault.kind == schedule.REMOVED):
                return False
            crew.kill(machine=machine)
        else:
            crew.kill(machine=fault.kind == schedule.MACHINE)
        self.done.append(Done(fault.kind, now, now, crew.pid, waited))
        return True

    def _target(self) -> Crew | None:
        """A worker that trains, best one that nothing else is planned for."""
        holders = audit.holders(self.world.engine, self.study)
        able = [
            crew for crew in self.fleet.living
            if crew.pid in holders and crew.wakes is None and not crew.asked and not crew.killed
        ]  # fmt: skip
        free = [crew for crew in able if crew.step is None]
        return self.rng.choice(free or able) if able else None

    def _spoil(self, crew: Crew, *, remove: bool) -> bool:
        """Damage or remove the newest checkpoint of the worker's trial, which stands still."""
        crew.pause(0.0, machine=False)  # it wakes by itself should PostgreSQL be away now
        rows: list[Any] = []
        held = audit.holders(self.world.engine, self.study).get(crew.pid)
        if held is not None and "store" not in self._windows:
            with self.world.engine.connect() as connection:
                rows = list(connection.execute(_NEWEST, {"trial": held.trial_id}))
            rows = [row for row in rows if (str(row.token), row.sha256) not in self.spoilt]
        for row in rows[: 2 if self.rng.random() < 0.3 else 1]:
            file = self.world.disk.seen / area_of(row.uid, row.number, row.token) / row.sha256
            if remove:
                file.unlink()
            else:
                damage(file)
            self.spoilt[str(row.token), row.sha256] = time.time()
        if not rows:
            crew.wake()
        return bool(rows)

    def _to_service(self, fault: Fault) -> bool:
        place = next(
            name for name, kinds in
            (("database", _DATABASE), ("mlflow", _MLFLOW), ("store", _STORE)) if fault.kind in kinds
        )  # fmt: skip
        starting = place == "mlflow" and any(thread.is_alive() for thread in self._threads)
        if place in self._windows or starting:
            return False
        if fault.kind == schedule.FULL and not self.world.disk.has_quota:
            return True  # not possible here: it is not done, and not told as done
        now = time.time()
        end = self._act(fault)
        done = Done(fault.kind, now, now + fault.seconds)
        self.done.append(done)
        self._windows[place] = (done, end)
        return True

    def _act(self, fault: Fault) -> Callable[[], None]:
        """Begin it; what ends it."""
        if fault.kind in _MLFLOW:
            return self._act_on_mlflow(fault)
        world, way, disk = self.world, self.world.database, self.world.disk
        acts: dict[str, tuple[Callable[[], object], Callable[[], None]]] = {
            schedule.CUT: (way.cut, lambda: None),
            schedule.REFUSED: (partial(way.refuse, on=True), partial(way.refuse, on=False)),
            schedule.RESTART: (world.stop_postgres, world.start_postgres),
            schedule.CRASH: (world.kill_postgres, world.start_postgres),
            schedule.FULL: (disk.fill, disk.free),
            schedule.AWAY: (disk.take_away, disk.bring_back),
        }
        begin, end = acts[fault.kind]
        begin()
        return end

    def _act_on_mlflow(self, fault: Fault) -> Callable[[], None]:
        world = self.world
        if fault.kind == schedule.MLFLOW_RESTART:
            world.mlflow.stop()
            return lambda: self._aside(world.mlflow.start)
        world.tracking.fault = {
            schedule.NO_MLFLOW: HttpFault(refuse=True),
            schedule.SLOW: HttpFault(delay_s=fault.seconds),
            schedule.ERRORS: HttpFault(status=500),
        }[fault.kind]
        return lambda: setattr(world.tracking, "fault", NONE)

    def _aside(self, slow: Callable[[], None]) -> None:
        """MLflow takes long to start; workers are not left alone meanwhile."""
        self._threads.append(threading.Thread(target=slow))
        self._threads[-1].start()


def damage(file: Path) -> None:
    """Change a file as a failing disk does: its size stays, and it may still be readable."""
    content = bytearray(file.read_bytes())
    # A figure inside a JSON text stays one; of other files some byte in the middle changes
    place = content.rfind(b'"digest": "')
    place = len(content) // 2 if place < 0 else place + len(b'"digest": "')
    content[place] = ord("0") if content[place] != ord("0") else ord("1")
    file.write_bytes(bytes(content))

"""What bench_scale.py measures: studies with many trials, and workers on their claims."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_claims import EPOCHS, curve, make_our_study
from sqlalchemy import text

from hpo.claims.claims import Claim, Claims, End, read_snapshot
from hpo.claims.history import History
from hpo.storage.postgres.engine import Database, make_engine
from hpo.studies.spec import Choice
from hpo.studies.store import load_study
from hpo.trainer import Epoch

if TYPE_CHECKING:
    from sqlalchemy import Engine

FIRST = 50  # trials of a study that are run; the others are copies of their rows, shifted
UNLIMITED = 10_000_000
LEASE_S = 600.0
OPERATIONS = ("claim", "report", "verdict", "renew", "tell")
# Tables with a row or more a trial, and the columns that must differ in a copy. Of the numbers
# that a search learns from, parameters get noise: copies would be no search.
COPIED = {
    "public.trials": {"trial_id": "{id}", "number": "s.number + :shift"},
    "public.trial_params": {
        "param_id": "nextval('trial_params_param_id_seq')", "trial_id": "{id}",
        "param_value": "least(0.999, greatest(0, s.param_value + 0.2 * (random() - 0.5)))",
    },
    "public.trial_values": {
        "trial_value_id": "nextval('trial_values_trial_value_id_seq')", "trial_id": "{id}",
    },
    "public.trial_intermediate_values": {
        "trial_intermediate_value_id":
            "nextval('trial_intermediate_values_trial_intermediate_value_id_seq')",
        "trial_id": "{id}",
    },
    "public.trial_user_attributes": {
        "trial_user_attribute_id":
            "nextval('trial_user_attributes_trial_user_attribute_id_seq')",
        "trial_id": "{id}",
    },
    "public.trial_system_attributes": {
        "trial_system_attribute_id":
            "nextval('trial_system_attributes_trial_system_attribute_id_seq')",
        "trial_id": "{id}",
    },
    "hpo.lease": {"trial_id": "{id}", "token": "gen_random_uuid()"},
    "hpo.attempt": {"trial_id": "{id}", "token": "gen_random_uuid()"},
    "hpo.epoch": {"trial_id": "{id}"},
    "hpo.artifact": {"trial_id": "{id}"},
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Where workers are measured.

    Attributes:
        url: the database.
        name: the study.
        history: all its finished trials.
        postmaster: the server's process.
        seconds: how long each worker begins new trials.
        sampler: instead of the study's.
    """

    url: str
    name: str
    history: History
    postmaster: int
    seconds: float
    sampler: Choice | None = None


@dataclass
class Spent:
    """What so many workers did.

    Attributes:
        wall_s: seconds from the first call to the last.
        server_s: seconds of processor time of PostgreSQL's processes.
        calls: seconds that each call of an operation took.
    """

    wall_s: float
    server_s: float
    calls: dict[str, list[float]] = field(default_factory=dict)

    def rate(self, operation: str) -> float:
        """Calls a second, of all workers together."""
        return len(self.calls.get(operation, ())) / self.wall_s


def new_study(engine: Engine, name: str) -> None:
    """A study with its first trials, run through the real claims."""
    make_our_study(engine, name, UNLIMITED)
    study = load_study(engine, name)
    # All of their epochs: so much a trial takes of the database at most
    whole = replace(study, spec=replace(study.spec, pruner=Choice("none", {})))
    claims = Claims(Database(engine, patience_s=60), whole, 0, lease_s=LEASE_S)
    for _ in range(FIRST):
        one_trial(claims, {})


def one_trial(claims: Claims, calls: dict[str, list[float]]) -> None:
    """A whole trial as a worker calls for it, but for the training; times go into `calls`."""

    def timed(operation: str, call: Any) -> Any:
        at = time.perf_counter()
        value = call()
        calls.setdefault(operation, []).append(time.perf_counter() - at)
        return value

    claim = timed("claim", claims.claim)
    if not isinstance(claim, Claim):
        raise TypeError(f"the study hands out no trial: {claim}")
    end = End.COMPLETE
    timed("renew", lambda: claims.renew(claim))
    for number in range(1, EPOCHS + 1):
        epoch = Epoch(number, {"score": curve(claim.params, number), "seconds": 0.0})
        timed("report", lambda: claims.report(claim, epoch))  # noqa: B023 - called at once
        if timed("verdict", lambda: claims.prunes(claim, number)):  # noqa: B023 - as above
            end = End.PRUNED
            break
    attrs = {"worker": "bench", "device": "cpu", "best_epoch": EPOCHS, "train_s": 1.0}
    timed("tell", lambda: claims.tell(claim, end, attrs=attrs))


def fill(engine: Engine, name: str, trials: int) -> None:
    """Let the study have so many trials: copies of the rows of those that it has."""
    study_id = load_study(engine, name).study_id
    with engine.begin() as connection:
        count = text("select count(*), min(trial_id) from trials where study_id = :study")
        while (found := connection.execute(count, {"study": study_id}).one())[0] < trials:
            have = found[0]
            top = connection.scalar(text("select max(trial_id) from trials"))
            more = min(have, trials - have)
            values = {"study": study_id, "shift": have, "above": top - found[1] + 1, "more": more}
            for table, changed in COPIED.items():
                _copy(connection, table, changed, values)
            connection.execute(
                text("select setval('trials_trial_id_seq', (select max(trial_id) from trials))")
            )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze"))


def _copy(connection: Any, table: str, changed: dict[str, str], values: dict[str, int]) -> None:
    schema, name = table.split(".")
    columns = connection.scalars(
        text("select column_name from information_schema.columns where table_schema = :schema "
             "and table_name = :name and is_generated = 'NEVER' and is_identity = 'NO'"),
        {"schema": schema, "name": name},
    ).all()  # fmt: skip
    chosen = [changed.get(one, f"s.{one}").format(id="s.trial_id + :above") for one in columns]
    connection.execute(
        text(f"insert into {table} ({', '.join(columns)}) select {', '.join(chosen)} "  # noqa: S608 - our own words
             f"from {table} s join trials t on t.trial_id = s.trial_id "
             "where t.study_id = :study and t.number < :more"),
        values,
    )  # fmt: skip


def first_look(engine: Engine, name: str) -> tuple[History, float]:
    """All trials of the study as a worker reads them first, and the seconds that takes."""
    study = load_study(engine, name)
    history = History(study.study_id, study.name, study.spec.objective.direction)
    at = time.perf_counter()
    with engine.connect() as connection:
        read_snapshot(connection, history)
    return history, time.perf_counter() - at


def measure(scene: Scene, workers: int) -> Spent:
    """So many processes at the study at once, each as fast as it is answered.

    They are forked from this one, with all finished trials read: a worker does that once.
    """
    context = multiprocessing.get_context("fork")
    ready, start, answers = context.Semaphore(0), context.Event(), context.Queue()
    processes = [
        context.Process(target=_work, args=(scene, index, ready, start, answers))
        for index in range(1, workers + 1)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    before = processor_s(scene.postmaster)
    start.set()
    results = [answers.get(timeout=scene.seconds + 300) for _ in processes]
    for process in processes:
        process.join()
    wall_s = max(end for _, end, _ in results) - min(begin for begin, _, _ in results)
    spent = Spent(wall_s, processor_s(scene.postmaster) - before)
    for _, _, calls in results:
        for operation, times in calls.items():
            spent.calls.setdefault(operation, []).extend(times)
    return spent


def _work(scene: Scene, index: int, ready: Any, start: Any, answers: Any) -> None:
    engine = make_engine(scene.url, pool_size=1)
    study = load_study(engine, scene.name)
    if scene.sampler is not None:
        study = replace(study, spec=replace(study.spec, sampler=scene.sampler))
    claims = Claims(Database(engine, patience_s=60), study, index, lease_s=LEASE_S)
    claims._history = scene.history  # noqa: SLF001 - what it would read itself, in each process
    calls: dict[str, list[float]] = {}
    ready.release()
    start.wait()
    begin = time.perf_counter()
    while time.perf_counter() - begin < scene.seconds:
        one_trial(claims, calls)
    answers.put((begin, time.perf_counter(), calls))
    engine.dispose()


def postmaster_of(engine: Engine) -> int:
    """Process id of a PostgreSQL server on this machine."""
    with engine.connect() as connection:
        folder = Path(str(connection.scalar(text("show data_directory"))))
    return int((folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])


def processor_s(postmaster: int) -> float:
    """Seconds of processor time that a server's processes have used, ended ones included."""
    ticks = sum(_ticks(postmaster, ended=True))
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) == postmaster:
                ticks += sum(_ticks(int(status.parent.name), ended=False))
        except OSError:  # it ended meanwhile
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int, *, ended: bool) -> list[int]:
    """(user, system) of a process, and with `ended` of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return [int(one) for one in fields[11 : 15 if ended else 13]]

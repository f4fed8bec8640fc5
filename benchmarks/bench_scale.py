"""Claims, reports and their verdicts of 1 to 64 workers in studies of 100 to 10,000 trials.

Each worker is a process that calls what `hpo worker` calls for a trial of ten epochs, and does not
train: it asks for the next as soon as it is answered. Then whole `hpo worker` processes, as many as
asked for, for what one of them takes of memory and connections. With --out the tables go between
the page's markers, with the arithmetic to a thousand workers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench_claims import EPOCHS
from pages import write
from scale_workers import RealWorkers, real_workers
from scale_world import (
    Scene,
    fill,
    first_look,
    measure,
    new_study,
    postmaster_of,
    processor_s,
)
from sqlalchemy import text

from hpo.storage.postgres.engine import Database
from hpo.studies.spec import Choice
from hpo.studies.store import load_study
from hpo.tracking.sync_state import SyncState

if TYPE_CHECKING:
    from collections.abc import Callable

    from scale_world import Spent
    from sqlalchemy import Engine

WORKERS = (1, 8, 32, 64)
TRIALS = (100, 1_000, 10_000)
STUDY = "scale"
# Of the main table. What a sampler computes is computed on the worker's machine, not on this one
SAMPLER = Choice("random", {})
LOOKS = 20  # of a mirror
MANY = 1_000  # workers of the arithmetic
EPOCH_S, EPOCHS_OF_A_TRIAL, LEASE_S, MIRROR_S = 60.0, 50, 30.0, 60.0


@dataclass
class Size:
    """Figures of a study of one size.

    Attributes:
        trials: in the study.
        database_mb: of the whole database.
        first_look_s: to read all trials, once a worker.
        tpe_ms: median of a claim with TPE, one worker alone.
        mirror_ms: median of what a mirror asks before it copies.
        mirror_server_s: processor time of PostgreSQL for one of them.
        by_workers: number of workers -> what they did.
    """

    trials: int
    database_mb: float
    first_look_s: float
    tpe_ms: float
    mirror_ms: float
    mirror_server_s: float
    by_workers: dict[int, Spent]


def ms(values: list[float], *, p95: bool = False) -> float:
    """Median, or 95th percentile, in milliseconds."""
    if not p95:
        return statistics.median(values) * 1e3
    return statistics.quantiles(values, n=20)[-1] * 1e3 if len(values) > 1 else values[0] * 1e3


def size_of(engine: Engine, url: str, trials: int, workers: list[int], seconds: float) -> Size:
    """Bring the study to this size and measure it."""
    fill(engine, STUDY, trials)
    postmaster = postmaster_of(engine)
    history, look_s = first_look(engine, STUDY)
    marks = SyncState(Database(engine), load_study(engine, STUDY).study_id)
    with engine.connect() as connection:
        size = connection.scalar(text("select pg_database_size(current_database())"))
    before = processor_s(postmaster)
    looks = [_seconds(marks.pending) for _ in range(LOOKS)]
    looked_s = (processor_s(postmaster) - before) / LOOKS
    engine.dispose()  # nothing open is forked
    scene = Scene(url, STUDY, history, postmaster, seconds)
    tpe = measure(scene, 1)
    done = {count: measure(replace(scene, sampler=SAMPLER), count) for count in workers}
    return Size(trials, size / 1e6, look_s, ms(tpe.calls["claim"]), ms(looks), looked_s, done)


def _seconds(call: Callable[[], object]) -> float:
    at = time.perf_counter()
    call()
    return time.perf_counter() - at


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def server_ms(spent: Spent) -> float:
    """Processor time of PostgreSQL for one trial."""
    return 1e3 * spent.server_s / len(spent.calls["tell"])


def main_table(sizes: list[Size]) -> str:
    """A row for each number of workers at each size."""
    head = (
        "trials in the study", "workers", "claims/s", "claim, ms median", "p95",
        "reports/s", "report, ms", "verdict, ms", "renewal, ms", "tell, ms",
        "PostgreSQL, ms of a core a trial",
    )  # fmt: skip
    rows = [
        (
            f"{size.trials:,}", count, f"{spent.rate('claim'):.1f}",
            f"{ms(spent.calls['claim']):.0f}", f"{ms(spent.calls['claim'], p95=True):.0f}",
            f"{spent.rate('report'):.0f}",
            *(f"{ms(spent.calls[what]):.1f}" for what in ("report", "verdict", "renew", "tell")),
            f"{server_ms(spent):.0f}",
        )
        for size in sizes for count, spent in size.by_workers.items()
    ]  # fmt: skip
    return table(head, rows)


def size_table(sizes: list[Size]) -> str:
    """What depends on the study alone."""
    head = (
        "trials in the study", "database, MB", "first look of a worker, s",
        "claim with TPE, one worker, ms", "look of a mirror, ms",
    )  # fmt: skip
    rows = [
        (
            f"{size.trials:,}", f"{size.database_mb:.0f}", f"{size.first_look_s:.1f}",
            f"{size.tpe_ms:.0f}", f"{size.mirror_ms:.1f}",
        )
        for size in sizes
    ]  # fmt: skip
    return table(head, rows)


def arithmetic(sizes: list[Size]) -> str:
    """From the figures to a thousand workers."""
    largest, smallest = sizes[-1], sizes[0]
    spent = next(iter(largest.by_workers.values()))
    trials_s = MANY / (EPOCH_S * EPOCHS_OF_A_TRIAL)
    epochs_s, renewals_s = MANY / EPOCH_S, MANY / (LEASE_S / 3)
    a_call = 1e3 * spent.server_s / sum(len(times) for times in spent.calls.values())
    # Two calls a trial, a report and a verdict an epoch, two more for its checkpoint
    calls_s = 2 * trials_s + 4 * epochs_s + renewals_s
    looks_s = 2 * epochs_s + MANY / MIRROR_S
    cores = calls_s * a_call / 1e3 + looks_s * largest.mirror_server_s
    capacity = max(one.rate("claim") for one in largest.by_workers.values())
    growth = ""
    if largest.trials > smallest.trials:
        kb = 1e3 * (largest.database_mb - smallest.database_mb) / (largest.trials - smallest.trials)
        growth = (
            f"A trial of {EPOCHS} epochs takes {kb:.1f} kB of the database: 10,000 of them "
            f"{kb * 10:.0f} MB, and of {EPOCHS_OF_A_TRIAL} epochs about five times that.\n"
        )
    return f"""\
At {EPOCH_S:.0f} s an epoch, {EPOCHS_OF_A_TRIAL} epochs a trial and leases of {LEASE_S:.0f} s, \
{MANY:,} workers make {trials_s:.2f} claims,
{epochs_s:.0f} reports with their verdicts and checkpoints, {renewals_s:.0f} renewals and \
{looks_s:.0f} looks of mirrors a second.

- **Claims**: {trials_s / capacity:.1%} of the {capacity:.1f} a second that this machine gave in \
a study of {largest.trials:,} trials.
- **PostgreSQL's processors**: {a_call:.1f} ms of a core a call, \
{1e3 * largest.mirror_server_s:.1f} ms a look: {cores:.2f} cores in all.
- **Connections**: {2 * MANY:,}, two a worker: PgBouncer, or max_connections above it.

{growth}"""


def real_text(real: RealWorkers) -> str:
    """What whole workers showed."""
    return f"""\
{real.count} whole `hpo worker` processes at once (`simulated` trainer, epochs of a second): \
{real.memory:.0f} MB each with its
training process, which has not loaded torch; {real.epochs:.1f} epochs a second, all together; at \
most {real.connections}
connections to the studies' database, {real.connections / real.count:.2f} a worker, and \
{real.to_mlflow} to MLflow's own, which they
write directly where there is no MLflow server."""


def section(sizes: list[Size], real: RealWorkers | None, command: str) -> str:
    """The page's part."""
    with Path("/proc/loadavg").open(encoding="utf-8") as file:
        load = file.read().split()[0]
    parts = [
        f"""\
`{command}` on {os.cpu_count()} cores that workers and PostgreSQL share (load average at its end
{load}). Each worker is one process that asks as fast as it is answered and draws its parameters at
random; the pruner is Hyperband.""",
        main_table(sizes),
        size_table(sizes),
        *([] if real is None else [real_text(real)]),
        arithmetic(sizes),
    ]
    return "\n\n".join(parts).strip()


def main() -> None:
    """Measure, print, write."""
    import optuna

    from hpo.storage.postgres import embedded, schema
    from hpo.storage.postgres.engine import make_engine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--trials", type=int, nargs="+", default=list(TRIALS))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each row")
    parser.add_argument("--real", type=int, default=16, help="whole workers; 0 leaves them out")
    parser.add_argument("--out", type=Path, help="page with the markers: docs/scaling.md")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / ".hpo"
        url = embedded.ensure_running(home, create=True)
        engine = make_engine(url)
        try:
            schema.upgrade(engine)
            new_study(engine, STUDY)
            sizes = []
            for trials in sorted(asked.trials):
                sizes.append(size_of(engine, url, trials, asked.workers, asked.seconds))
                print(main_table(sizes[-1:]), flush=True)
            engine.dispose()
            real = (
                real_workers(url, Path(folder) / "real", asked.real, 20.0) if asked.real else None
            )
        finally:
            engine.dispose()
            embedded.stop(home)
    text_ = section(sizes, real, "make bench-scale")
    print(text_)
    if asked.out:
        write(asked.out, "bench-scale", text_)


if __name__ == "__main__":
    main()

"""Whole `hpo worker` processes, for bench_scale.py: memory, connections and epochs of real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, text

from hpo.storage.postgres.admin import ensure_database

if TYPE_CHECKING:
    from sqlalchemy import Engine


@dataclass
class RealWorkers:
    """What whole `hpo worker` processes used.

    Attributes:
        count: how many there were.
        seconds: from the first trial told to the last epoch looked at.
        epochs: a second, of all together.
        memory: MB of one, its training process included (proportional set size).
        connections: to the studies' database, the most of all together.
        to_mlflow: to MLflow's own database.
    """

    count: int
    seconds: float
    epochs: float
    memory: float
    connections: int
    to_mlflow: int


def real_workers(url: str, folder: Path, count: int, seconds: float) -> RealWorkers:
    """So many at a study of trials with epochs of a second, looked at for so long."""
    home = folder / ".hpo"
    home.mkdir(parents=True)
    study = folder / "hpo.yaml"
    study.write_text(
        "study: real\ntrainer: simulated\nsearch_space: simulated\npromotion: none\n"
        f"objective: {{metric: mAP50, direction: maximize}}\n"
        f"budget: {{trials: {count * 100}, epochs: 10}}\ntrain: {{epoch_s: 1.0}}\n"
    )
    # The first worker would make it, on a connection more
    ensure_database(f"{url}_mlflow", beside=url)
    hpo = str(Path(sys.executable).with_name("hpo"))
    env = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    # As on a cluster: whoever has the private server's own folder also asks whether it lives
    env |= {"HPO_HOME": str(home), "HPO_STUDY": "real", "HPO_STORAGE": url}
    subprocess.run([hpo, "create-study"], env=env, cwd=folder, check=True, capture_output=True)
    with (folder / "workers.log").open("wb") as log:
        workers = [
            subprocess.Popen([hpo, "worker"], env=env, cwd=folder, stdout=log, stderr=log)
            for _ in range(count)
        ]
    try:
        # One connection, which stays and is not counted
        return _looked_at(create_engine(url, pool_size=1), workers, seconds)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _looked_at(
    engine: Engine, workers: list[subprocess.Popen[bytes]], seconds: float
) -> RealWorkers:
    reported = text(
        "select count(*), count(distinct l.worker_id) from hpo.epoch e "
        "join hpo.lease l using (trial_id) join studies s on s.study_id = l.study_id "
        "where s.study_name = 'real'"
    )
    connected = text(
        "select count(*) filter (where datname = current_database() and pid <> pg_backend_pid()), "
        "count(*) filter (where datname = current_database() || '_mlflow') from pg_stat_activity "
        "where backend_type = 'client backend'"
    )

    def look(statement: Any) -> Any:
        with engine.connect() as connection:
            return connection.execute(statement).one()

    while look(reported)[1] < len(workers):
        if any(worker.poll() is not None for worker in workers):
            raise SystemExit("a worker left")
        time.sleep(1)
    began, before = time.monotonic(), look(reported)[0]
    most, to_mlflow = 0, 0
    while time.monotonic() - began < seconds:
        here, there = look(connected)
        most, to_mlflow = max(most, here), max(to_mlflow, there)
        time.sleep(0.05)
    took = time.monotonic() - began
    epochs = (look(reported)[0] - before) / took
    memory = sum(_memory_mb(worker.pid) for worker in workers) / len(workers)
    return RealWorkers(len(workers), took, epochs, memory, most, to_mlflow)


def _memory_mb(pid: int) -> float:
    """Of a process and its children, what they share counted by parts."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    done = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return own + sum(_memory_mb(int(child)) for child in done.stdout.split())

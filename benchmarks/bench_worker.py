"""A worker's trials against the bare Ultralytics loop with the same arguments, in one run.

Prints, for each trial of a warm worker (the first one pays for imports and is left out): the wall
time between claim and tell, what of it was spent inside Ultralytics' own training and validation,
and beside it what `YOLO(...).train(...)` with the same arguments takes in a warm process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BARE = """
import json, os, sys, time
arguments = json.loads(sys.argv[1])
runs = int(sys.argv[2])
from ultralytics import YOLO
times = []
for index in range(runs):
    at = time.perf_counter()
    YOLO(arguments["model"]).train(**{k: v for k, v in arguments.items() if k != "model"},
        project=os.getcwd(), name=f"bare-{index}")
    times.append(time.perf_counter() - at)
print("TIMES " + json.dumps(times))
"""
SQL = """
select t.number, extract(epoch from l.told_at - l.claimed_at) as wall,
       (select a.value_json from trial_user_attributes a
         where a.trial_id = t.trial_id and a.key = 'train_s') as train_s,
       (select f.sha256 from hpo.artifact f
         where f.trial_id = t.trial_id and f.name = 'effective.json') as effective
  from hpo.lease l join trials t on t.trial_id = l.trial_id order by t.number
"""
# What a bare run is given of a trial's effective arguments: all that decides its cost.
COST = [
    "model",
    "data",
    "epochs",
    "imgsz",
    "batch",
    "optimizer",
    "lr0",
    "momentum",
    "weight_decay",
    "nbs",
    "scale",
    "workers",
    "cache",
    "device",
    "amp",
    "plots",
    "seed",
    "deterministic",
    "patience",
    "val",
]


def main() -> None:
    """Run a study with one worker, then the bare loop with a trial's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.trials, options.epochs)


def hpo(folder: Path, *words: str) -> str:
    """Run the command line in `folder`; its stdout."""
    command = [str(Path(sys.executable).with_name("hpo")), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def measure(folder: Path, trials: int, epochs: int) -> None:
    """Print the table."""
    import psycopg2

    from hpo.storage.artifacts.folder import FolderStore
    from hpo.storage.postgres import embedded

    hpo(folder, "create-study", "--trials", str(trials), "--epochs", str(epochs), "--set",
        "pruner=none")  # fmt: skip
    try:
        hpo(folder, "worker")
        url = embedded.ensure_running(folder / ".hpo").replace("+psycopg2", "")
        connection = psycopg2.connect(url)
        with connection.cursor() as cursor:
            cursor.execute(SQL)
            rows = cursor.fetchall()
        connection.close()
    finally:
        hpo(folder, "down")
    store = FolderStore(folder / ".hpo" / "artifacts")
    effective = json.loads(store.fetch(rows[-1][3], folder / "effective.json").read_text())
    data = str(next((folder / ".hpo" / "datasets").glob("*/data.yaml")))
    arguments = {name: effective[name] for name in COST if name in effective}
    arguments |= {"model": "yolov8n.yaml", "data": data}
    bare = run_bare(folder, arguments, trials)
    show(rows[1:], bare[1:])


def run_bare(folder: Path, arguments: dict[str, object], runs: int) -> list[float]:
    """Seconds of each plain Ultralytics training in one process."""
    config = folder / "ultralytics"
    config.mkdir()
    env = os.environ | {"YOLO_CONFIG_DIR": str(config), "YOLO_OFFLINE": "true"}
    done = subprocess.run(
        [sys.executable, "-c", BARE, json.dumps(arguments), str(runs)], cwd=folder, env=env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    marked = next(text for text in done.stdout.splitlines() if text.startswith("TIMES "))
    times: list[float] = json.loads(marked.removeprefix("TIMES "))
    return times


def show(rows: list[tuple[object, ...]], bare: list[float]) -> None:
    """Shares and ratios, as Markdown."""
    print("| trial | claim to tell, s | inside Ultralytics, s | share | bare Ultralytics, s |")
    print("| --- | --- | --- | --- | --- |")
    shares = []
    for (number, wall, train_s, _), alone in zip(rows, bare, strict=True):
        shares.append(float(str(train_s)) / float(str(wall)))
        ours = f"{float(str(wall)):.2f} | {float(str(train_s)):.2f} | {shares[-1]:.1%}"
        print(f"| {number} | {ours} | {alone:.2f} |")
    walls = [float(str(row[1])) for row in rows]
    print(
        f"\nmedian share inside Ultralytics {statistics.median(shares):.1%}; a trial takes "
        f"{statistics.median(walls) / statistics.median(bare):.2f} times the bare loop"
    )


if __name__ == "__main__":
    main()

"""Read environment variables into one frozen Settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME_NAME = ".hpo"
LEAST_LEASE_S = 0.5
LONGEST_S = 10 * 365 * 86400.0

VARIABLES: dict[str, str] = {
    "HPO_STORAGE": "PostgreSQL URL; unset: a private PostgreSQL in HPO_HOME",
    "HPO_HOME": "folder of this project's state (default: the nearest .hpo upward, else ./.hpo)",
    "MLFLOW_TRACKING_URI": "MLflow; unset: a database of its own on the same PostgreSQL server",
    "HPO_ARTIFACTS": "folder or s3://BUCKET/PREFIX of checkpoints, weights and pictures "
    "(default: HPO_HOME/artifacts)",
    "AWS_ENDPOINT_URL": "the S3 server of HPO_ARTIFACTS where it is not Amazon's; the region and "
    "the keys stand in the usual AWS variables, in ~/.aws, or come from the machine's role",
    "HPO_DATASET_CACHE": "folder of datasets fetched from HPO_ARTIFACTS; several projects of one "
    "machine may share it (default: HPO_HOME/cache/datasets)",
    "HPO_DATASET_CACHE_GB": "size above which the longest unused of them are removed (default 50)",
    "HPO_ADMIN_STORAGE": "`hpo provision` only: PostgreSQL URL of an administrator",
    "HPO_READER_STORAGE": "PostgreSQL URL of a role that only reads the studies' database; "
    "`hpo provision` makes it, optuna-dashboard uses it",
    "MLFLOW_BACKEND_STORE_URI": "`hpo provision` only: PostgreSQL URL of MLflow's server",
    "HPO_DASHBOARD_STORAGE": "PostgreSQL URL of optuna-dashboard instead of the reader's; with "
    "HPO_STORAGE's, visitors may finish and delete",
    "HPO_DASHBOARD_BIND": "address that `python -m hpo.services.dashboard` listens at (default "
    "127.0.0.1)",
    "HPO_DASHBOARD_HOSTS": "hosts, with commas, as which it may be visited beside loopback",
    "HPO_DASHBOARD_READ_ONLY": "1: it refuses what would write, whatever its role may",
    "RAY_ADDRESS": "an existing Ray cluster; unset: a private local one",
    "HPO_STUDY": "the study meant where --study is not given",
    "HPO_LEASE_S": "seconds after which a silent worker's trial is taken over (default 30)",
    "HPO_DB_PATIENCE_S": "seconds that a worker waits for PostgreSQL to return (default 300)",
    "HPO_CHECKPOINT_EVERY": "epochs between two checkpoints of a trial, 0 for none (default 1)",
    "HPO_DEBUG": "1: show tracebacks",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says, read once.

    Attributes:
        storage: a PostgreSQL URL as given; None means the embedded server in `home`.
        home: absolute path of the project's `.hpo` folder; it need not exist.
        tracking_uri: MLflow's address as given; None means the default beside `storage`.
        artifacts: absolute folder, or an `s3://bucket/prefix` as given.
        dataset_cache: absolute folder of datasets fetched from the artifact store.
        dataset_cache_gb: its size above which the longest unused ones are removed.
        ray_address: None means a private local Ray.
        study: default study name, or None.
        lease_s: seconds a lease lasts without renewal.
        db_patience_s: seconds to wait for a PostgreSQL that is gone.
        checkpoint_every: epochs between two checkpoints of a trial; 0 makes none.
        debug: show tracebacks.
    """

    storage: str | None = field(repr=False)  # passwords are in these two
    home: Path
    tracking_uri: str | None = field(repr=False)
    artifacts: str
    dataset_cache: Path
    dataset_cache_gb: float
    ray_address: str | None
    study: str | None
    lease_s: float
    db_patience_s: float
    checkpoint_every: int
    debug: bool

    @classmethod
    def read(cls, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
        """Read the settings from `env` (default: this process's) as seen from the folder `cwd`.

        Raises:
            UsageError: a number that is none, or not above zero.
        """
        env = os.environ if env is None else env
        cwd = Path.cwd() if cwd is None else cwd
        given = env.get("HPO_HOME")
        home = (cwd / given).resolve() if given else find_home(cwd)
        artifacts = env.get("HPO_ARTIFACTS") or str(home / "artifacts")
        if "://" not in artifacts:
            artifacts = str((cwd / artifacts).resolve())
        return cls(
            storage=env.get("HPO_STORAGE") or None,
            home=home,
            tracking_uri=env.get("MLFLOW_TRACKING_URI") or None,
            artifacts=artifacts,
            dataset_cache=(
                cwd / (env.get("HPO_DATASET_CACHE") or home / "cache/datasets")
            ).resolve(),
            dataset_cache_gb=_gigabytes(env, "HPO_DATASET_CACHE_GB", 50.0),
            ray_address=env.get("RAY_ADDRESS") or None,
            study=env.get("HPO_STUDY") or None,
            lease_s=_seconds(env, "HPO_LEASE_S", 30.0, least=LEAST_LEASE_S),
            db_patience_s=_seconds(env, "HPO_DB_PATIENCE_S", 300.0),
            checkpoint_every=_count(env, "HPO_CHECKPOINT_EVERY", 1),
            debug=env.get("HPO_DEBUG") == "1",
        )


def find_home(cwd: Path) -> Path:
    """The nearest `.hpo` in `cwd` or above it; where there is none, the one `cwd` would get."""
    for folder in (cwd, *cwd.parents):
        if (folder / HOME_NAME).is_dir():
            return (folder / HOME_NAME).resolve()
    return (cwd / HOME_NAME).resolve()


def _seconds(env: Mapping[str, str], name: str, default: float, *, least: float = 0.0) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LONGEST_S:
        raise UsageError(f"{name}={text!r} is not a number of seconds above 0, up to ten years")
    if value < least:
        raise UsageError(f"{name}={text} is shorter than {least:g} s: no renewal would be in time")
    return value


def _gigabytes(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"{name}={text!r} is not a number of gigabytes from 0 on")
    return value


def _count(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name)
    if not text:
        return default
    if not text.isdecimal():
        raise UsageError(f"{name}={text!r} is not a whole number from 0 on")
    return int(text)

"""Find or create runs and experiments in MLflow, and bring them to what they should show.

Every verb is idempotent: it reads what is there and writes what differs.
"""

from __future__ import annotations

import json
import posixpath
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import MismatchError
from hpo.tracking.client import error_code, is_missing
from hpo.tracking.uri import is_remote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hpo.storage.artifacts.store import ArtifactStore
    from hpo.tracking.client import Client
    from hpo.tracking.projection import Point

LONGEST_DIGEST = 36  # characters of a dataset's digest, MLflow's limit
PAGE = 1000  # runs a request
_PARENT = "mlflow.parentRunId"
_PROXIED = "mlflow-artifacts:"  # kept by MLflow's server
_STUDY = "hpo.study"  # tag: whose experiment it is, should somebody rename it


def find_experiment(client: Client, known_id: str | None, name: str) -> Any | None:
    """The experiment: the one that was used before even if renamed, else the one of that name."""
    if known_id is not None:
        try:
            found = client.get_experiment(known_id)
        except Exception as error:
            if not is_missing(error):
                raise
        else:
            # A database that was emptied counts its experiments from 1 again: the number may be
            # another study's now.
            if name in (found.name, found.tags.get(_STUDY)):
                return found
    return client.get_experiment_by_name(name)


def ensure_experiment(client: Client, known_id: str | None, name: str, location: str) -> str:
    """Id of the study's experiment, made or brought back where need be.

    Args:
        client: MLflow.
        known_id: the id used before, or None.
        name: the study's name.
        location: where MLflow is to keep files when it is reached without a server.

    Raises:
        MismatchError: the experiment keeps its files where this way to MLflow does not reach.
    """
    found = find_experiment(client, known_id, name)
    if found is None:
        try:
            made = client.create_experiment(
                name, artifact_location=None if is_remote(client.uri) else location,
                tags={_STUDY: name},
            )  # fmt: skip
            return str(made)
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)  # another one made it just now
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if _STUDY not in found.tags:
        client.set_experiment_tag(found.experiment_id, _STUDY, name)
    _refuse_other_files(client, name, found.artifact_location)
    return str(found.experiment_id)


def _refuse_other_files(client: Client, name: str, place: str) -> None:
    """One experiment never mixes files kept by a server with files that all reach directly."""
    remote, proxied = is_remote(client.uri), place.startswith(_PROXIED)
    folder = place.removeprefix("file://")
    if proxied:
        reached = remote
    elif "://" in folder:  # an object store
        reached = True
    else:  # the server that `hpo up` starts keeps files in a folder of this machine
        reached = not remote or Path(folder).parent.is_dir()
    if not reached:
        raise MismatchError(
            f"the experiment '{name}' keeps its files in {place}, out of reach of {client.place}",
            hint="Set MLFLOW_TRACKING_URI as it was when the study began, "
            "or rename that experiment in MLflow.",
        )


def find_runs(client: Client, experiment_id: str, tags: Mapping[str, str]) -> list[Any]:
    """All live runs of the experiment with these tags."""
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], filter_string=wanted, max_results=PAGE, page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def live_run(client: Client, run_id: str | None) -> Any | None:
    """The run, or None when it is not there or was deleted."""
    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except Exception as error:
        if not is_missing(error):
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def ensure_run(
    client: Client,
    experiment_id: str,
    name: str,
    key: Mapping[str, str],
    *,
    start_ms: int | None,
    exact_start: bool = True,
    parent: str | None = None,
) -> Any:
    """The run with the tags `key`, found or made.

    Args:
        client: MLflow.
        experiment_id: where.
        name: of a new run.
        key: tags that name it.
        start_ms: its start; None: now.
        exact_start: whether a run with another start is another run. A database that was made
            anew counts its studies and trials from the beginning again.
        parent: id of the run above it.
    """
    found = [
        run
        for run in find_runs(client, experiment_id, key)
        if not exact_start or run.info.start_time == start_ms
    ]
    found.sort(key=lambda run: run.info.run_id)
    for twin in found[1:]:  # made by a mirror that was paused between its search and its creation
        client.delete_run(twin.info.run_id)
    if found:
        return found[0]
    tags = dict(key) if parent is None else {**key, _PARENT: parent}
    return client.create_run(experiment_id, start_time=start_ms, tags=tags, run_name=name)


def update_run(
    client: Client,
    run: Any,
    *,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    points: Iterable[Point] = (),
    parent: str | None = None,
) -> None:
    """Write what the run lacks. A parameter that is there stays: MLflow never changes one."""
    from mlflow.entities import Metric, Param, RunTag

    wanted = dict(tags) if parent is None else {**tags, _PARENT: parent}
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(p.metric, p.value, p.at_ms, p.step) for p in points],
        params=[Param(key, text) for key, text in params.items() if key not in run.data.params],
        tags=[RunTag(key, text) for key, text in wanted.items() if run.data.tags.get(key) != text],
        synchronous=True,
    )


def set_run_status(client: Client, run: Any, status: str, end_ms: int | None) -> None:
    """Give the run its status and end."""
    if status == "RUNNING":
        if run.info.status != status:
            client.update_run(run.info.run_id, status=status)
    elif (run.info.status, run.info.end_time) != (status, end_ms):
        client.set_terminated(run.info.run_id, status, end_ms)


def add_dataset(client: Client, run: Any, name: str, fingerprint: str) -> None:
    """Note the dataset as the run's input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = fingerprint[:LONGEST_DIGEST]
    if any(one.dataset.digest == digest for one in run.inputs.dataset_inputs):
        return
    source = json.dumps({"name": name, "fingerprint": fingerprint})
    dataset = Dataset(posixpath.basename(name) or name, digest, "hpo", source)
    client.log_inputs(
        run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
    )


def list_files(client: Client, run_id: str, folder: str | None = None) -> dict[str, int]:
    """Name -> bytes of all files of a run."""
    found: dict[str, int] = {}
    for item in client.list_artifacts(run_id, folder):
        if item.is_dir:
            found |= list_files(client, run_id, item.path)
        else:
            found[item.path] = int(item.file_size or 0)
    return found


def add_files(
    client: Client, run_id: str, files: Mapping[str, tuple[str, int]], store: ArtifactStore
) -> None:
    """Upload the files (name -> (sha256, bytes)) that the run lacks.

    Raises:
        WeightsError: a file is missing from the store, or was altered there.
    """
    there = list_files(client, run_id) if files else {}
    lacking = {name: pair for name, pair in files.items() if there.get(name) != pair[1]}
    for name, (sha256, _) in lacking.items():
        with tempfile.TemporaryDirectory(prefix="hpo-mirror-") as folder:
            file = store.fetch(sha256, Path(folder) / posixpath.basename(name))
            client.log_artifact(run_id, str(file), posixpath.dirname(name) or None)

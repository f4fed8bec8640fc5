"""Prepare a dataset for Ultralytics: a data YAML of the job's own, and a safe label cache.

The label cache is a pickle inside a NumPy file, and comes with the dataset from wherever that came
from. Ultralytics' own reader would run any code in it; here it is read as plain values.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import yaml

from hpo.datasets.data_yaml import load
from hpo.host.serialization import load_plain

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.trainer import Job


def own_data_yaml(job: Job) -> Path:
    """Write a data YAML with absolute places below the job's folder.

    Ultralytics looks for a relative `path` in the current folder first and in its user-wide
    datasets folder next; a study means the data YAML's own folder.

    Raises:
        DatasetError: the dataset cannot be read any more.
        TypeError: the job has no dataset.
    """
    if job.data is None:
        raise TypeError("a detector needs a dataset")
    job.run_dir.mkdir(parents=True, exist_ok=True)
    file = job.run_dir / "data.yaml"
    file.write_text(yaml.safe_dump(load(job.data).absolute(), sort_keys=False), encoding="utf-8")
    return file


def load_labels(path: Path) -> dict[str, Any]:
    """Read Ultralytics' label cache without running what its pickle holds.

    Raises:
        FileNotFoundError: there is none, or none that is only labels; Ultralytics then reads the
            labels themselves, and writes a new one.
    """
    import numpy as np  # here, since whoever only checks a study needs none

    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"version {version} of NumPy's files")  # noqa: TRY301 - as below
            np.lib.format.read_array_header_1_0(file)
            found = load_plain(file).item()
            if not isinstance(found, dict):
                raise TypeError(f"a {type(found).__name__}")  # noqa: TRY301 - as below
        except Exception as error:
            # Damaged bytes raise anything
            raise FileNotFoundError(f"{path} is no label cache: {error}") from error
    return found


def save_labels(prefix: str, path: Path, labels: dict[str, Any], version: str) -> None:
    """Write Ultralytics' label cache in one step, since workers write the same file at once.

    Its own writer deletes the file first, and fails when another worker was quicker.
    """
    import numpy as np
    from ultralytics.utils import LOGGER

    labels["version"] = version
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            np.save(file, np.array(labels, dtype=object))
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        LOGGER.warning(f"{prefix}labels are read anew each time: {path} not written ({error})")

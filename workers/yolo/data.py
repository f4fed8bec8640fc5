"""The dataset as Ultralytics is given it: a data YAML of the job's own with absolute places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from hpo.datasets.data_yaml import load

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.trainer import Job


def own_data_yaml(job: Job) -> Path:
    """Write it below the job's folder.

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

"""Whether this machine has the code and the data that a study was created with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.datasets.builtin import resolve
from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.held_out import held_out, simulated_fingerprint
from hpo.errors import DatasetError, MismatchError
from hpo.trainer import load_trainer

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.settings import Settings
    from hpo.study import Study


def require_same(study: Study, settings: Settings) -> Path | None:
    """The dataset's YAML on this machine, its content and the code being the study's.

    Raises:
        MismatchError: the spec, the trainer's code or the data differs; it says which.
    """
    if study.spec.sha256() != study.spec_sha256:
        raise MismatchError(
            f"the stored spec of '{study.name}' has the sha256 {study.spec.sha256()[:12]}, it was "
            f"created with {study.spec_sha256[:12]}: this version reads it differently, or it "
            "was altered",
            hint="Install the hpo-service that created the study.",
        )
    version = load_trainer(study.spec.trainer).describe().code_version
    if version != study.code_version:
        raise MismatchError(
            f"the study '{study.name}' was created with {study.code_version}, here is {version}",
            hint="Install the same version on this machine; constraints.txt pins it.",
        )
    if study.spec.data is None:
        return None
    try:
        data = _data(study.spec.data, settings)
        found = fingerprint(data, home=settings.home)
    except DatasetError as error:
        raise MismatchError(
            f"the study '{study.name}' needs the dataset {study.spec.data}: {error}",
            hint="Copy the dataset to the same path on this machine.",
        ) from error
    if found != study.fingerprint:
        raise MismatchError(
            f"the dataset {data} has the fingerprint {found[:12]}, the study '{study.name}' was "
            f"created with {(study.fingerprint or 'none')[:12]}",
            hint="Restore the data as it was, or create a new study on what it is now.",
        )
    return data


def require_test_split(study: Study, settings: Settings) -> tuple[Path | None, str]:
    """The dataset's YAML on this machine, if there is one, and its test split's fingerprint.

    A study of an earlier version has recorded none: its split is taken as it is now.

    Raises:
        MismatchError: the split is not the one that the study was created with, or none that a
            promotion could be judged on.
    """
    if study.spec.data is None:
        description = load_trainer(study.spec.trainer).describe()
        data, found = None, simulated_fingerprint(description.code_version)
    else:
        try:
            data = _data(study.spec.data, settings)
            found = held_out(data, home=settings.home).fingerprint
        except DatasetError as error:
            raise MismatchError(
                f"the study '{study.name}' cannot be judged on the dataset {study.spec.data}: "
                f"{error}",
                hint=f"{error.hint} A new study on it can promote.",
            ) from error
    if study.test_fingerprint not in (None, found):
        raise MismatchError(
            f"the test split changed since the study began: it has the fingerprint {found[:12]}, "
            f"'{study.name}' was created with {str(study.test_fingerprint)[:12]}",
            hint="Restore the test split as it was, or create a new study on what it is now.",
        )
    return data, found


def _data(name: str, settings: Settings) -> Path:
    return resolve(name, home=settings.home, base=settings.home.parent)

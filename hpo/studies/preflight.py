"""Check that this machine has the code and the data that a study was created with.

The data is used where the study's own path leads to it. Where it does not, the copy that was pushed
to the artifact store takes its place (`hpo data push`), fetched once a machine.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hpo.datasets.builtin import BUILT_IN, resolve
from hpo.datasets.cache import DatasetCache
from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.held_out import held_out, simulated_fingerprint
from hpo.datasets.remote import pushed
from hpo.errors import DatasetError, MismatchError, MissingDatasetError, WeightsError
from hpo.storage.artifacts.opening import open_store
from hpo.trainer import load_trainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.settings import Settings
    from hpo.studies.store import Study

log = logging.getLogger(__name__)


def require_matching_environment(
    study: Study,
    settings: Settings,
    engine: Engine,
    *,
    fetch: bool = True,
    say: Callable[[str], None] = log.info,
) -> Path | None:
    """The dataset's YAML on this machine, its content and the code being the study's.

    Args:
        study: the study.
        settings: of this machine.
        engine: the database.
        fetch: whether to fetch a dataset that is not here. Whoever trains nothing need not: it is
            enough then that it was pushed, and None is returned.
        say: told what takes long.

    Raises:
        MissingDatasetError: the data is neither here nor pushed.
        MismatchError: the spec, the trainer's code or the data differs; it says which.
        WeightsError: the pushed copy is gone from the artifact store, or was altered.
        StoreError: the artifact store is gone.
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
        return _at_its_path(study, settings)
    except MismatchError as error:
        return _pushed_copy(study, settings, engine, error, fetch=fetch, say=say)


def require_test_split(
    study: Study,
    settings: Settings,
    engine: Engine,
    *,
    fetch: bool = True,
    say: Callable[[str], None] = log.info,
) -> tuple[Path | None, str]:
    """The dataset's YAML on this machine, if there is one, and its test split's fingerprint.

    A study of an earlier version has recorded none: its split is taken as it is now.

    Args:
        study: the study.
        settings: of this machine.
        engine: the database.
        fetch: whether to fetch a dataset that is not here; else its absence is a MismatchError.
        say: told what takes long.

    Raises:
        MismatchError: the split is not the one that the study was created with, or none that a
            promotion could be judged on.
        WeightsError: the pushed copy is gone from the artifact store, or was altered.
        StoreError: the artifact store is gone.
    """
    if study.spec.data is None:
        description = load_trainer(study.spec.trainer).describe()
        return None, _same_split(study, simulated_fingerprint(description.code_version))
    try:
        data = _resolved(study, settings)
        return data, _split_of(study, data, settings)
    except MismatchError as error:
        copy = _pushed_copy(study, settings, engine, error, fetch=fetch, say=say)
        if copy is None:
            raise
        return copy, _split_of(study, copy, settings)


def data_here(study: Study, settings: Settings) -> Path | None:
    """The YAML of a dataset that is on this machine, at the study's path or fetched before.

    Whether the one at its path still has the study's content is not looked at.
    """
    if study.spec.data is None:
        return None
    try:
        return resolve(study.spec.data, home=settings.home, base=settings.home.parent)
    except DatasetError:
        return DatasetCache(settings).found(study.fingerprint or "")


def _at_its_path(study: Study, settings: Settings) -> Path:
    data = _resolved(study, settings)
    try:
        found = fingerprint(data, home=settings.home)
    except DatasetError as error:
        raise _needed(study, error) from error
    if found != study.fingerprint:
        raise MismatchError(
            f"the dataset {data} has the fingerprint {found[:12]}, the study '{study.name}' was "
            f"created with {(study.fingerprint or 'none')[:12]}",
            hint=f"Restore the data as it was, or create a new study on what it is now. "
            f"{_to_push(study)}".strip(),
        )
    return data


def _resolved(study: Study, settings: Settings) -> Path:
    try:
        return resolve(str(study.spec.data), home=settings.home, base=settings.home.parent)
    except DatasetError as error:
        raise _needed(study, error) from error


def _needed(study: Study, error: DatasetError) -> MissingDatasetError:
    return MissingDatasetError(
        f"the study '{study.name}' needs the dataset {study.spec.data}, which is not whole on "
        f"this machine and was not pushed: {error}",
        hint=_to_push(study),
    )


def _pushed_copy(
    study: Study,
    settings: Settings,
    engine: Engine,
    error: MismatchError,
    *,
    fetch: bool,
    say: Callable[[str], None],
) -> Path | None:
    """The dataset out of the artifact store, in place of what is wrong with the one here.

    Raises:
        MismatchError: `error`, where nobody pushed it.
    """
    cache, content = DatasetCache(settings), study.fingerprint or ""
    copy = pushed(engine, content)
    if copy is None:
        raise error
    log.info("the pushed copy is used: %s", error)
    if not fetch:
        return cache.found(content)
    try:
        return cache.fetched(copy, open_store(settings), say)
    except WeightsError as lost:
        raise WeightsError(
            f"the dataset of '{study.name}' was pushed, and cannot be fetched: {lost}",
            hint=f"{lost.hint} {_to_push(study, again=True)}".strip(),
        ) from lost


def _to_push(study: Study, *, again: bool = False) -> str:
    """The command that pushes the dataset; `again` where a stored copy is bad."""
    if study.spec.data in BUILT_IN:
        return ""
    anew = "--again " if again else ""
    return f"On the machine that has it: `hpo data push {anew}--study {study.name}`."


def _split_of(study: Study, data: Path, settings: Settings) -> str:
    try:
        return _same_split(study, held_out(data, home=settings.home).fingerprint)
    except DatasetError as error:
        raise MismatchError(
            f"the study '{study.name}' cannot be judged on the dataset {data}: {error}",
            hint=f"{error.hint} A new study on it can promote.",
        ) from error


def _same_split(study: Study, found: str) -> str:
    if study.test_fingerprint not in (None, found):
        raise MismatchError(
            f"the test split changed since the study began: it has the fingerprint {found[:12]}, "
            f"'{study.name}' was created with {str(study.test_fingerprint)[:12]}",
            hint="Restore the test split as it was, or create a new study on what it is now.",
        )
    return found

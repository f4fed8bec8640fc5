"""The file that every training of a study starts from: weights, or an architecture of one's own.

It lies in the artifact store under its sha256, which PostgreSQL has. Workers take it from there, on
whatever machine: what lies at the study's `model` later, or elsewhere, changes no trial.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import WeightsError
from hpo.trainer import FileStarter

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.artifacts.store import ArtifactStore
    from hpo.study import Study
    from hpo.trainer import Trainer


def keep(
    trainer: Trainer, model: str, store: ArtifactStore, download: Callable[[], Path]
) -> str | None:
    """Put the file of a study's `model` into the store.

    Args:
        trainer: the study's.
        model: its `model`.
        store: where to.
        download: called where the file is not on this machine; returns where it is then.

    Returns:
        Its hex sha256; None where the trainer's own code holds the model.

    Raises:
        StoreError: the store is gone, full or refuses.
        OSError: the file cannot be read.
    """
    file = trainer.start_file(model) if isinstance(trainer, FileStarter) else None
    if file is None:
        return None
    return store.put(file if file.is_file() else download()).sha256


def model_here(study: Study, store: ArtifactStore, folder: Path) -> str:
    """What a training of the study is given as its model.

    Args:
        study: the study.
        store: where its file lies, if it has one.
        folder: where a copy is put, of the same name; it lasts as long as the trainings.

    Raises:
        WeightsError: the file is missing, or no longer what was stored.
        StoreError: the store is gone.
    """
    if study.model_sha256 is None:
        return study.spec.model
    try:
        return str(store.fetch(study.model_sha256, folder / Path(study.spec.model).name))
    except WeightsError as error:
        raise WeightsError(
            f"trials of '{study.name}' start from {study.spec.model}, but {error}", hint=error.hint
        ) from error

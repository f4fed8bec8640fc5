"""Pin the file that every training of a study starts from: weights, or an architecture.

It lies in the artifact store under its sha256, which PostgreSQL has. Workers take it from there, on
whatever machine: what lies at the study's `model` later, or elsewhere, changes no trial.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import WeightsError
from hpo.storage.artifacts.store import sha256_of
from hpo.trainer import PinnedModelTrainer, load_trainer

if TYPE_CHECKING:
    from hpo.storage.artifacts.store import ArtifactStore
    from hpo.studies.spec import StudySpec
    from hpo.studies.store import Study

Prepare = Callable[[str, str, Path], Path]  # (trainer's name, model, folder of logs) -> the file


def pin_model_file(
    spec: StudySpec,
    store: ArtifactStore,
    *,
    log_dir: Path,
    prepare: Prepare | None,
    on_progress: Callable[[str, int, int], None],
    expected: str | None,
) -> str | None:
    """Put the file of a study's `model` into the store, seen to be one that trainings can use.

    Args:
        spec: the study's.
        store: the artifact store of the study.
        log_dir: the folder of the logs of training processes.
        prepare: has the file, see `PinnedModelTrainer.prepare`; None: the trainer does, here.
        on_progress: told before the file is loaded, which takes some seconds.
        expected: its sha256 where the study exists; another content is not stored.

    Returns:
        Its hex sha256; None where the trainer's own code holds the model.

    Raises:
        HpoError: the file cannot be had, or is no model.
        StoreError: the store is gone, full or refuses.
        OSError: the file cannot be read.
    """
    trainer, model = load_trainer(spec.trainer), spec.model
    if not isinstance(trainer, PinnedModelTrainer) or trainer.start_file(model) is None:
        return None
    on_progress(f"loading {model} once, to see that trainings can start from it", 0, 0)
    file = trainer.prepare(model) if prepare is None else prepare(spec.trainer, model, log_dir)
    if expected is not None and (found := sha256_of(file)) != expected:
        return found
    return store.put(file).sha256


def model_here(study: Study, store: ArtifactStore, folder: Path) -> str:
    """What a training of the study is given as its model.

    Args:
        study: the study.
        store: where its file lies, if it has one.
        folder: where a copy is put, of the same name; it lasts as long as the trainings.

    Raises:
        WeightsError: the file is missing, or no longer what was stored; or one of this folder would
            be taken for the trainer's own model.
        StoreError: the store is gone.
    """
    model, sha256 = study.spec.model, study.model_sha256
    if sha256 is None:
        trainer = load_trainer(study.spec.trainer)
        if isinstance(trainer, PinnedModelTrainer):
            trainer.start_file(model)  # raises where it could be another model here
        return model
    try:
        return str(store.fetch(sha256, folder / Path(model).name))
    except WeightsError as error:
        raise WeightsError(
            f"trials of '{study.name}' start from {model}, but {error}",
            hint=f"Where {model} still has the sha256 {sha256}, `hpo create-study --exist-ok` with "
            f"the same study file puts it back. {error.hint}".strip(),
        ) from error

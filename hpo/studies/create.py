"""Create a study from a study file: the use case of `hpo create-study`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hpo.datasets.builtin import resolve
from hpo.datasets.fingerprint import fingerprint
from hpo.datasets.held_out import held_out, simulated_fingerprint
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres import schema
from hpo.storage.postgres.engine import connect
from hpo.storage.postgres.errors import explained
from hpo.studies.model_file import pin_model_file
from hpo.studies.store import find_study, store_study
from hpo.studies.study_file import read_study_file
from hpo.trainer import load_trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hpo.settings import Settings
    from hpo.studies.model_file import Prepare
    from hpo.studies.spec import StudySpec
    from hpo.studies.store import Study
    from hpo.trainer import Description


@dataclass(frozen=True)
class CreatedStudy:
    """What `create_study` came to.

    Attributes:
        study: the study as it is stored.
        created: False where an equal study existed before.
        simulated: whether its trainer makes figures up.
    """

    study: Study
    created: bool
    simulated: bool

    def to_json(self) -> dict[str, Any]:
        """The document of `hpo create-study --json`."""
        study = self.study
        return {
            "study": study.name,
            "created": self.created,
            "trials": study.trials,
            "epochs": study.spec.budget.epochs,
            "spec_sha256": study.spec_sha256,
            "dataset_fingerprint": study.fingerprint,
            "test_fingerprint": study.test_fingerprint,
            "model_sha256": study.model_sha256,
            "simulated": self.simulated,
        }


def quiet(what: str, done: int = 0, total: int = 0) -> None:
    """Tell nobody."""


def create_study(
    settings: Settings,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    exist_ok: bool = False,
    prepare: Prepare | None = None,
    on_progress: Callable[[str, int, int], None] = quiet,
) -> CreatedStudy:
    """Check a study file as a whole and create its study in the project's database.

    Nothing is stored before everything was checked; the database is not even opened.

    Args:
        settings: where database, artifact store and project are.
        file: the study file; None means the built-in quick study.
        overrides: nested values that win over the file's.
        exist_ok: whether an equal study that exists is taken as it is.
        prepare: has the file that trainings start from; None: the trainer does it here. The
            command line lets a process of its own do it, which may die of a broken file.
        on_progress: called with (what is done, how many are done, how many in all); 0 of 0 where
            nothing is counted.

    Raises:
        SpecError: the file is wrong, with every fault found.
        StudyExistsError: the name is taken, and not by an equal study with `exist_ok`.
        StoreError: the artifact store cannot be written.
        DatabaseError: the database cannot be reached, or refuses.
        HpoError: the model's file cannot be had, or is no model.
    """
    counted = partial(on_progress, "files read")
    spec = read_study_file(file, overrides or {}, home=settings.home, progress=counted)
    settings.home.mkdir(parents=True, exist_ok=True)
    description = load_trainer(spec.trainer).describe()
    data_mark, test_mark = _fingerprints(spec, settings.home, description, counted)
    artifacts = open_store(settings)
    artifacts.require_writable()
    engine = connect(settings, create=True)
    try:
        with explained(engine):
            schema.upgrade(engine)
        model_sha256, before = None, find_study(engine, spec.study)
        if before is None or exist_ok:  # else it is refused below
            model_sha256 = pin_model_file(
                spec,
                artifacts,
                log_dir=settings.home / "logs",
                prepare=prepare,
                on_progress=on_progress,
                expected=None if before is None else before.model_sha256,
            )
        study, created = store_study(
            engine,
            spec,
            fingerprint=data_mark,
            code_version=description.code_version,
            test_fingerprint=test_mark,
            model_sha256=model_sha256,
            exist_ok=exist_ok,
        )
    finally:
        engine.dispose()
    return CreatedStudy(study, created, description.simulated)


def _fingerprints(
    spec: StudySpec, home: Path, description: Description, progress: Callable[[int, int], None]
) -> tuple[str | None, str | None]:
    """Fingerprints of the dataset, which is made if it is a built-in one, and of its test split."""
    promotes = spec.promotion.wanted
    if spec.data is None:
        return None, simulated_fingerprint(description.code_version) if promotes else None
    data = resolve(spec.data, home=home, base=home.parent)
    mark = fingerprint(data, home=home, progress=progress)
    test = held_out(data, home=home, progress=progress).fingerprint if promotes else None
    return mark, test

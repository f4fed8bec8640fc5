"""Where backups are restored: another database, and what a study looks like from outside."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool
from support.claiming import claimed
from support.rich_study import NAME, rich_study, storage_of, worker_on
from support.studies import simulated_study

from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.postgres import schema
from hpo.studies.backup.export import export_study
from hpo.studies.backup.file import from_bytes, to_bytes
from hpo.studies.status import status
from hpo.studies.store import load_study
from hpo.studies.trials import trial_details, trial_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.settings import Settings
    from hpo.studies.backup.document import StudyDocument
    from hpo.studies.store import Study


@pytest.fixture
def elsewhere(empty_database_url: str) -> Iterator[Engine]:
    """Another database, whose ids have counted on so that none is the same."""
    engine = create_engine(empty_database_url, poolclass=NullPool)
    schema.upgrade(engine)
    other = simulated_study(engine, study="another one")
    told_by_hand = worker_on(engine, other)
    for _ in range(3):
        claimed(told_by_hand)
    yield engine
    engine.dispose()


@pytest.fixture
def there(settings: Settings, mlflow_url: str, elsewhere: Engine) -> Settings:
    """Settings of a worker on the other database."""
    url = elsewhere.url.render_as_string(hide_password=False)
    return replace(settings, storage=url, tracking_uri=mlflow_url)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """The artifact store that both databases' workers reach."""
    return FolderStore(tmp_path / ".hpo" / "artifacts")


@pytest.fixture
def rich(engine: Engine, store: FolderStore, tmp_path: Path) -> Study:
    """A study that has everything."""
    return rich_study(engine, store, tmp_path / "work")


def exported(engine: Engine, name: str = NAME) -> StudyDocument:
    """Its document, as a file has it."""
    document = export_study(engine, load_study(engine, name), artifacts="a folder")
    return from_bytes(to_bytes(document), "the file")


def seen_by_optuna(engine: Engine, name: str = NAME) -> dict[str, Any]:
    """Everything that plain Optuna and optuna-dashboard say of a study, without ids."""
    import optuna
    from optuna_dashboard import get_note

    storage = storage_of(engine)
    study = optuna.load_study(study_name=name, storage=storage)
    trials = [
        {key: unordered(value) for key, value in vars(trial).items() if key != "_trial_id"}
        for trial in study.trials
    ]
    handles = [optuna.trial.Trial(study, trial._trial_id) for trial in study.trials]
    notes = [get_note(one) for one in (study, *handles)]
    found = {
        "trials": trials, "notes": notes, "user": study.user_attrs,
        "directions": study.directions, "metrics": study.metric_names,
    }  # fmt: skip
    storage.engine.dispose()
    return found


def unordered(value: Any) -> str:
    """Text in which NaN equals NaN and -0.0 differs from 0.0; mappings have no order."""
    return repr(sorted(value.items()) if isinstance(value, dict) else value)


def seen_by_people(engine: Engine, name: str = NAME) -> list[Any]:
    """What `hpo status`, `hpo trials` and `hpo show` say."""
    study = load_study(engine, name)
    with engine.connect() as connection:
        rows = trial_rows(connection, study)
        shown = [trial_details(connection, study, row.number) for row in rows]
    # Who works on it now is the one thing that differs
    for attempt in (one for trial in shown for one in trial["attempts"]):
        if attempt["how"] in (None, "released"):
            attempt.update(how="under way", ended=None)
    now = {"workers": [], "state": "", "eta_s": None, "mirror": None}
    return [status(engine, study) | now, rows, shown]

"""What optuna-dashboard shows: read back with Optuna's and the dashboard's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna

from hpo.claims.claims import End
from hpo.tracking.dashboard import add_note, show_pending

if TYPE_CHECKING:
    from pathlib import Path

    from support.studies import Bench


def note_of(study: optuna.Study, trial: int | None) -> str:
    """A note as the dashboard's own function reads it."""
    import optuna_dashboard

    if trial is None:
        return str(optuna_dashboard.get_note(study))
    trial_id = study.trials[trial]._trial_id
    return str(optuna_dashboard.get_note(optuna.Trial(study, trial_id)))


def test_pictures_and_notes_are_shown_once(bench: Bench, database_url: str) -> None:
    """An ended trial has its pictures and a note that leads to its run; again changes nothing."""
    from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta

    bench.trial(0.1, 0.2)
    bench.trial(0.1, end=End.FAIL)
    mirror = bench.mirror()
    mirror.sync_study()
    assert show_pending(mirror, bench.settings) == 2
    with bench.engine.begin() as connection:
        connection.exec_driver_sql("update hpo.mirror set dashboard = false")
    assert show_pending(mirror, bench.settings) == 2  # again, which changes nothing
    study = optuna.load_study(study_name=bench.study.name, storage=database_url)
    storage = study._storage
    meta = get_all_artifact_meta(study.trials[0], storage=storage)
    assert [(item.filename, item.mimetype) for item in meta] == [("results.png", "image/png")]
    store = FileSystemArtifactStore(f"{bench.settings.artifacts}/dashboard")
    with store.open_reader(meta[0].artifact_id) as content:
        assert b"pictures/results.png" in content.read()
    run_id = bench.run(0).info.run_id
    assert f"/runs/{run_id})" in note_of(study, 0)
    assert "Simulated" in note_of(study, 0)
    assert "Failed: error: told so" in note_of(study, 1)
    assert f"# {bench.study.name}" in note_of(study, None)
    assert "Simulated" in note_of(study, None)


def test_deleting_a_study_in_the_dashboard_keeps_our_files(bench: Bench, database_url: str) -> None:
    """The dashboard removes its own pictures; the artifact store keeps everything."""
    from pathlib import Path

    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard.artifact._backend import delete_all_artifacts

    bench.trial(0.1)
    mirror = bench.mirror()
    mirror.sync_study()
    show_pending(mirror, bench.settings)
    root = Path(bench.settings.artifacts)
    kept = sorted((root / "objects").glob("*/*"))
    study = optuna.load_study(study_name=bench.study.name, storage=database_url)
    shown = FileSystemArtifactStore(root / "dashboard")
    assert files_in(root / "dashboard") == 1
    delete_all_artifacts(shown, study._storage, study._study_id)
    assert files_in(root / "dashboard") == 0
    assert sorted((root / "objects").glob("*/*")) == kept != []


def files_in(folder: Path) -> int:
    """How many files lie there."""
    return sum(1 for item in folder.iterdir() if item.is_file())


def test_a_persons_note_stays(bench: Bench, database_url: str) -> None:
    """A note that somebody wrote in the dashboard is not written over."""
    import optuna_dashboard

    study = optuna.load_study(study_name=bench.study.name, storage=database_url)
    optuna_dashboard.save_note(study, "mine")
    with bench.engine.begin() as connection:
        add_note(connection, bench.study.study_id, None, "the service's")
    assert optuna_dashboard.get_note(study) == "mine"

"""Shows in optuna-dashboard what was mirrored: pictures, and notes that lead to MLflow's pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import WeightsError
from hpo.projection_dashboard import add_note, show_pictures
from hpo.storage.postgres.queries import query
from hpo.tracking.pages import experiment_page, run_page
from hpo.tracking.rows import read_study, read_trial

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from hpo.settings import Settings
    from hpo.tracking.mirror import Mirror
    from hpo.tracking.rows import StudyRow, TrialRow

SIMULATED = "**Simulated**: these figures are not of a real training."


def show_pending(mirror: Mirror, settings: Settings) -> int:
    """Show the mirrored trials that optuna-dashboard does not show yet; how many were shown.

    Raises:
        DBAPIError: PostgreSQL cannot be reached.
    """
    folder = None if "://" in settings.artifacts else Path(settings.artifacts) / "dashboard"
    uri = mirror.client().uri  # before a connection is taken: one is enough
    with mirror.engine.begin() as connection:
        key = {"study_id": mirror.study_id}
        pending = connection.scalars(query("dashboard_pending"), key).all()
        study = read_study(connection, mirror.study_id)
        if study is None or study.experiment_id is None or study.run_id is None:
            return 0
        add_note(connection, study.study_id, None, _study_note(study, uri))
    return sum(_show(mirror, study, trial_id, uri, folder) for trial_id in pending)


def _show(mirror: Mirror, study: StudyRow, trial_id: int, uri: str, folder: Path | None) -> bool:
    # Pictures are copied inside: of the mirrors of one pool, one at a time
    with mirror.marks.turn, mirror.engine.begin() as connection:
        mark = connection.execute(query("dashboard_lock"), {"trial_id": trial_id}).one_or_none()
        trial = read_trial(connection, study, trial_id)
        if mark is None or trial is None:
            return False
        page = run_page(uri, mark.experiment_id, mark.run_id)
        add_note(connection, study.study_id, trial_id, _trial_note(trial, mark.run_id, page))
        if folder is not None:
            _pictures(connection, mirror, trial, folder)
        connection.execute(query("dashboard_done"), {"trial_id": trial_id})
    return True


def _pictures(connection: Connection, mirror: Mirror, trial: TrialRow, folder: Path) -> None:
    try:
        show_pictures(connection, trial.trial_id, trial.files, mirror.store, folder)
    except WeightsError:
        # The mirror has stored the same complaint with the trial; the note is still of use.
        return


def _study_note(study: StudyRow, uri: str) -> str:
    lines = [f"# {study.name}"]
    if study.simulated:
        lines.append(SIMULATED)
    if study.spec is not None:
        spec = study.spec
        lines.append(
            f"Trainer {spec.trainer}, model {spec.model}, data {spec.data or 'none'}, "
            f"search space {spec.space.name}; {spec.objective.direction} {spec.objective.metric}."
        )
        if study.parent_id is None:
            said = "Only trials that a worker told can be promoted: no value typed in here is."
        else:
            said = f"The best trials of {study.experiment} once more, evaluated on the test split."
        lines.append(said)
    page = experiment_page(uri, str(study.experiment_id))
    lines.append(f"In MLflow: [experiment {study.experiment_id}]({page})")
    return "\n\n".join(lines)


def _trial_note(trial: TrialRow, run_id: str, page: str) -> str:
    lines = [f"In MLflow: [run {run_id}]({page})"]
    if trial.study.simulated:
        lines.insert(0, SIMULATED)
    if trial.row.final is not None:
        number, seed, trained = trial.row.final
        how = f"trained with the seed {seed}" if trained else "its own weights"
        lines.append(f"Final of trial {number} of {trial.study.experiment}, {how}.")
    if trial.row.reason:
        lines.append(f"Failed: {trial.row.reason}")
    return "\n\n".join(lines)

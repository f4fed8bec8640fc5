"""Store studies: create one from its spec, find it again, steer and delete it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.errors import StudyClosedError, StudyExistsError, UnknownStudyError, UsageError
from hpo.storage.postgres.queries import Queries
from hpo.studies.spec import LARGEST_INTEGER, StudySpec, differences
from search_spaces.faults import SpaceFaults
from search_spaces.names import did_you_mean

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Engine, Row

SQL = Queries(__name__)

LIVE = ("open", "running")  # states of a study with something left to do


@dataclass(frozen=True, kw_only=True)
class Study:
    """A stored study.

    Attributes:
        study_id: Optuna's id of it.
        uid: its name in the artifact store, unique among all databases.
        name: its name.
        spec: what it was created with.
        spec_sha256: of the spec's canonical text.
        fingerprint: of the dataset's content; None where the trainer needs no data.
        code_version: of the trainer it was created with.
        trials: the budget, as extended since.
        state: `open` or `stopped`; whether it is finished follows from its trials.
        test_fingerprint: of the test split's content; None where none was known at creation.
        parent_id: of finals, the study whose best trials they look at again; else None.
        model_sha256: of the file that every training starts from, which the artifact store has;
            None where the trainer's own code holds the model, and in studies of earlier versions.
    """

    study_id: int
    uid: uuid.UUID
    name: str
    spec: StudySpec
    spec_sha256: str
    fingerprint: str | None
    code_version: str
    trials: int
    state: str
    test_fingerprint: str | None = None
    parent_id: int | None = None
    model_sha256: str | None = None

    @property
    def parent(self) -> str | None:
        """The name of the study whose finals these are; None for other studies."""
        return _parent(self.name, self.parent_id)


def _parent(name: str, parent_id: int | None) -> str | None:
    return None if parent_id is None else name.rpartition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of all studies; `state` is `open`, `running`, `finished` or `stopped`.

    `parent_id` is that of the study whose finals it holds; None for other studies.
    """

    study_id: int
    name: str
    state: str
    claimed: int
    trials: int
    parent_id: int | None = None

    @property
    def parent(self) -> str | None:
        """The name of the study whose finals these are; None for other studies."""
        return _parent(self.name, self.parent_id)


def store_study(
    engine: Engine,
    spec: StudySpec,
    *,
    fingerprint: str | None,
    code_version: str,
    test_fingerprint: str | None = None,
    model_sha256: str | None = None,
    exist_ok: bool = False,
) -> tuple[Study, bool]:
    """Store a checked study with its baselines in one transaction.

    Returns:
        The study, and whether it was made now.

    Raises:
        StudyExistsError: the name is taken, and not by an equal study with `exist_ok`.
    """
    with engine.begin() as connection:
        forget_deleted(connection)
        origin = Origin(
            fingerprint=fingerprint,
            code_version=code_version,
            test_fingerprint=test_fingerprint,
            model_sha256=model_sha256,
        )
        study_id = insert_study(connection, spec, origin)
        for baseline in spec.baselines if study_id is not None else ():
            insert_waiting(connection, study_id, baseline)
    if study_id is None:
        _require_equal(find_study(engine, spec.study), spec, origin, exist_ok=exist_ok)
    return load_study(engine, spec.study), study_id is not None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a study was created with beside its spec; see `Study`."""

    fingerprint: str | None
    code_version: str
    test_fingerprint: str | None
    parent_id: int | None = None
    model_sha256: str | None = None


def insert_study(connection: Connection, spec: StudySpec, origin: Origin) -> int | None:
    """Write a study without trials; its id, or None when the name is taken."""
    # Optuna's unique index on the name makes a second creator wait here for the first.
    study_id = insert_optuna_study(connection, spec.study)
    if study_id is None:
        return None
    direction = spec.objective.direction.upper()
    connection.execute(SQL["insert_direction"], {"study_id": study_id, "direction": direction})
    names = json.dumps([spec.objective.metric])
    connection.execute(
        SQL["insert_study_system_attr"],
        {"study_id": study_id, "key": "study:metric_names", "value": names},  # Optuna's own key
    )
    shown = {"spec_sha256": spec.sha256(), "trainer": spec.trainer, "dataset": origin.fingerprint}
    for key, value in shown.items():
        row = {"study_id": study_id, "key": f"hpo:{key}", "value": json.dumps(value)}
        connection.execute(SQL["insert_study_attr"], row)
    connection.execute(
        SQL["insert_study"],
        {
            "study_id": study_id, "name": spec.study, "spec": json.dumps(spec.to_dict()),
            "sha256": spec.sha256(), "fingerprint": origin.fingerprint,
            "code_version": origin.code_version, "test_fingerprint": origin.test_fingerprint,
            "trials": spec.budget.trials, "timeout_s": spec.budget.timeout_s,
            "parent_id": origin.parent_id, "model_sha256": origin.model_sha256,
        },
    )  # fmt: skip
    return study_id


def insert_optuna_study(connection: Connection, name: str) -> int | None:
    """Write Optuna's row of a study; its id, or None when the name is taken."""
    found: int | None = connection.scalar(SQL["insert_optuna_study"], {"name": name})
    return found


def optuna_id(connection: Connection, name: str) -> int | None:
    """Optuna's id of the study of that name, be it ours or not; None when there is none."""
    found: int | None = connection.scalar(SQL["optuna_study"], {"name": name})
    return found


def finals_id(connection: Connection, study_id: int) -> int | None:
    """Optuna's id of a study's finals; None while there are none."""
    found: int | None = connection.scalar(SQL["finals_id"], {"study_id": study_id})
    return found


def insert_waiting(connection: Connection, study_id: int | None, params: Mapping[str, Any]) -> int:
    """Put a trial with these parameters in the queue; its number."""
    row = {"study_id": study_id, "params": json.dumps(dict(params))}
    return int(connection.execute(SQL["insert_waiting"], row).scalar_one())


def _require_equal(
    stored: Study | None, spec: StudySpec, origin: Origin, *, exist_ok: bool
) -> None:
    name = spec.study
    if stored is None:
        raise StudyExistsError(
            f"Optuna has a study '{name}' that this service did not create",
            hint="Choose another name: `hpo create-study --name NAME`.",
        )
    if not exist_ok:
        raise StudyExistsError(
            f"a study '{name}' exists",
            hint="Add --exist-ok to go on with it, or --name NAME for another one.",
        )
    lines = differences(stored.spec, spec)
    if origin.fingerprint != stored.fingerprint:
        lines.append(f"dataset fingerprint: {stored.fingerprint} -> {origin.fingerprint}")
    for what, before, now in (
        ("test split's fingerprint", stored.test_fingerprint, origin.test_fingerprint),
        ("sha256 of the model's file", stored.model_sha256, origin.model_sha256),
    ):
        if before != now and None not in (before, now):  # unknown to one of them
            lines.append(f"{what}: {before} -> {now}")
    if lines:
        shown = "".join(f"\n  - {line}" for line in lines)
        raise StudyExistsError(
            f"the study '{name}' exists with another spec (stored -> given):{shown}",
            hint="Use --name NAME for a new study, or restore the file. "
            "More trials: `hpo extend --trials N`.",
        )


def find_study(engine: Engine, name: str) -> Study | None:
    """The study of that name, or None."""
    with engine.connect() as connection:
        row = connection.execute(SQL["study_by_name"], {"name": name}).one_or_none()
    if row is None:
        return None
    return Study(
        study_id=row.study_id,
        uid=row.uid,
        name=row.name,
        spec=StudySpec.from_dict(row.spec),
        spec_sha256=row.spec_sha256,
        fingerprint=row.dataset_fingerprint,
        code_version=row.code_version,
        trials=row.trials,
        state=row.state,
        test_fingerprint=row.test_fingerprint,
        parent_id=row.parent_id,
        model_sha256=row.model_sha256,
    )


def load_study(engine: Engine, name: str) -> Study:
    """The study of that name.

    Raises:
        UnknownStudyError: there is none.
    """
    study = find_study(engine, name)
    if study is None:
        names = [item.name for item in list_studies(engine)]
        raise UnknownStudyError(
            f"no study '{name}'{did_you_mean(name, names)}",
            hint="`hpo list` shows all; `hpo create-study` makes one.",
        )
    return study


def list_studies(engine: Engine) -> list[Listed]:
    """All studies, the newest first, finals after their study."""
    with engine.connect() as connection:
        rows = study_rows(connection)
    return [
        Listed(
            study_id=row.study_id,
            name=row.name,
            state=study_state(row),
            claimed=row.claimed,
            trials=row.trials,
            parent_id=row.parent_id,
        )
        for row in rows
    ]


def study_rows(connection: Connection) -> Sequence[Row[Any]]:
    """All studies, the newest first, with what tells open ones from finished ones."""
    return connection.execute(SQL["study_names"]).all()


def study_state(row: Any) -> str:
    """`open`, `running`, `finished` or `stopped`, of a row with the counts that decide it."""
    if row.state == "stopped":
        return "stopped"
    if row.held:
        return "running"
    # A trial whose worker is gone waits for a takeover: the study is open until then.
    spent = row.claimed >= row.trials or row.timed_out
    return "finished" if spent and not row.running else "open"


def choose_study(engine: Engine, name: str | None, *, writing: bool) -> tuple[str, str]:
    """The study meant: `name`, else the only open one. Finals are meant only when named.

    Returns:
        (its name, a remark for the user or "").

    Raises:
        UnknownStudyError: there is none, or several are open and the command writes.
    """
    if name is not None:
        return load_study(engine, name).name, ""
    listed = list_studies(engine)
    studies = [item for item in listed if item.parent_id is None]
    if not studies:
        raise UnknownStudyError("there is no study", hint="`hpo create-study` makes one.")
    # A study is not done while its finals are not.
    busy = {one for item in listed if item.state in LIVE for one in (item.study_id, item.parent_id)}
    live = [item.name for item in studies if item.study_id in busy]
    if len(live) == 1:
        return live[0], ""
    if writing and len(studies) > 1:
        names = ", ".join(live or [item.name for item in studies])
        which = "several studies are open" if live else "no study is open, and there are several"
        raise UnknownStudyError(f"{which}: {names}", hint="Say which: --study NAME.")
    newest = studies[0].name if not live else live[0]
    return newest, f"taking the newest study, {newest}" if len(studies) > 1 else ""


def enqueue(
    engine: Engine, study: Study, params: Mapping[str, Any], defaults: Mapping[str, Any]
) -> int:
    """Put a trial with these parameters in the queue; missing ones take the defaults.

    Returns:
        The trial's number.

    Raises:
        UsageError: a parameter that the space does not have, or a value outside its range; or
            the study holds finals.
        StudyClosedError: the budget has no room for it, or its time is over.
    """
    _refuse_finals(study)
    try:
        filled = study.spec.space.complete(params, defaults)
    except SpaceFaults as error:
        raise UsageError("; ".join(error.faults)) from error
    with engine.begin() as connection:
        budget = locked_budget(connection, study.study_id, study.name)
        counts = connection.execute(SQL["claimed_and_waiting"], {"study_id": study.study_id}).one()
        if counts.timed_out:
            raise StudyClosedError(
                f"the budget.timeout of '{study.name}' is over: no trial starts any more",
                hint="`hpo create-study --name NAME` makes a new one of the same file.",
            )
        if counts.claimed + counts.waiting >= budget:
            raise StudyClosedError(
                f"the budget of {budget} trials has no room: {counts.claimed} claimed, "
                f"{counts.waiting} waiting",
                hint=f"Raise it: `hpo extend --study {study.name} --trials {budget + 1}`.",
            )
        return insert_waiting(connection, study.study_id, filled)


def extend(engine: Engine, study: Study, trials: int) -> None:
    """Raise a study's budget to `trials` in all.

    Raises:
        UsageError: it is not above the present one, the sampler is `grid`, or it holds finals.
        UnknownStudyError: the study was deleted.
    """
    _refuse_finals(study)
    if study.spec.sampler.name == "grid":
        raise UsageError("a grid has as many points as it has: its study cannot be extended")
    with engine.begin() as connection:
        budget = locked_budget(connection, study.study_id, study.name)
        if trials > LARGEST_INTEGER:
            raise UsageError(
                f"--trials {trials} is more than {LARGEST_INTEGER}, the largest budget"
            )
        if trials <= budget:
            raise UsageError(
                f"--trials {trials} is not above the present budget of {budget}",
                hint="Give the new total, not the difference.",
            )
        set_budget(connection, study.study_id, trials)


def set_budget(connection: Connection, study_id: int, trials: int) -> None:
    """Let a study, whose row is locked, have so many trials in all."""
    connection.execute(SQL["extend"], {"study_id": study_id, "trials": trials})


def _refuse_finals(study: Study) -> None:
    if study.parent is not None:
        raise UsageError(
            f"'{study.name}' holds finals: its trials are the best ones of '{study.parent}'",
            hint=f"`hpo retry N --study {study.name}` tries a failed one again; "
            "`promotion.finalists` and `promotion.seeds` of a study file say how many there are.",
        )


def set_state(engine: Engine, study: Study, state: str) -> None:
    """`stopped`: running trials leave at their next epoch and can be resumed; `open`: go on.

    Finals stop and go on with their study.
    """
    with engine.begin() as connection:
        locked_budget(connection, study.study_id, study.name)
        connection.execute(SQL["set_state"], {"study_id": study.study_id, "state": state})


def locked_budget(connection: Connection, study_id: int, name: str) -> int:
    """The budget of a study, whose row is locked until the transaction ends.

    Raises:
        UnknownStudyError: the study, which is called `name`, was deleted.
    """
    row = connection.execute(SQL["lock_study"], {"study_id": study_id}).one_or_none()
    if row is None:
        raise UnknownStudyError(f"the study '{name}' was deleted")
    return int(row.trials)


def delete_study(engine: Engine, study: Study) -> None:
    """Delete a study from Optuna's tables and the schema `hpo`; promotions and MLflow's runs stay.

    Its finals go with it.

    Raises:
        UnknownStudyError: it was deleted already.
    """
    with engine.begin() as connection:
        locked_budget(connection, study.study_id, study.name)
        finals = finals_id(connection, study.study_id)
        if finals is not None:
            _delete(connection, finals)
        _delete(connection, study.study_id)


def forget_deleted(connection: Connection) -> None:
    """Remove what is left of studies that were deleted in Optuna or optuna-dashboard.

    Their finals are deleted, in Optuna's tables too: the name is needed when a study of the same
    name has finals.
    """
    for orphaned in connection.scalars(SQL["orphaned_finals"]).all():
        _delete(connection, orphaned)
    connection.execute(SQL["forget_deleted"])


def _delete(connection: Connection, study_id: int) -> None:
    key = {"study_id": study_id}
    connection.execute(SQL["lock_study"], key)
    connection.execute(SQL["lock_trials"], key)
    connection.execute(SQL["delete_study"], key)

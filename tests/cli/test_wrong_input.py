"""The command line as a user mistypes it: one message, an exit code, nothing half-written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool
from support.command_line import Project, ask, project_in, refused, spawn

from hpo.storage.postgres import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STUDY = """study: {name}
trainer: simulated
search_space: simulated
budget: {{trials: 2, epochs: 2}}
train: {{epoch_s: 0.01}}
baselines: [{{}}]
"""
WRONG = "secret-word"
NOWHERE = "postgresql://me:secret-word@127.0.0.1:1/none"


@pytest.fixture
def nothing(tmp_path: Path) -> Iterator[Project]:
    """An empty folder, which it must stay."""
    project = Project(tmp_path)
    yield project
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, stopped_home: Path) -> Iterator[Project]:
    """A project with two open studies; the tests leave it as it is."""
    with project_in(tmp_path_factory.mktemp("two-studies"), stopped_home) as project:
        for name in ("one", "two"):
            (project.folder / f"{name}.yaml").write_text(STUDY.format(name=name))
            assert ask(project, "create-study", f"{name}.yaml").code == 0
        yield project


@pytest.fixture
def unchanged(two: Project) -> Iterator[Project]:
    """The project with two studies, of which a refused command changes nothing."""
    before = rows_of(two)
    yield two
    assert rows_of(two) == before


def url_of(project: Project) -> str:
    """The private server's URL, password included."""
    return embedded.ensure_running(project.folder / ".hpo", create=False)


def rows_of(project: Project) -> dict[str, Any]:
    """Every row of every table, read as an administrator would."""
    engine = create_engine(url_of(project), poolclass=NullPool)
    with engine.connect() as connection:
        names = connection.scalars(
            text(
                "select format('%I.%I', schemaname, tablename) from pg_tables "
                "where schemaname in ('public', 'hpo')"
            )
        ).all()
        found = {
            name: sorted(map(str, connection.execute(text(f"select * from {name}"))))  # noqa: S608 - the catalogue's names
            for name in names
        }
    engine.dispose()
    return found


@pytest.mark.parametrize(
    "command",
    [
        "list", "status", "trials", "show 0", "worker", "launch", "enqueue x=1", "retry 0",
        "extend --trials 3", "stop", "resume", "delete --yes", "finalize", "champion",
        "mirror sync", "mirror verify", "env",
    ],
)  # fmt: skip
def test_where_there_is_no_project_each_command_says_so(nothing: Project, command: str) -> None:
    """Only creating commands make a `.hpo`."""
    refused(ask(nothing, *command.split()), 2, "no project here")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("create-study nowhere.yaml", "nowhere.yaml: 1 fault\n  - cannot be read: No such file"),
        ("create-study --trials 0", "Invalid value for '--trials': 0"),
        ("create-study --trials -3", "Invalid value for '--trials': -3"),
        ("create-study --epochs many", "Invalid value for '--epochs': 'many'"),
        ("create-study --data nothing", "data: unknown dataset"),
        ("create-study --data nothing.yaml", "nothing.yaml"),
        ("create-study --set", "Option '--set' requires an argument"),
        ("create-study --set trials", "--set 'trials' is not KEY=VALUE"),
        ("create-study --set train.imgsz=[", "the value is no YAML"),
        ("create-study --set tranier=yolo", "tranier: unknown key (did you mean 'trainer'?)"),
        ("create-study --set trainer=yolov8", "trainer: 'yolov8' is unknown (did you mean 'yolo'"),
        ("create-study --set train.optimizer=auto", "lr0: ignored under `optimizer: auto`"),
        ("create-study --set objective.metric=map", "objective.metric: 'map' is unknown"),
        ("create-study --set sampler.name=grid", "is continuous, a grid needs a step"),
        ("create-study --name a/b", "study: 'a/b' must not have '/'"),
        ("create-study --set promotion=nothing", "promotion: is 'nothing', a mapping or `none` is"),
        ("create-study --set promotion.confidence=95", "promotion.confidence: is 95.0, above 0.5"),
        ("create-study --set promotion.alias=previous", "'previous' is kept for the champion befo"),
        ("data split nowhere.yaml -o a.yaml", "no such file"),
        ("create-study --nonsense", "No such option"),
        ("init -o nowhere/study.yaml", "there is no folder nowhere"),
        ("init a:b", "NAME 'a:b' must not have ':'"),
        ("worker --n-trials 0", "Invalid value for '--n-trials': 0"),
        ("worker --n-trials -1", "Invalid value for '--n-trials': -1"),
        ("worker --timeout soon", "--timeout 'soon' is no duration like 90s"),
        ("worker --stall-timeout 0", "--stall-timeout '0' is no duration like 90s"),
        ("launch --workers 0", "Invalid value for '--workers': 0"),
        ("launch --timeout 0s", "--timeout '0s' is no duration"),
        ("extend --trials 0", "Invalid value for '--trials': 0"),
        ("extend", "Missing option '--trials'"),
        ("show first", "'first' is not a valid integer"),
        ("enqueue", "Missing argument"),
        ("enqueue x", "'x' is not KEY=VALUE"),
        ("enqueue x=[", "the value is no YAML"),
        ("enqueue x=1 x=2", "x is given twice"),
        ("conquer", "No such command 'conquer'"),
    ],
)  # fmt: skip
def test_wrong_usage_is_said_before_anything_is_made(
    nothing: Project, command: str, words: str
) -> None:
    """Exit code 2, and the folder stays as empty as it was."""
    refused(ask(nothing, *command.split()), 2, words)


def test_all_faults_come_at_once(nothing: Project) -> None:
    """One run tells everything, under the name of what was checked, and what to do."""
    said = ask(
        nothing, "create-study", "--set", "budget.trials=0", "--set", "sampler.nmae=tpe",
        "--set", "train.imgsz=100",
    )  # fmt: skip
    refused(said, 2, "hpo: the built-in study: 3 faults\n")
    assert "sampler.nmae: unknown key (did you mean 'name'?)" in said.err
    assert "budget.trials: is 0, at least 1 is expected" in said.err
    assert "train.imgsz: " in said.err
    assert "hpo init" in said.err


@pytest.mark.parametrize(
    ("variables", "code", "words"),
    [
        ({"HPO_STORAGE": "sqlite:///x.db"}, 2, "sqlite is not supported, only PostgreSQL is"),
        ({"HPO_STORAGE": "mysql://a:secret-word@b/c"}, 2, "mysql is not supported"),
        ({"HPO_STORAGE": "secret-word"}, 2, "storage is not a URL"),
        ({"HPO_STORAGE": "postgresql://a:secret-word@b"}, 2, "names no database"),
        ({"HPO_STORAGE": NOWHERE}, 3, "PostgreSQL at 127.0.0.1:1 refuses connections"),
        ({"HPO_LEASE_S": "0"}, 2, "HPO_LEASE_S='0' is not a number of seconds above 0"),
        ({"HPO_LEASE_S": "long"}, 2, "HPO_LEASE_S='long' is not a number"),
    ],
)
@pytest.mark.parametrize("command", ["status", "create-study"])
def test_wrong_settings_are_said_without_any_password(
    tmp_path: Path, variables: dict[str, str], code: int, words: str, command: str
) -> None:
    """The variable, what is expected; 3 where nothing answers. No study is made."""
    (tmp_path / "hpo.yaml").write_text(STUDY.format(name="one"))
    said = ask(Project(tmp_path), command, **variables)
    refused(said, code, words)
    assert "secret-word" not in said.err


def test_a_wrong_password_is_said_without_showing_it(two: Project) -> None:
    """Exit code 3, the user's name, where to look, and no password, right or wrong."""
    url = make_url(url_of(two))
    wrong = url.set(password=WRONG).render_as_string(hide_password=False)
    said = ask(two, "status", HPO_STORAGE=wrong)
    refused(said, 3, "refuses user 'hpo': wrong user name or password")
    assert WRONG not in said.err
    assert str(url.password) not in said.err
    missing = url.set(database="no_such").render_as_string(hide_password=False)
    refused(ask(two, "status", HPO_STORAGE=missing), 3, "has no database 'no_such'")
    empty = url.set(database="postgres").render_as_string(hide_password=False)
    refused(ask(two, "status", HPO_STORAGE=empty), 1, "is at nothing, this version needs")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("status --study ones", "no study 'ones' (did you mean 'one'?)"),
        ("worker --study ones", "no study 'ones'"),
        ("launch --study ones", "no study 'ones'"),
        ("delete --yes --study ones", "no study 'ones'"),
        ("mirror sync --study ones", "no study 'ones'"),
        ("finalize --study ones", "no study 'ones'"),
        ("worker", "several studies are open: two, one"),
        ("enqueue x=0.5", "several studies are open: two, one"),
        ("extend --trials 9", "several studies are open: two, one"),
        ("stop", "several studies are open: two, one"),
        ("delete --yes", "several studies are open: two, one"),
        ("finalize", "several studies are open: two, one"),
        ("create-study one.yaml", "a study 'one' exists"),
        ("create-study one.yaml --exist-ok --trials 3", "budget.trials: 2 -> 3"),
        ("show 99 --study one", "the study 'one' has no trial 99"),
        ("show -1 --study one", "No such option"),
        ("retry 99 --study one", "the study 'one' has no trial 99"),
        ("retry 0 --study one", "trial 0 is waiting; only an ended one can be tried again"),
        ("enqueue z=1 --study one", "z: the search space has no such parameter"),
        ("enqueue x=7 --study one", "x: 7.0 lies outside 0.0 to 1.0"),
        ("extend --trials 2 --study one", "--trials 2 is not above the present budget of 2"),
        ("extend --trials 99999999999 --study one", "99999999999 is more than 2147483647"),
        ("worker --device tpu --study one", "--device 'tpu' is none of auto, cpu, cuda, cuda:N"),
        ("init -o one.yaml", "one.yaml exists"),
    ],
)
def test_a_refused_command_changes_no_row(unchanged: Project, command: str, words: str) -> None:
    """Unknown and unclear studies, trials and values: exit code 2, every table as before."""
    refused(ask(unchanged, *command.split()), 2, words)


def test_hpo_study_names_the_study_meant(unchanged: Project) -> None:
    """--study beats HPO_STUDY, which beats the only open one; a wrong one is refused alike."""
    assert json.loads(ask(unchanged, "status", "--json", HPO_STUDY="one").out)["study"] == "one"
    said = ask(unchanged, "status", "--json", "--study", "two", HPO_STUDY="one")
    assert json.loads(said.out)["study"] == "two"
    refused(ask(unchanged, "status", HPO_STUDY="ones"), 2, "no study 'ones'")


def test_a_reading_command_takes_the_newest_and_says_so(unchanged: Project) -> None:
    """On stderr, so that --json stays one clean document on stdout."""
    for command in ("status", "trials"):
        said = ask(unchanged, command, "--json")
        assert said.code == 0
        assert json.loads(said.out)
        assert "taking the newest study, two" in said.err


def test_debugging_shows_the_traceback_and_the_message(unchanged: Project) -> None:
    """With HPO_DEBUG=1 both are there."""
    refused(spawn(unchanged, "status", "--study", "ones"), 2, "hpo: no study 'ones'")
    said = spawn(unchanged, "status", "--study", "ones", HPO_DEBUG="1")
    assert said.code == 2
    assert "Traceback" in said.err
    assert "hpo: no study 'ones'" in said.err


def test_a_broken_dataset_makes_no_study(unchanged: Project) -> None:
    """All its faults in one message, the study's own among them."""
    (unchanged.folder / "bad.yaml").write_text("path: .\ntrain: a\nval: b\nnames: [x]\n")
    (unchanged.folder / "yolo.yaml").write_text(
        "study: y\nsearch_space: yolov8n-quick\nbudget: {trials: 0, epochs: 2}\ndata: bad.yaml\n"
        "train: {optimizer: AdamW}\n"
    )
    said = ask(unchanged, "create-study", "yolo.yaml")
    refused(said, 2, "yolo.yaml: ")
    assert "data: " in said.err
    assert "budget.trials: is 0" in said.err


def test_a_database_of_a_newer_version_is_refused(two: Project) -> None:
    """Exit code 1 and the command that mends it; the tables are left alone."""
    engine = create_engine(url_of(two), poolclass=NullPool)
    change = text("update hpo.version set version_num = :to returning version_num")
    with engine.connect() as connection:
        present = connection.scalar(text("select version_num from hpo.version"))
    with engine.begin() as connection:
        connection.execute(change, {"to": "9999"})
    try:
        for command in (["status"], ["create-study", "one.yaml"], ["worker", "--study", "one"]):
            said = ask(two, *command)
            refused(said, 1, "is at 9999, newer than")
            assert "pip install --upgrade hpo-service" in said.err
    finally:
        with engine.begin() as connection:
            connection.execute(change, {"to": present})
        engine.dispose()


@pytest.mark.parametrize("command", ["mirror sync", "mirror verify"])
def test_mlflow_that_does_not_answer_is_said(two: Project, command: str) -> None:
    """Exit code 3, its address, and no minutes of trying."""
    said = spawn(two, *command.split(), "--study", "one", MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    refused(said, 3, "http://127.0.0.1:1")


def test_deleting_asks_first(unchanged: Project) -> None:
    """With nobody there to answer, nothing is deleted."""
    said = ask(unchanged, "delete", "--study", "one")
    assert said.code in (1, 130)
    assert "Delete the study 'one' and all its trials?" in said.err
    assert "Traceback" not in said.err


def test_json_is_alone_on_stdout(two: Project, mlflow_url: str) -> None:
    """Each command's --json is one document, from the creation of a study to its deletion."""
    (two.folder / "third.yaml").write_text(STUDY.format(name="third"))
    on_third = ("--study", "third")
    for command, expected in (
        (("create-study", "third.yaml"), {"study": "third", "created": True, "trials": 2}),
        (("create-study", "third.yaml", "--exist-ok"), {"created": False}),
        (("status", *on_third), {"state": "open", "best": None, "champion": None}),
        (("enqueue", "x=0.5", *on_third), {"number": 1}),
        (("extend", "--trials", "3", *on_third), {"study": "third", "trials": 3}),
        (("stop", *on_third), {"study": "third", "state": "stopped"}),
        (("resume", *on_third), {"study": "third", "state": "open"}),
        (("worker", "--n-trials", "1", "--device", "cpu", *on_third), {"why": "limit"}),
        (("show", "0", *on_third), {"number": 0, "state": "complete", "epochs": 2}),
        (("retry", "0", *on_third), {"number": 2, "of": 0}),
        (("champion", *on_third), None),
        (("delete", "--yes", *on_third), {"deleted": "third"}),
    ):
        run = spawn if command[0] in ("worker", "status") else ask
        said = run(two, *command, "--json", MLFLOW_TRACKING_URI=mlflow_url)
        assert said.code == 0, said
        document = json.loads(said.out)
        assert document is expected or document | expected == document
    listed = json.loads(ask(two, "list", "--json").out)
    assert [row["study"] for row in listed] == ["two", "one"]
    trials = json.loads(ask(two, "trials", "--json", "--study", "one").out)
    assert [set(trial) for trial in trials] == [
        {"number", "state", "value", "params", "epochs", "worker", "takeovers", "run_id"}
    ]
    assert trials[0]["params"] == {"x": 0.2, "y": 0.1, "kind": "a"}

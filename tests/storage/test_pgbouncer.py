"""Everything works through PgBouncer in transaction mode, with few connections to PostgreSQL."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from support.command_line import Project, wait_for
from support.postgres import Watcher, up_for_long
from support.proxies import bouncer_before

from hpo.storage.postgres.url import database_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.proxies import Bouncer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SIZE = 3  # connections to PostgreSQL for everybody together
TRIALS, WORKERS = 14, 4
STUDY = f"""\
study: bounced
trainer: simulated
search_space: simulated
objective: {{metric: mAP50, direction: maximize}}
budget: {{trials: {TRIALS}, epochs: 6}}
sampler: {{name: tpe, startup_trials: 4}}
pruner: {{name: hyperband, min_epochs: 1}}
train: {{epoch_s: 0.3}}
promotion: {{model: bounced}}
"""


@pytest.fixture(scope="module")
def bouncer(postgres_url: str) -> Iterator[Bouncer]:
    """One for the tests of this file."""
    with bouncer_before(postgres_url, SIZE) as one:
        yield one


@pytest.fixture
def behind(bouncer: Bouncer, empty_database_url: str, tmp_path: Path) -> Project:
    """A project whose database is empty and reached through PgBouncer; MLflow's is made beside."""
    project = Project(tmp_path)
    project.env |= {
        "HPO_STORAGE": bouncer.url(database_name(empty_database_url)),
        "HPO_HOME": str(tmp_path / ".hpo"),
        "HPO_LEASE_S": "6",
    }
    (tmp_path / ".hpo").mkdir()
    return project


def test_a_study_runs_through_it_and_survives_killed_workers(
    behind: Project, empty_database_url: str
) -> None:
    """Migrations, claims, takeovers, mirror, finals, promotion and export; the budget is exact."""
    (behind.folder / "hpo.yaml").write_text(STUDY)
    behind.run("create-study")
    direct = create_engine(empty_database_url, poolclass=NullPool)
    up_for_long(direct)
    count = text("select count(*) from hpo.lease where told_at is not null")

    def told() -> int:
        with direct.connect() as connection:
            return int(connection.scalar(count) or 0)

    with Watcher(empty_database_url) as watcher:
        workers = [behind.start("worker", "--study", "bounced") for _ in range(WORKERS)]
        for killed, least in enumerate((2, 5)):
            wait_for(lambda least=least: told() >= least, f"{least} trials are told")
            os.kill(workers[killed].pid, signal.SIGKILL)
            workers[killed].wait()
        ended = [worker.wait(300) for worker in workers[2:]]
    assert ended == [0] * (WORKERS - 2), behind.logs()
    assert watcher.most <= SIZE + 1  # and ours, which is direct
    document = behind.json("status", "--study", "bounced")
    over = [document["counts"][state] for state in ("complete", "pruned", "failed")]
    assert (document["state"], sum(over)) == ("finished", TRIALS)
    with direct.connect() as connection:
        study = "select study_id from studies where study_name = 'bounced'"
        made = connection.scalar(text(f"select count(*) from trials where study_id = ({study})"))  # noqa: S608 - our own words
        taken_over = connection.scalar(text("select count(*) from hpo.lease where takeovers > 0"))
    assert made == TRIALS
    assert taken_over >= 1
    behind.run("finalize", "--study", "bounced")
    assert behind.json("champion", "--study", "bounced")["version"] == 1
    behind.run("mirror", "sync", "--study", "bounced")
    behind.run("mirror", "verify", "--study", "bounced")
    behind.run("export", "bounced.json.gz", "--study", "bounced")
    behind.run("stop", "--study", "bounced")
    direct.dispose()

"""Champions of a registered model, promoted as the finalizer does it, without its finals."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import PREFIXES
from support.studies import simulated_spec

from hpo.promotion import ledger
from hpo.promotion.alias import Move, move, settle
from hpo.promotion.decision import Decision, Outcome
from hpo.promotion.lock import promotion_lock
from hpo.promotion.rollback import Request, roll_back
from hpo.storage.postgres.engine import Database
from hpo.studies.spec import Promotion
from hpo.studies.store import store_study
from hpo.tracking.client import open_client
from hpo.tracking.registry import DECISION, Registry

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.promotion.alias import Settled
    from hpo.promotion.rollback import Goal
    from hpo.settings import Settings
    from hpo.tracking.client import Client
    from hpo.tracking.registry import Version

ALIAS = "champion"


class ChampionBench:
    """A registered model of the test's own, on one database and one MLflow."""

    def __init__(self, engine: Engine, settings: Settings, folder: Path) -> None:
        self.engine, self.settings, self.folder = engine, settings, folder  # folder: empty
        self.database = Database(engine)
        self._clients: dict[str, Client] = {}
        self.name = uuid.uuid4().hex[:8]  # the tests of a process share MLflow
        self.model = f"detector-{self.name}"
        promotion = Promotion(model=self.model, alias=ALIAS)
        self.study, _ = store_study(
            engine, simulated_spec(study=f"study-{self.name}", promotion=promotion),
            fingerprint=None, code_version="simulated 1",
        )  # fmt: skip

    @property
    def client(self) -> Client:
        """A client of the MLflow in use."""
        uri = str(self.settings.tracking_uri)
        if uri not in self._clients:
            url = self.engine.url.render_as_string(hide_password=False)
            self._clients[uri] = open_client(self.settings, url)
        return self._clients[uri]

    @property
    def registry(self) -> Registry:
        """The registry in use."""
        return Registry(self.client)

    def aliases(self) -> dict[str, int]:
        """Every alias of the model with its version, as MLflow says."""
        return self.registry.aliases(self.model)

    def point(self, to: int | None) -> None:
        """Another hand moves the alias in MLflow."""
        if to is None:
            self.client.delete_registered_model_alias(self.model, ALIAS)
        else:
            self.client.set_registered_model_alias(self.model, ALIAS, str(to))

    def version(self, decision: uuid.UUID | None = None) -> Version:
        """A new version; one registered outside this service when it is for no decision."""
        client, registry = self.client, self.registry
        if not registry.has(self.model):
            client.create_registered_model(self.model)
        tags = {} if decision is None else {DECISION: str(decision)}
        # Never read; MLflow's server refuses a folder of this machine
        source = f"s3://nowhere/{self.name}"
        made = client.create_model_version(
            self.model, source=source, tags=tags, await_creation_for=0
        )
        found = registry.get(self.model, int(made.version))
        assert found is not None
        return found

    def promote(self, trial: int = 0, value: float = 0.5, *, record: bool = True) -> int:
        """Promote a trial; the number of its version. Not recorded: killed right before that."""
        decision_id = uuid.uuid4()
        number = self.version(decision_id).number
        with promotion_lock(self.database, self.model, lambda: None) as connection:
            stands = settle(connection, self.registry, self.model, ALIAS)
            assert stands.moved_by_hand == ""
            before = None if stands.champion is None else stands.champion.number
            evidence = {"reason": "it is better", "metric": "mAP50", "value": value}
            decision = Decision(
                Outcome.PROMOTED, self.study.name, self.model, ALIAS, "it is better", trial,
                number, before, evidence,
            )  # fmt: skip
            row = ledger.row_of(self.study, decision_id, decision)
            step = Move(self.model, ALIAS, number, before, decision_id, row)
            move(connection, self.registry, step)
            if record:
                ledger.write(connection, row)
        return number

    def settle(self) -> Settled:
        """What the next finalizer or rollback finds, after it completed what was left."""
        with promotion_lock(self.database, self.model, lambda: None) as connection:
            return settle(connection, self.registry, self.model, ALIAS)

    def roll_back(self, to: Goal = "before", why: str = "it misses small ones") -> Decision:
        """As `hpo rollback` does it."""
        request = Request(self.model, ALIAS, to, why, "ada@lab")
        return roll_back(self.database, self.settings, request)

    def rows(self) -> list[Any]:
        """Every row of the model, the earliest first."""
        with self.engine.connect() as connection:
            found = connection.exec_driver_sql(
                "select * from hpo.promotion where model = %s order by seq", (self.model,)
            )
            return list(found.all())

    def changes(self) -> list[tuple[str, int | None, int | None]]:
        """Outcome, champion before and champion after of every row."""
        return [(row.outcome, row.previous_version, row.version) for row in self.rows()]

    def notes(self) -> int:
        """How many moves are noted and not recorded."""
        with self.engine.connect() as connection:
            return int(
                connection.exec_driver_sql("select count(*) from hpo.alias_move").scalar_one()
            )

    def env(self) -> dict[str, str]:
        """The environment in which a command works on the same database and MLflow."""
        self.settings.home.mkdir(exist_ok=True)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
        return inherited | {
            "HPO_STORAGE": str(self.settings.storage),
            "HPO_HOME": str(self.settings.home),
            "MLFLOW_TRACKING_URI": str(self.settings.tracking_uri),
        }


@pytest.fixture
def champions(engine: Engine, mirror_settings: Settings, tmp_path: Path) -> ChampionBench:
    """A bench on the test's own database, and on the shared MLflow."""
    return ChampionBench(engine, mirror_settings, tmp_path)

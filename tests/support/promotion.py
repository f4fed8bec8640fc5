"""What is promoted: trials told with real weights, champions of a registered model."""

from __future__ import annotations

import json
import os
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import PREFIXES
from support.studies import simulated_spec

from hpo.claims.claims import Claim, Claims, End, register_worker
from hpo.datasets.held_out import simulated_fingerprint
from hpo.promotion import ledger
from hpo.promotion.alias import Move, complete_pending_move, move
from hpo.promotion.candidates import call_finals
from hpo.promotion.decision import Decision, Outcome
from hpo.promotion.evidence import Evidence
from hpo.promotion.finalizer import finalize
from hpo.promotion.lock import promotion_lock
from hpo.promotion.rollback import Request, roll_back
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres.engine import Database
from hpo.studies.spec import Promotion
from hpo.studies.store import Study, store_study
from hpo.tracking.client import Client, open_client
from hpo.tracking.registry import DECISION, Registry
from hpo.trainer import Directive, Epoch, Job
from workers.context import WorkerContext
from workers.events import nobody
from workers.shutdown import Shutdown
from workers.simulated.trainer import SimulatedTrainer
from workers.study_loop import Limits, StudyLoop, WorkerSummary
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.promotion.alias import AliasState
    from hpo.promotion.rollback import Goal
    from hpo.settings import Settings
    from hpo.tracking.client import Client
    from hpo.tracking.registry import Version


class Teller:
    """Runs trials of one study to a chosen value, under leases as a worker does."""

    def __init__(self, engine: Engine, settings: Settings, study: Study, folder: Path) -> None:
        self._engine, self._settings, self._study, self._folder = engine, settings, study, folder
        open_store(settings).require_writable()
        database = Database(engine, patience_s=10)
        worker_id, _ = register_worker(database, study, host="here", pid=1, device="cpu")
        self.claims = Claims(database, study, worker_id, lease_s=60)  # nothing here is taken over

    def claim(self) -> Claim:
        """A trial that now runs."""
        claim = self.claims.claim()
        assert isinstance(claim, Claim), claim
        return claim

    def tell(self, value: float, end: End = End.COMPLETE, *, quality: float | None = None) -> Claim:
        """One trial of two epochs; the second has mAP50 = `value` and loss = 1 - `value`.

        On the test split its weights have about the mAP50 `quality`, the same where not given.
        """
        claim = self.claim()
        for number, figure in ((1, value / 2), (2, value)):
            metrics = {"mAP50": figure, "mAP50-95": figure / 2, "precision": 0.5, "recall": 0.25}
            own = {"loss": 1 - figure, "seconds": 1.5}
            self.claims.report(claim, Epoch(number, metrics | own))
        files: dict[str, Any] = {}
        if end is not End.FAIL:
            stored = open_store(self._settings).put(
                self._weights(claim, value if quality is None else quality)
            )
            files = {"weights/weights.json": stored}
        assert self.claims.tell(
            claim, end, reason="error: told so" * (end is End.FAIL), files=files
        )
        return claim

    def _weights(self, claim: Claim, value: float) -> Path:
        spec = self._study.spec
        job = Job(
            trial=claim.number,
            model=spec.model,
            params=claim.params,
            train={"epoch_s": 0.0},
            epochs=2,
            seed=spec.seed,
            metric="mAP50",
            direction="maximize",
            data=None,
            device="cpu",
            run_dir=self._folder / f"trial-{claim.token.hex}",
        )
        weights = SimulatedTrainer().train(job, lambda _: Directive.GO).weights
        assert weights is not None
        saved = json.loads(weights.read_text(encoding="utf-8"))
        weights.write_text(json.dumps(saved | {"quality": value}), encoding="utf-8")
        return weights


def promotions(engine: Engine) -> list[Any]:
    """Every row of hpo.promotion, the earliest first."""
    with engine.connect() as connection:
        found = connection.exec_driver_sql("select * from hpo.promotion order by seq")
        return list(found.all())


class PromotionBench:
    """Studies, trials and finalizations on one database."""

    def __init__(
        self, engine: Engine, settings: Settings, runtime: TrainingProcess, folder: Path
    ) -> None:
        self.engine, self.settings, self.runtime, self.folder = engine, settings, runtime, folder
        self.database = Database(engine, patience_s=settings.db_patience_s)
        # The tests of a process share MLflow; names tell theirs apart.
        self.name = uuid.uuid4().hex[:8]
        self.model = f"detector-{self.name}"

    def study(
        self, name: str = "first", *, test_fingerprint: str | None = None, **changes: Any
    ) -> Study:
        """A stored study of two trials that promotes to `model`."""
        changes = {
            "trials": 2,
            "promotion": Promotion(model=self.model, alias="champion"),
        } | changes
        spec = simulated_spec(study=f"{name}-{self.name}", **changes)
        study, _ = store_study(
            self.engine, spec, fingerprint=None, code_version="simulated 1",
            test_fingerprint=test_fingerprint or simulated_fingerprint("simulated 1"),
        )  # fmt: skip
        return study

    def told(self, study: Study, *values: float) -> Teller:
        """The study's trials, complete with these values."""
        teller = Teller(self.engine, self.settings, study, self.folder)
        for value in values:
            teller.tell(value)
        return teller

    def finals(self, study: Study, numbers: list[int] | None = None) -> WorkerSummary | None:
        """Look again at the study's best trials, as a worker does; None when there are none."""
        finals = call_finals(self.engine, study, numbers)
        if finals is None:
            return None
        runs = self.folder / "runs"
        runs.mkdir(exist_ok=True)
        context = WorkerContext(
            settings=self.settings,
            database=self.database,
            process=self.runtime,
            runs=runs,
            data=None,
            model="model",
            device="cpu",
            shutdown=Shutdown(),
            watch=nobody,
            stall_timeout_s=None,
            slot=None,
            started=time.monotonic(),
        )
        fingerprint = str(study.test_fingerprint)
        with StudyLoop(context, finals, Limits(), test_fingerprint=fingerprint) as loop:
            return loop.run()

    def finalize(self, study: Study, **options: Any) -> Decision:
        """`finalize` with everything else given, after the finals."""
        override = options.get("override")
        self.finals(study, None if override is None else [override.trial])
        return self.decide(study, **options)

    def decide(self, study: Study, **options: Any) -> Decision:
        """`finalize` alone."""
        return finalize(self.database, self.settings, study, self.runtime, **options)

    @property
    def client(self) -> Client:
        """A client of the MLflow in use."""
        url = self.engine.url.render_as_string(hide_password=False)
        return open_client(self.settings, url)

    def versions(self) -> list[int]:
        """Numbers of all versions of `model`."""
        return sorted(
            int(one.version) for one in self.client.search_model_versions(f"name='{self.model}'")
        )

    def champion(self) -> int | None:
        """The number that the alias points to."""
        found = Registry(self.client).champion(self.model, "champion")
        return None if found is None else found.number


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingProcess]:
    """The real training process of the simulated trainer."""
    with TrainingProcess("simulated", tmp_path_factory.mktemp("runtime")) as process:
        yield process


@pytest.fixture
def promotion_bench(
    engine: Engine, mirror_settings: Settings, runtime: TrainingProcess, tmp_path: Path
) -> PromotionBench:
    """A bench on the test's own database, and on the shared MLflow."""
    return PromotionBench(engine, mirror_settings, runtime, tmp_path)


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
            state = complete_pending_move(connection, self.registry, self.model, ALIAS)
            assert state.external_change == ""
            before = None if state.champion is None else state.champion.number
            decision = Decision(
                outcome=Outcome.PROMOTED, study=self.study.name, model=self.model, alias=ALIAS,
                reason="it is better", trial=trial, version=number, previous_version=before,
                evidence=Evidence(reason="it is better", metric="mAP50", value=value),
            )  # fmt: skip
            row = ledger.row_of(self.study, decision_id, decision)
            step = Move(
                model=self.model, alias=ALIAS, to=number, before=before,
                decision_id=decision_id, row=row,
            )  # fmt: skip
            move(connection, self.registry, step)
            if record:
                ledger.write(connection, row)
        return number

    def settle(self) -> AliasState:
        """What the next finalizer or rollback finds, after it completed what was left."""
        with promotion_lock(self.database, self.model, lambda: None) as connection:
            return complete_pending_move(connection, self.registry, self.model, ALIAS)

    def roll_back(self, to: Goal = "before", why: str = "it misses small ones") -> Decision:
        """As `hpo rollback` does it."""
        request = Request(model=self.model, alias=ALIAS, to=to, why=why, actor="ada@lab")
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

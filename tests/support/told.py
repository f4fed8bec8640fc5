"""Trials told under real leases, with weights in a real store, and what is promoted of them."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from support.studies import simulated_spec

from hpo.claims.claims import Claim, Claims, End, register_worker
from hpo.datasets.held_out import simulated_fingerprint
from hpo.promotion.candidates import call_finals
from hpo.promotion.finalizer import finalize
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres.engine import Database
from hpo.studies.spec import Promotion
from hpo.studies.store import Study, store_study
from hpo.tracking.client import Client, open_client
from hpo.tracking.registry import Registry
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

    from hpo.promotion.decision import Decision
    from hpo.settings import Settings


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
        self, engine: Engine, settings: Settings, workshop: TrainingProcess, folder: Path
    ) -> None:
        self.engine, self.settings, self.workshop, self.folder = engine, settings, workshop, folder
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
            process=self.workshop,
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
        return finalize(self.database, self.settings, study, self.workshop, **options)

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
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingProcess]:
    """The real training process of the simulated trainer."""
    with TrainingProcess("simulated", tmp_path_factory.mktemp("workshop")) as process:
        yield process


@pytest.fixture
def promotion_bench(
    engine: Engine, mirror_settings: Settings, workshop: TrainingProcess, tmp_path: Path
) -> PromotionBench:
    """A bench on the test's own database, and on the shared MLflow."""
    return PromotionBench(engine, mirror_settings, workshop, tmp_path)

"""Studies with trials told under real leases, and a real MLflow database to mirror them into."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.studies import simulated_spec

from hpo.claims.claims import Claim, Claims, End, register_worker
from hpo.storage.artifacts.opening import open_store
from hpo.storage.postgres.engine import Database
from hpo.studies.store import store_study
from hpo.tracking.client import open_client
from hpo.tracking.mirror import Mirror, open_mirror
from hpo.trainer import Epoch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.settings import Settings
    from hpo.studies.store import Study
    from hpo.tracking.client import Client

FINGERPRINT = "0123456789abcdef" * 4
METRICS = {"mAP50-95": 0.1234567890123, "train/box_loss": 1.5, "lr": 1e-05, "seconds": 0.25}


class Bench:
    """One study with its claims, and the mirrors of it."""

    def __init__(self, engine: Engine, settings: Settings, folder: Path, **changes: Any) -> None:
        self.engine, self.settings, self.folder = engine, settings, folder
        open_store(settings).require_writable()
        spec = simulated_spec(study=f"study-{uuid.uuid4().hex[:8]}", **changes)
        self.study: Study = store_study(
            engine, spec, fingerprint=FINGERPRINT, code_version="simulated 1"
        )[0]
        self._open: list[Mirror] = []

    def _worker(self, host: str) -> int:
        return register_worker(Database(self.engine), self.study, host=host, pid=1, device="cpu")[0]

    def claims(self, *, host: str = "host-a", lease_s: float = 60.0) -> Claims:
        """Claims of a worker on that host."""
        return Claims(
            Database(self.engine, patience_s=10), self.study, self._worker(host), lease_s=lease_s
        )

    def claim(self, **options: Any) -> tuple[Claims, Claim]:
        """A trial that now runs, and the claims that hold it."""
        claims = self.claims(**options)
        claim = claims.claim()
        assert isinstance(claim, Claim), claim
        return claims, claim

    def train(self, claims: Claims, claim: Claim, *values: float) -> None:
        """Report an epoch for each value, counted from 1."""
        for number, value in enumerate(values, 1):
            claims.report(claim, Epoch(number, {"mAP50": value, **METRICS}))

    def tell(self, claims: Claims, claim: Claim, end: End = End.COMPLETE) -> None:
        """End the trial, with weights and a picture unless it failed."""
        files = {}
        if end is not End.FAIL:
            for name in ("weights/best.pt", "pictures/results.png"):
                file = self.folder / f"{uuid.uuid4().hex}"
                file.write_bytes(f"{claim.trial_id} {name}".encode() * 100)
                files[name] = open_store(self.settings).put(file)
        reason = "error: told so" if end is End.FAIL else ""
        assert claims.tell(claim, end, reason=reason, attrs={"batch": 16}, files=files)

    def trial(self, *values: float, end: End = End.COMPLETE) -> Claim:
        """A whole trial."""
        claims, claim = self.claim()
        self.train(claims, claim, *values)
        self.tell(claims, claim, end)
        return claim

    def mirror(self, settings: Settings | None = None) -> Mirror:
        """A mirror with an engine of its own, closed with the bench."""
        mirror = open_mirror(settings or self.settings, self.study.study_id)
        self._open.append(mirror)
        return mirror

    def client(self) -> Client:
        """MLflow, to look and to tamper."""
        return open_client(self.settings, self.engine.url.render_as_string(hide_password=False))

    def runs(self) -> list[Any]:
        """Every live run of the study's experiment."""
        client = self.client()
        experiment = client.get_experiment_by_name(self.study.name)
        return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))

    def run(self, number: int) -> Any:
        """The one live run of a trial."""
        found = [run for run in self.runs() if run.data.tags.get("hpo.trial") == str(number)]
        assert len(found) == 1, found
        return found[0]

    def close(self) -> None:
        """Close the mirrors."""
        for mirror in self._open:
            mirror.close()


@pytest.fixture
def mirror_settings(settings: Settings, mlflow_url: str) -> Settings:
    """Settings with the shared MLflow database."""
    return replace(settings, tracking_uri=mlflow_url)


@pytest.fixture
def bench(engine: Engine, mirror_settings: Settings, tmp_path: Path) -> Iterator[Bench]:
    """A bench on the shared MLflow database."""
    bench = Bench(engine, mirror_settings, tmp_path)
    yield bench
    bench.close()

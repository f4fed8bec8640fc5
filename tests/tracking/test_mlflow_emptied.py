"""An MLflow that lost its database: rebuilt from PostgreSQL and the artifact store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.command_line import wait_for
from support.studies import FINGERPRINT, Bench

from hpo.tracking.mirror_thread import MirrorThread
from hpo.tracking.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine
    from support.mlflow_server import Emptied

    from hpo.settings import Settings


@pytest.mark.faults
def test_an_emptied_mlflow_is_rebuilt_by_the_thread_and_by_sync(
    engine: Engine, settings: Settings, emptied: Emptied, tmp_path: Path
) -> None:
    """While the study runs and after it: experiment, parent, figures, datasets, files, all anew.

    MLflow then counts its experiments from the beginning again: the number that the study knew is
    another study's, and stays the other's.
    """
    settings = replace(settings, tracking_uri=emptied.uri)
    bench, other = (Bench(engine, settings, tmp_path) for _ in range(2))
    bench.trial(0.1, 0.2)
    bench.mirror().sync_study()
    other.mirror().sync_study()
    with MirrorThread(settings, bench.study):
        look = bench.mirror()
        emptied.lose()
        other.trial(0.5)
        other.mirror().sync_study()
        claims, claim = bench.claim()
        bench.train(claims, claim, 0.3)
        wait_for(lambda: len(bench.runs()) == 3 and look.pending_count() == 0, "all is there again")
        bench.tell(claims, claim)
    whole(bench, 3)
    emptied.lose()
    assert other.mirror().sync_study().behind == 0
    assert bench.mirror().sync_study().rebuilt == 2
    whole(bench, 3)
    whole(other, 2)
    bench.close()
    other.close()


def whole(bench: Bench, runs: int) -> None:
    """MLflow holds exactly these runs, with inputs and files."""
    assert verify(bench.engine, bench.client(), bench.study.study_id).differences == []
    found = bench.runs()
    assert len(found) == runs
    for run in found:
        (given,) = run.inputs.dataset_inputs
        assert FINGERPRINT.startswith(given.dataset.digest)
    files = bench.client().list_artifacts(bench.run(0).info.run_id, "weights")
    assert [one.path for one in files] == ["weights/best.pt"]

"""What a trainer of another package says of its models stands in their cards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.promotion import PromotionBench
from support.training import install_trainer

from hpo.tracking.registry import Registry
from workers.training_process.client import TrainingProcess

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.settings import Settings

# A package of its own that was installed beside this one
PLUGIN = """
from dataclasses import replace

from workers.simulated.trainer import SimulatedTrainer


class Trainer(SimulatedTrainer):
    def describe(self):
        return replace(
            super().describe(), name="licensed",
            weights_loader="import licensed\\n\\nmodel = licensed.open({uri}, strict=True)",
        )

    def package(self, weights, job):
        made = super().package(weights, job)
        return replace(made, licence="MIT", licence_note="Keep the `notice` with it.")
"""


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_card_of_a_plugin_has_its_own_licence_and_loader(
    engine: Engine, mirror_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the version's README.md, MLmodel and decision.md; nothing of another trainer's."""
    import mlflow.artifacts
    import yaml

    variables = install_trainer(tmp_path / "plugin", "licensed", PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    with TrainingProcess("licensed", tmp_path / "logs", variables) as process:
        bench = PromotionBench(engine, mirror_settings, process, tmp_path)
        study = bench.study(trainer="licensed", model="tiny")
        bench.told(study, 0.3, 0.6)
        decision = bench.finalize(study)
    assert decision.version == 1, decision.reason
    source = bench.client.get_model_version(bench.model, "1").source
    folder = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(tmp_path / "version")))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Licence\n\nMIT. Keep the \\`notice\\` with it.\n" in card
    assert f'model = licensed.open("models:/{bench.model}@champion", strict=True)\n' in card
    assert not {"AGPL", "YOLO", "Ultralytics"} & set(card.split())
    described = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    assert described["metadata"]["license"] == "MIT"
    texts = Registry(bench.client).read_texts(str(decision.evidence.run_id), ("decision.md",))
    assert "licensed.open(" in texts["decision.md"]

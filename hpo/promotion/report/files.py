"""Write a decision as files for pipelines, and copy its record from MLflow to a folder."""

from __future__ import annotations

import json
import math
import os
import uuid
from typing import TYPE_CHECKING, Any

from hpo.promotion.report.context import champion_of, evaluation_of
from hpo.promotion.report.formatting import difference_of, seed_values
from hpo.promotion.report.render import as_html, as_markdown
from hpo.storage.postgres.engine import storage_url
from hpo.tracking.client import open_client
from hpo.tracking.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hpo.promotion.decision import Decision
    from hpo.promotion.report.context import Exhibit
    from hpo.settings import Settings

SCHEME = 1
# Written last: where it is, the others of the same decision are whole
METADATA = "metadata.json"


def metadata(decision: Decision, *, decision_id: str = "") -> dict[str, Any]:
    """What a pipeline needs to go on with the model.

    `version` and `model_uri` are of the very model that `trial`, `run_id`, `weights` and `figures`
    are of: null unless it was promoted. Who is champion after the decision stands in `champion`.

    Args:
        decision: the decision.
        decision_id: the name under which it is recorded.
    """
    evidence = decision.evidence
    promoted = decision.outcome.value == "promoted"
    champion = {"version": decision.version, "model_uri": _model_uri(decision)}
    return {
        "scheme": SCHEME,
        "decision": decision_id or None,
        "outcome": decision.outcome.value,
        "promoted": promoted,
        "reason": decision.reason,
        "override": decision.override,
        "why": decision.why,
        "actor": decision.actor,
        "simulated": decision.simulated,
        "model": decision.model,
        "alias": decision.alias,
        **(champion if promoted else dict.fromkeys(champion)),
        "champion": champion,
        "previous_version": decision.previous_version,
        "study": decision.study,
        "trial": decision.trial,
        "run_id": evidence.get("run_id"),
        "seed": evidence.get("seed"),
        "metric": evidence.get("metric"),
        "direction": evidence.get("direction"),
        "params": evidence.get("params"),
        "weights": {
            "name": evidence.get("weights_name"), "sha256": evidence.get("weights_sha256"),
        },
        "spec_sha256": evidence.get("spec_sha256"),
        "dataset_fingerprint": evidence.get("dataset_fingerprint"),
        "test_fingerprint": evidence.get("test_fingerprint"),
        "trainer": evidence.get("trainer"),
        "code_version": evidence.get("code_version"),
        "figures": metrics(decision),
    }  # fmt: skip


def metrics(decision: Decision) -> dict[str, float]:
    """Every figure of the decision by a flat name; those that do not exist are left out.

    `value` is the mean of `seeds` trainings of the trial, `weights_value` that of the training
    whose weights it is; `previous_` are figures of the champion before the decision.
    """
    evidence = decision.evidence
    evaluation = evaluation_of(evidence, decision.trial)
    champion, found = champion_of(evidence), difference_of(evidence)
    seeds = seed_values(decision)
    named: dict[str, Any] = {
        "promoted": int(decision.outcome.value == "promoted"),
        "value": evidence.get("value"),
        "weights_value": seeds.get(evidence.get("seed")),
        "seeds": len(seeds) or None,
        "best_epoch": evidence.get("best_epoch"),
        "test_value": evidence.get("test_value"),
        **_prefixed("test_", evaluation.get("metrics")),
        **_prefixed("latency_ms_", evaluation.get("latency_ms")),
        "test_images": evaluation.get("images"),
        "parameters": evaluation.get("parameters"),
        "gflops": evaluation.get("gflops"),
        "weights_bytes": evaluation.get("weights_bytes"),
        "previous_value": champion.get("value"),
        **_prefixed("previous_", (champion.get("evaluation") or {}).get("metrics")),
        **_prefixed("gain_", {key: found.get(key) for key in ("low", "high", "better", "luck")}),
        "gain": found.get("value"),
    }
    for name, figures in (evaluation.get("per_class") or {}).items():
        named |= _prefixed(f"class_{name}_", figures)
    return {name: value for name, value in named.items() if _is_figure(value)}


def documents(exhibit: Exhibit) -> dict[str, str]:
    """Every document of a decision by its file name."""
    decision = exhibit.decision
    known = metadata(decision, decision_id=exhibit.decision_id)
    return {
        "decision.md": as_markdown(exhibit),
        "decision.html": as_html(exhibit),
        "metrics.json": _json(metrics(decision)),
        METADATA: _json(known),
    }


def write_files(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write texts by file name, metadata.json last; a file is there whole or as it was before.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(texts, key=lambda name: (name == METADATA, name))
    return [_write(folder / name, texts[name]) for name in names]


def _model_uri(decision: Decision) -> str | None:
    """Of the champion after the decision."""
    return None if decision.version is None else f"models:/{decision.model}/{decision.version}"


def _write(path: Path, content: str) -> Path:
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("x", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _prefixed(prefix: str, values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in (values or {}).items()}


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


NAMES = ("decision.md", "decision.html", "metrics.json", METADATA)


def fetch_files(settings: Settings, decision: Decision, folder: Path) -> None:
    """Write what the decision's run holds of it into a folder; each file at once or not at all.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    registry = Registry(open_client(settings, storage_url(settings)))
    write_files(folder, registry.read_texts(decision.evidence["run_id"], NAMES))

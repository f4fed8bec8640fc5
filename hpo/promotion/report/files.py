"""Write a decision as files for pipelines, and copy its record from MLflow to a folder."""

from __future__ import annotations

import json
import math
import os
import uuid
from typing import TYPE_CHECKING, Any

from hpo.promotion.report.formatting import seed_values
from hpo.promotion.report.render import as_html, as_markdown
from hpo.storage.postgres.engine import storage_url
from hpo.tracking.client import open_client
from hpo.tracking.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hpo.evaluation.record import EvaluationRecord
    from hpo.evaluation.significance import Gain
    from hpo.promotion.decision import Decision
    from hpo.promotion.evidence import ChampionResult
    from hpo.promotion.report.context import ReportContext
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
        "run_id": evidence.run_id,
        "seed": evidence.seed,
        "metric": evidence.metric,
        "direction": evidence.direction,
        "params": evidence.params,
        "weights": {
            "name": evidence.weights_name, "sha256": evidence.weights_sha256,
        },
        "spec_sha256": evidence.spec_sha256,
        "dataset_fingerprint": evidence.dataset_fingerprint,
        "test_fingerprint": evidence.test_fingerprint,
        "trainer": evidence.trainer,
        "code_version": evidence.code_version,
        "figures": metrics(decision),
    }  # fmt: skip


def metrics(decision: Decision) -> dict[str, float]:
    """Every figure of the decision by a flat name; those that do not exist are left out.

    `value` is the mean of `seeds` trainings of the trial, `weights_value` that of the training
    whose weights it is; `previous_` are figures of the champion before the decision.
    """
    evidence = decision.evidence
    evaluation = evidence.evaluated(decision.trial)
    seeds = seed_values(decision)
    named: dict[str, Any] = {
        "promoted": int(decision.outcome.value == "promoted"),
        "value": evidence.value,
        "weights_value": None if evidence.seed is None else seeds.get(evidence.seed),
        "seeds": len(seeds) or None,
        "best_epoch": evidence.best_epoch,
        "test_value": evidence.test_value,
        **_evaluated(evaluation),
        **_previous(evidence.champion),
        **_gain(evidence.gain),
    }
    return {name: value for name, value in named.items() if _is_figure(value)}


def documents(context: ReportContext) -> dict[str, str]:
    """Every document of a decision by its file name."""
    decision = context.decision
    known = metadata(decision, decision_id=context.decision_id)
    return {
        "decision.md": as_markdown(context),
        "decision.html": as_html(context),
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
    """The URI of the champion after the decision."""
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


def _evaluated(evaluation: EvaluationRecord | None) -> dict[str, Any]:
    if evaluation is None:
        return {}
    named = {
        **_prefixed("test_", evaluation.metrics),
        **_prefixed("latency_ms_", evaluation.latency_ms),
        "test_images": evaluation.images,
        "parameters": evaluation.parameters,
        "gflops": evaluation.gflops,
        "weights_bytes": evaluation.weights_bytes,
    }
    for name, figures in evaluation.per_class.items():
        named |= _prefixed(f"class_{name}_", figures)
    return named


def _previous(champion: ChampionResult | None) -> dict[str, Any]:
    if champion is None:
        return {}
    metrics = {} if champion.evaluation is None else champion.evaluation.metrics
    return {"previous_value": champion.value, **_prefixed("previous_", metrics)}


def _gain(gain: Gain | None) -> dict[str, Any]:
    if gain is None:
        return {}
    return {
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "gain_better": gain.probability_better,
        "gain_luck": gain.p_value,
    }


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in values.items()}


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


NAMES = ("decision.md", "decision.html", "metrics.json", METADATA)


def fetch_files(settings: Settings, decision: Decision, folder: Path) -> None:
    """Write the files of the decision's run into a folder; each at once or not at all.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    registry = Registry(open_client(settings, storage_url(settings)))
    write_files(folder, registry.read_texts(str(decision.evidence.run_id), NAMES))

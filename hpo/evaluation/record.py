"""The record of one evaluation on held-out images, to and from JSON-able values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.trainer import Evaluation


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """Figures of certain weights on a certain split.

    Attributes:
        weights_sha256: of the file that was evaluated.
        test_fingerprint: of the split's images, labels and class names.
        metrics, images, per_class, latency_ms, device, parameters, gflops, weights_bytes,
        settings: see `hpo.trainer.Evaluation`.
        detections_sha256: of the stored file with the detections; None where there is none.
    """

    weights_sha256: str
    test_fingerprint: str
    metrics: Mapping[str, float]
    images: int
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    parameters: int | None = None
    gflops: float | None = None
    weights_bytes: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    detections_sha256: str | None = None

    @classmethod
    def of(
        cls,
        evaluation: Evaluation,
        *,
        weights_sha256: str,
        test_fingerprint: str,
        detections_sha256: str | None,
    ) -> EvaluationRecord:
        """The record of what a trainer found."""
        return cls(
            weights_sha256=weights_sha256,
            test_fingerprint=test_fingerprint,
            metrics=dict(evaluation.metrics),
            images=evaluation.images,
            per_class={name: dict(values) for name, values in evaluation.per_class.items()},
            latency_ms=dict(evaluation.latency_ms),
            device=evaluation.device,
            parameters=evaluation.parameters,
            gflops=evaluation.gflops,
            weights_bytes=evaluation.weights_bytes,
            settings=dict(evaluation.settings),
            detections_sha256=detections_sha256,
        )

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-able values; `from_dict` gives an equal record back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluationRecord:
        """The record that `to_dict` was made of."""
        return cls(**values)

"""Ultralytics' validator without its limit on time, and one that keeps every box.

Ultralytics is imported at the top: import this module only after `environment.prepare()`.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import nms, ops

from hpo.evaluation.detections import Detections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NO_TIME_LIMIT_S = 1e9


class UnhurriedValidator(DetectionValidator):  # type: ignore[misc]  # Ultralytics has no types
    """A validation that finds as much on a slow machine as on a quick one."""

    def postprocess(self, preds: Any) -> list[dict[str, Any]]:
        """Run Ultralytics' non-maximum suppression without its limit on time.

        Past the limit it gives the rest of a batch no boxes at all, with a line in the log.
        """
        outputs = nms.non_max_suppression(
            preds,
            self.args.conf,
            self.args.iou,
            multi_label=True,
            agnostic=self.args.single_cls or self.args.agnostic_nms,
            max_time_img=NO_TIME_LIMIT_S,
            max_det=self.args.max_det,
            end2end=self.end2end,
        )
        return [{"bboxes": x[:, :4], "conf": x[:, 4], "cls": x[:, 5], "extra": x[:, 6:]}
                for x in outputs]  # fmt: skip


@dataclass(frozen=True)
class _Image:
    """What is known of one image beside the validator's own statistics.

    Attributes:
        name: its place in the dataset.
        size: height and width in px.
        box: (m, 4) float32, detections in px of the image.
        true_box: (t, 4) float32.
    """

    name: str
    size: tuple[int, int]
    box: NDArray[Any]
    true_box: NDArray[Any]


class RecordingValidator(UnhurriedValidator):
    """One evaluation of finished weights.

    Attributes:
        detections: everything that the figures were computed from; there after the call.
    """

    detections: Detections

    def __init__(self, args: dict[str, Any], save_dir: Path, root: Path) -> None:
        """Make an evaluation.

        Args:
            args: Ultralytics' arguments.
            save_dir: folder of what Ultralytics writes.
            root: the folder which images are named from.
        """
        super().__init__(args=args, save_dir=save_dir)
        self._root = root
        self._images: list[_Image] = []

    # What Ultralytics calls

    def update_metrics(self, preds: list[dict[str, Any]], batch: dict[str, Any]) -> None:
        super().update_metrics(preds, batch)
        for index, pred in enumerate(preds):
            given = self._prepare_batch(index, batch)
            height, width = (int(side) for side in given["ori_shape"])
            # As labelled, not as scaled for this model: the same for models of any input size
            label = self.dataloader.dataset.labels[len(self._images)]
            true_box = ops.xywh2xyxy(label["bboxes"]) * np.array([width, height, width, height])
            self._images.append(
                _Image(
                    Path(os.path.relpath(given["im_file"], self._root)).as_posix(),
                    (height, width),
                    self.scale_preds(pred, given)["bboxes"].float().cpu().numpy(),
                    true_box.astype(np.float32),
                )
            )

    def get_stats(self) -> dict[str, Any]:
        """The figures, of images in the order of their names.

        Ultralytics takes them in batches by shape; which of two detections of equal confidence
        counts first, and so the last digits, hangs on that order.
        """
        order = sorted(range(len(self._images)), key=lambda at: self._images[at].name)
        for name, values in self.metrics.stats.items():
            self.metrics.stats[name] = [values[at] for at in order]
        stats = self.metrics.stats
        # An image without boxes brings another type of number, which is sorted otherwise
        stats["conf"] = [values.astype(np.float32) for values in stats["conf"]]
        images = [self._images[at] for at in order]
        names = tuple(self.names[kind] for kind in sorted(self.names))
        self.detections = _joined(images, names, stats)
        figures: dict[str, Any] = super().get_stats()
        return figures


def _joined(
    images: Sequence[_Image], names: tuple[str, ...], stats: dict[str, list[Any]]
) -> Detections:
    found = [len(image.box) for image in images]
    true = [len(image.true_box) for image in images]
    numbers = np.arange(len(images), dtype=np.int32)
    return Detections(
        images=_unique([image.name for image in images]),
        names=names,
        sizes=np.array([image.size for image in images], dtype=np.int32),
        image=np.repeat(numbers, found),
        box=np.concatenate([image.box for image in images]),
        confidence=np.concatenate(stats["conf"]),
        kind=np.concatenate(stats["pred_cls"]).astype(np.int32),
        correct=np.concatenate(stats["tp"]),
        true_image=np.repeat(numbers, true),
        true_box=np.concatenate([image.true_box for image in images]),
        true_kind=np.concatenate(stats["target_cls"]).astype(np.int32),
    )


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """An image that a list holds twice counts twice: its second name ends in `#2`."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(unique)

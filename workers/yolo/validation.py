"""Ultralytics' validator without its limit on time; decides nothing about figures.

Imports Ultralytics at its top: import it only after `environment.prepare()`.
"""

from __future__ import annotations

from typing import Any

from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import nms

NO_TIME_LIMIT_S = 1e9


class UnhurriedValidator(DetectionValidator):  # type: ignore[misc]  # Ultralytics has no types
    """A validation that finds as much on a slow machine as on a quick one."""

    def postprocess(self, preds: Any) -> list[dict[str, Any]]:
        """Ultralytics' own, without its limit on time.

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

"""Confusion matrices from stored detections: known answers, and Ultralytics' own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.exhibits import detections

from hpo.evaluation.confusion import by_image, confusion
from hpo.evaluation.detections import OVERLAPS, Detections

BOX = (10.0, 10.0, 50.0, 50.0)
AWAY = (200.0, 200.0, 240.0, 240.0)


def made(truths: list[tuple[int, int, Any]], rows: list[tuple[int, int, Any, float]]) -> Detections:
    """Detections of three images: true boxes (image, class, box), found ones with confidence."""
    return Detections(
        images=("a", "b", "c"),
        names=("cat", "dog"),
        sizes=np.full((3, 2), 300, np.int32),
        image=np.array([row[0] for row in rows], np.int32),
        box=np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
        confidence=np.array([row[3] for row in rows], np.float32),
        kind=np.array([row[1] for row in rows], np.int32),
        correct=np.zeros((len(rows), len(OVERLAPS)), bool),
        true_image=np.array([row[0] for row in truths], np.int32),
        true_box=np.array([row[2] for row in truths], np.float32).reshape(-1, 4),
        true_kind=np.array([row[1] for row in truths], np.int32),
    )


def test_right_wrong_missed_and_false_each_have_their_cell() -> None:
    """Rows are true classes, columns found ones; the last of each is background."""
    found = made(
        [(0, 0, BOX), (1, 0, BOX), (2, 1, BOX)],
        [(0, 0, BOX, 0.9), (1, 1, BOX, 0.9), (0, 1, AWAY, 0.9)],
    )
    assert confusion(found).tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_a_true_box_is_found_once() -> None:
    """The more confident of two detections has it, the other is false."""
    found = made([(0, 0, BOX)], [(0, 1, BOX, 0.6), (0, 0, BOX, 0.8)])
    assert confusion(found).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_box_of_another_image_is_not_found() -> None:
    """The same place in another image is another place."""
    found = made([(0, 0, BOX)], [(1, 0, BOX, 0.9)])
    assert confusion(found).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_detections_at_the_confidence_do_not_count() -> None:
    """Only those above it do, as in Ultralytics."""
    found = made([(0, 0, BOX)], [(0, 0, BOX, 0.25)])
    assert confusion(found).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_nothing_found_and_nothing_to_find_are_counted() -> None:
    """Neither an empty model nor an empty split is an error."""
    assert confusion(made([], [])).sum() == 0
    assert confusion(made([(0, 1, BOX)], []))[1, 2] == 1
    assert confusion(made([], [(0, 1, BOX, 0.9)]))[2, 1] == 1


@pytest.mark.training
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("overlap", [0.45, 0.5, 0.75])
def test_it_is_the_matrix_of_ultralytics(seed: int, overlap: float) -> None:
    """Theirs has the true class in the columns."""
    import torch
    from ultralytics.utils.metrics import ConfusionMatrix

    found = detections(0.6 + seed / 20, images=30, seed=seed)
    theirs = ConfusionMatrix(dict(enumerate(found.names)))
    for at in range(len(found.images)):
        mine, true = found.image == at, found.true_image == at
        theirs.process_batch(
            {"cls": torch.tensor(found.kind[mine]), "conf": torch.tensor(found.confidence[mine]),
             "bboxes": torch.tensor(found.box[mine])},
            {"cls": torch.tensor(found.true_kind[true]),
             "bboxes": torch.tensor(found.true_box[true])},
            conf=0.25, iou_thres=overlap,
        )  # fmt: skip
    assert confusion(found, overlap=overlap).tolist() == theirs.matrix.T.tolist()


def test_each_images_mistakes_add_up_to_those_of_the_matrix() -> None:
    """What the pictures show is what the matrix counts."""
    found = detections(0.7)
    counts, images = confusion(found), by_image(found)
    assert sum(len(one.right) for one in images) == np.trace(counts)
    assert sum(len(one.wrong) for one in images) == counts[:, :-1].sum() - np.trace(counts)
    assert sum(len(one.missed) for one in images) == counts[:-1].sum() - np.trace(counts)

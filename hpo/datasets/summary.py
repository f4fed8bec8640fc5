"""Count a dataset's images and boxes by split and class."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.datasets import validation
from hpo.datasets.data_yaml import label_path, load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class SplitSummary:
    """One split in figures.

    Attributes:
        images: image files.
        unlabelled: images without a label file or with an empty one.
        boxes: objects in well-formed label lines.
        by_class: boxes by class name, in the classes' order.
    """

    images: int
    unlabelled: int
    boxes: int
    by_class: Mapping[str, int]


@dataclass(frozen=True)
class DatasetSummary:
    """A dataset in figures.

    Attributes:
        yaml: its data YAML, absolute.
        names: class names by class number.
        splits: the figures by split.
    """

    yaml: Path
    names: tuple[str, ...]
    splits: Mapping[str, SplitSummary]


def summary(yaml_path: Path) -> DatasetSummary:
    """Count images and boxes; malformed label lines are left out.

    Raises:
        DatasetError: the data YAML is not usable.
    """
    dataset = load(yaml_path)
    splits = {}
    for name, split in dataset.splits.items():
        counts: Counter[int] = Counter()
        unlabelled = 0
        for image in split.images:
            file = label_path(image)
            columns = dataset.keypoint_columns
            found = validation.read(file, dataset.names, columns)[0] if file.is_file() else []
            unlabelled += not found
            counts.update(label.cls for label in found)
        by_class = {cls: counts[number] for number, cls in enumerate(dataset.names)}
        splits[name] = SplitSummary(len(split.images), unlabelled, counts.total(), by_class)
    return DatasetSummary(dataset.yaml, dataset.names, splits)

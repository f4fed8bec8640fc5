"""An Ultralytics data YAML -> a frozen Dataset: names, splits, images, label files; opens no image.

It reads what Ultralytics reads, with two differences, both so that a study means the same data on
every machine. A relative `path` starts at the YAML's folder; Ultralytics starts at the current
folder, then at a folder of the user's global settings. And `download:` is never run. A trainer
therefore hands `Dataset.absolute()` to Ultralytics, not the file itself.
"""

from __future__ import annotations

import glob
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.datasets.keys import SPLITS, class_names, key_faults, read
from hpo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping

IMAGE_SUFFIXES = frozenset(  # Ultralytics' own list
    (
        "avif",
        "bmp",
        "dng",
        "heic",
        "heif",
        "jp2",
        "jpeg",
        "jpg",
        "mpo",
        "png",
        "tif",
        "tiff",
        "webp",
    )
)


@dataclass(frozen=True)
class Split:
    """One split's images.

    Attributes:
        name: `train`, `val` or `test`.
        sources: absolute folders, image lists or images that it is made of.
        images: absolute image files in Ultralytics' order; one listed twice stands here twice.
        faults: why images could not be listed, one sentence each.
    """

    name: str
    sources: tuple[Path, ...]
    images: tuple[Path, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """A detection dataset as its YAML describes it.

    Attributes:
        yaml: the data YAML, absolute.
        root: absolute folder that the splits are relative to.
        names: class names by class number.
        channels: image channels, 3 unless the YAML says otherwise.
        keypoint_columns: numbers after the box in a pose label row, 0 without `kpt_shape`.
        splits: the splits that the YAML declares, by name.
        keys: the YAML's own content.
    """

    yaml: Path
    root: Path
    names: tuple[str, ...]
    channels: int
    keypoint_columns: int
    splits: Mapping[str, Split]
    keys: Mapping[str, Any]

    def absolute(self) -> dict[str, Any]:
        """The YAML's content with every place absolute: it means the same from any folder."""
        dropped = {"path", "download", "validation", "minival", "nc", *SPLITS}
        plain = {key: value for key, value in self.keys.items() if key not in dropped}
        sources = {name: [str(s) for s in split.sources] for name, split in self.splits.items()}
        return {**plain, "path": str(self.root), **sources, "names": dict(enumerate(self.names))}

    def relative(self, file: Path) -> str:
        """`file` as a reader of the dataset would write it."""
        return str(file.relative_to(self.root) if file.is_relative_to(self.root) else file)


def label_path(image: Path) -> Path:
    """The label file of an image: the last folder `images` becomes `labels`, the suffix `.txt`."""
    parts = list(image.parts)
    for at in range(len(parts) - 2, 0, -1):
        if parts[at] == "images":
            parts[at] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def load(yaml_path: Path) -> Dataset:
    """Read a data YAML and list its images.

    A split whose folder is missing or empty is no error here: it has `faults`.

    Raises:
        DatasetError: the YAML is missing or malformed, or says nothing of train, val or classes.
    """
    yaml_path = Path(os.path.abspath(yaml_path))  # noqa: PTH100 - resolve() would follow a link away from the data
    keys = read(yaml_path)
    faults = key_faults(keys)
    names, fault = class_names(keys)
    faults += [fault] if fault else []
    root = (yaml_path.parent / str(keys.get("path") or ".")).resolve()
    splits: dict[str, Split] = {}
    for name in SPLITS:
        value = keys.get("validation" if name == "val" and "val" not in keys else name)
        if value is None:
            if name != "test":
                faults.append(f"{name}: missing; expected a folder, a list or a .txt of images")
        elif isinstance(value, str | list) and value:
            splits[name] = _split(name, value, root)
        else:
            faults.append(f"{name}: {value!r}, expected a folder, a list or a .txt of images")
    if faults:
        raise DatasetError(str(yaml_path), faults)
    return Dataset(
        yaml=yaml_path,
        root=root,
        names=names,
        channels=int(keys.get("channels") or 3),
        keypoint_columns=math.prod(keys.get("kpt_shape") or [0]),
        splits=splits,
        keys=keys,
    )


def _split(name: str, value: str | list[Any], root: Path) -> Split:
    sources, images, faults = [], [], []
    for item in value if isinstance(value, list) else [value]:
        source = _place(str(item), root)
        sources.append(source)
        if source.is_dir():
            # glob, as Ultralytics: it skips hidden files, such as those that macOS leaves
            pattern = os.path.join(glob.escape(str(source)), "**", "*.*")  # noqa: PTH118 - glob wants text
            images += [Path(f) for f in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - rglob finds hidden files
        elif source.suffix[1:].lower() in IMAGE_SUFFIXES:
            faults.append(f"{name}: {source} is an image, expected a folder or a .txt of images")
        elif source.is_file():
            listed, list_faults = _listed(name, source)
            images += listed
            faults += list_faults
        else:
            faults.append(f"{name}: no such folder or list: {source}")
    found = sorted(image for image in images if image.suffix[1:].lower() in IMAGE_SUFFIXES)
    if not found and not faults:
        where = ", ".join(str(source) for source in sources)
        faults.append(f"{name}: no images in {where}; expected files like 1.jpg or 1.png")
    return Split(name, tuple(sources), tuple(found), tuple(faults))


def _place(text: str, root: Path) -> Path:
    place = (root / text).resolve()
    if not place.exists() and text.startswith("../"):
        # Some exporters write ../train/images for what lies beside the YAML
        place = (root / text[3:]).resolve()
    return place


def _listed(name: str, source: Path) -> tuple[list[Path], list[str]]:
    images, faults = [], []
    text = source.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.strip().splitlines(), start=1):
        if line.startswith("./"):
            images.append(source.parent / line)
        elif Path(line).is_absolute():
            images.append(Path(line))
        elif line.strip():
            faults.append(
                f"{name}: {source} line {number}: '{line}' depends on the current folder; "
                "expected ./ before it (from the list's folder) or an absolute path"
            )
    return images, faults

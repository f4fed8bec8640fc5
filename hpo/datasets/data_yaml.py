"""Read an Ultralytics data YAML into a frozen Dataset: keys, names, splits, images, label files.

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
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import DatasetError
from search_spaces.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

TEST_SPLIT = "test"
SPLITS = ("train", "val", TEST_SPLIT)
KEYS = (
    *("path", *SPLITS, "names", "nc", "channels", "download", "kpt_shape", "kpt_names", "flip_idx"),
    *("validation", "minival", "masks_dir", "label_mapping", "max_depth", "depth_scale"),
)

SLIP = 0.75  # likeness: `tets` is a slip for `test`, `author` none for `path`


def read(yaml_path: Path) -> dict[str, Any]:
    """The mapping in a data YAML.

    Raises:
        DatasetError: no such file, not YAML, or not a mapping.
    """
    import yaml

    what = str(yaml_path)
    hint = "`hpo data shapes` makes a dataset to look at."
    try:
        # Ultralytics drops undecodable bytes as well
        content = yaml.safe_load(yaml_path.read_text(encoding="utf-8", errors="ignore"))
    except (FileNotFoundError, NotADirectoryError):
        fault = "no such file; expected an Ultralytics data YAML"
        raise DatasetError(what, [fault], hint=hint) from None
    except (IsADirectoryError, PermissionError) as error:
        raise DatasetError(what, [f"cannot be read: {error.strerror}"]) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise DatasetError(what, [f"not valid YAML: {reason}"]) from None
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        fault = f"{kind}, expected a mapping with train, val and names"
        raise DatasetError(what, [fault], hint=hint)
    return {str(key): value for key, value in content.items()}


def key_faults(keys: Mapping[str, Any]) -> list[str]:
    """Misspelt keys and wrong values, apart from the splits and the class names."""
    # Keys far from any known one are the notes that exporters leave (`roboflow:`, `author:`);
    # Ultralytics ignores them, and so do we. A key near a known one is a slip that it would
    # ignore just as silently.
    faults = []
    for key in keys:
        near = get_close_matches(key, KEYS, n=1, cutoff=SLIP)
        if key not in KEYS and near:
            faults.append(f"{key}: unknown key{did_you_mean(key, near)}")
    path = keys.get("path")
    if path is not None and not isinstance(path, str):
        faults.append(f"path: {path!r}, expected a folder")
    channels = keys.get("channels", 3)
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        faults.append(f"channels: {channels!r}, expected a whole number above 0")
    shape = keys.get("kpt_shape")
    if shape is not None and not _is_shape(shape):
        faults.append(f"kpt_shape: {shape!r}, expected [number of keypoints, 2 or 3]")
    return faults


def class_names(keys: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Class names by class number, and what is wrong with them or ""."""
    names, count = keys.get("names"), keys.get("nc")
    if names is None and count is None:
        return (), "names: missing; expected the class names, as a list or as {0: name, ...}"
    if count is not None and not _is_count(count):
        return (), f"nc: {count!r}, expected the number of classes, above 0"
    if names is None:
        return tuple(f"class_{number}" for number in range(int(float(count or 0)))), ""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        return (
            (),
            f"names: {keys['names']!r}, expected the class names, as a list or as {{0: name, ...}}",
        )
    return _numbered(names, count)


def _numbered(names: Mapping[Any, Any], count: Any) -> tuple[tuple[str, ...], str]:
    by_number = {str(key): str(name) for key, name in names.items()}
    wanted = [str(number) for number in range(len(names))]
    if set(by_number) != set(wanted):
        given = ", ".join(str(key) for key in names)
        return (), f"names: class numbers {given}; expected 0 to {len(names) - 1} without a gap"
    if count is not None and float(count) != len(names):
        return (), f"nc: {count}, but `names` has {len(names)} classes"
    return tuple(by_number[number] for number in wanted), ""


def _is_count(count: Any) -> bool:
    # Ultralytics takes '10' and 10.0, too
    try:
        return float(count) == int(float(count)) > 0 and not isinstance(count, bool)
    except (TypeError, ValueError, OverflowError):
        return False


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape)  # noqa: PLR2004 - a pair


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


@dataclass(frozen=True, kw_only=True)
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

"""A data YAML's keys and what is wrong with them; looks at no image and no folder."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from hpo.errors import DatasetError
from search_spaces.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SPLITS = ("train", "val", "test")
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

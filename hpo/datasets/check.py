"""All faults of a dataset at once, before a study is made of it; knows no trainer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hpo.datasets import labels
from hpo.datasets.layout import Dataset, Split, label_path, load
from hpo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

MOST_FAULTS = 20  # told at once by require(); a wrong class count breaks every file alike


def check(
    yaml_path: Path,
    *,
    splits: Sequence[str] = ("train", "val"),
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Every fault of a dataset, one sentence each; [] for a good one.

    Args:
        yaml_path: an Ultralytics data YAML.
        splits: the splits that are needed; others are not looked at.
        progress: called with (images looked at, images in all).
    """
    try:
        dataset = load(yaml_path)
    except DatasetError as error:
        return list(error.faults)
    faults = [f"{name}: missing" for name in splits if name not in dataset.splits]
    needed = [dataset.splits[name] for name in splits if name in dataset.splits]
    total, done = sum(len(split.images) for split in needed), 0
    for split in needed:
        for found in _split(dataset, split):
            faults += found
            done += 1
            if progress:
                progress(min(done, total), total)
    return faults


def require(yaml_path: Path, *, splits: Sequence[str] = ("train", "val")) -> None:
    """Go on only with a good dataset.

    Raises:
        DatasetError: every fault, the first twenty of them in words.
    """
    faults = check(yaml_path, splits=splits)
    if faults:
        raise refusal(yaml_path, faults)


def refusal(yaml_path: Path, faults: Sequence[str]) -> DatasetError:
    """The error for these faults, naming the first twenty."""
    hint = f"`hpo data check {yaml_path}` tells whether it is mended."
    error = DatasetError(str(yaml_path), faults, hint=hint)
    if len(faults) > MOST_FAULTS:
        told = "".join(f"\n  - {fault}" for fault in faults[:MOST_FAULTS])
        more = len(faults) - MOST_FAULTS
        error.args = (f"{yaml_path}: {len(faults)} faults{told}\n  - and {more} more",)
    return error


def leaks(yaml_path: Path) -> list[str]:
    """Images whose very bytes lie in more than one split: the figures of `val` flatter then.

    No fault: Ultralytics' own sample sets validate on what they train on.
    """
    from hpo.datasets.fingerprint import digest

    dataset = load(yaml_path)
    sizes = Counter(
        image.stat().st_size
        for split in dataset.splits.values()
        for image in set(split.images)
        if image.is_file()
    )
    first: dict[bytes, tuple[str, Path]] = {}
    said = []
    for split in dataset.splits.values():
        for image in split.images:
            # Only images of equal size can be equal: few are read of a photographed set
            if not image.is_file() or sizes[image.stat().st_size] < 2:  # noqa: PLR2004 - a pair
                continue
            name, twin = first.setdefault(digest(image), (split.name, image))
            if name != split.name:
                here, there = dataset.relative(image), dataset.relative(twin)
                said.append(f"{split.name}: {here} is the same image as {there} of {name}")
    return said


def _split(dataset: Dataset, split: Split) -> Iterator[list[str]]:
    """The faults of each image with its label file, and at last those of the split as a whole."""
    labelled, objects, sound = 0, 0, True
    for image in split.images:
        fault = unreadable(image)
        faults = [f"{dataset.relative(image)}: {fault}"] if fault else []
        file = label_path(image)
        if file.is_file():
            labelled += 1
            found, wrong = labels.read(file, dataset.names, dataset.keypoint_columns)
            objects += len(found)
            sound = sound and not wrong
            faults += [f"{dataset.relative(file)}: {fault}" for fault in wrong]
        yield [f"{split.name}: {fault}" for fault in faults]
    whole = list(split.faults)
    if whole and not split.images and dataset.keys.get("download"):
        whole.append(f"{split.name}: the YAML's `download:` is not run; fetch the images first")
    if split.images and not labelled:
        wanted, count = label_path(split.images[0]), len(split.images)
        whole.append(f"{split.name}: none of {count} images has a label file; expected {wanted}")
    elif split.images and not objects and sound:
        whole.append(f"{split.name}: {labelled} label files without a single object")
    yield whole


def unreadable(image: Path) -> str:
    """Why an image's header cannot be read, or ""."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(image):
            return ""
    except FileNotFoundError:
        return "no such image"
    except (UnidentifiedImageError, ImportError):  # Ultralytics teaches Pillow to ask for plug-ins
        # Formats that only OpenCV or a plug-in opens are the trainer's to judge
        lenient = image.suffix.lower() in {".dng", ".heic", ".heif", ".jp2", ".avif"}
        return "" if lenient else "not an image that can be read"
    except (OSError, ValueError, SyntaxError) as error:
        return f"not an image that can be read ({error})"

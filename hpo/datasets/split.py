"""Write a data YAML that divides a dataset into splits without a common image.

Where an image goes follows from its content and the seed alone, so that a dataset that grew is
divided as before: no image that a model was trained on comes to judge another one.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.datasets import validation
from hpo.datasets.data_yaml import SPLITS, Dataset, label_path, load
from hpo.datasets.fingerprint import digests
from hpo.errors import DatasetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

HEADER = "# Made by `hpo data split`; the lists beside it hold absolute paths."
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Division:
    """What was divided.

    Attributes:
        yaml: the new data YAML.
        made: False where the very same files were there already.
        images: by split.
        copies: images left out because their bytes are another's.
        kept: whether `test` is the dataset's own, as it was but for copies.
    """

    yaml: Path
    made: bool
    images: Mapping[str, int]
    copies: int
    kept: bool


def divide(
    yaml_path: Path,
    output: Path,
    *,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Division:
    """Pool the images of all splits, each content once, and divide them anew.

    Images of a test split that is there stay in it, and no others join them.

    Args:
        yaml_path: an Ultralytics data YAML.
        output: the data YAML to write; three lists of images come beside it.
        val: about this part of the images validates; of those outside a kept test split.
        test: about this part is kept back, where the dataset has no test split.
        seed: another one divides otherwise.
        progress: called with (images read, images in all).

    Raises:
        DatasetError: images are missing, or too few for three splits.
        UsageError: shares that cannot be, or something else in the place of `output`.
    """
    _require_shares(val, test)
    if output.suffix not in SUFFIXES:
        raise UsageError(f"{output} is no name of a data YAML", hint="Take `-o NAME.yaml`.")
    dataset = load(yaml_path)
    faults = [fault for split in dataset.splits.values() for fault in split.faults]
    if faults:
        raise DatasetError(str(dataset.yaml), faults)
    pool = _pool(dataset, progress)
    kept = {found for found, images in pool.items() if "test" in images}
    parts = _drawn(pool.keys(), kept, val, test, seed)
    lists = {
        name: sorted(_chosen(dataset, pool[found], own=found in kept) for found in part)
        for name, part in parts.items()
    }
    _require_usable(dataset, lists, len(pool), kept=bool(kept))
    counts = {name: len(images) for name, images in lists.items()}
    listed = {image for split in dataset.splits.values() for image in split.images}
    made = _write(_files(dataset, output, lists))
    return Division(
        yaml=output, made=made, images=counts, copies=len(listed) - len(pool), kept=bool(kept)
    )


def _require_shares(val: float, test: float) -> None:
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise UsageError(
            f"--val {val:g} and --test {test:g} leave nothing to train on",
            hint="Each is above 0, both together below 1, for instance 0.15.",
        )


def _pool(
    dataset: Dataset, progress: Callable[[int, int], None] | None
) -> dict[bytes, dict[str, list[Path]]]:
    """Content -> split -> the images with it."""
    placed = [
        (split.name, image)
        for split in dataset.splits.values()
        for image in dict.fromkeys(split.images)
    ]
    files = list(dict.fromkeys(image for _, image in placed))
    found: dict[Path, bytes] = {}
    for done, (file, content) in enumerate(zip(files, digests(files), strict=True), start=1):
        found[file] = content
        if progress:
            progress(done, len(files))
    lost = [f"no such image: {file}" for file in files if not found[file]]
    if lost:
        raise DatasetError(str(dataset.yaml), lost)
    pool: dict[bytes, dict[str, list[Path]]] = {}
    for name, image in placed:
        pool.setdefault(found[image], {}).setdefault(name, []).append(image)
    return pool


def _lot(content: bytes, seed: int) -> float:
    """Where between 0 and 1 an image falls; evenly spread."""
    drawn = hashlib.sha256(f"{seed} {content.hex()}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") / 2**64


def _drawn(
    contents: Iterable[bytes], kept: set[bytes], val: float, test: float, seed: int
) -> dict[str, list[bytes]]:
    """Split -> contents; each has one at least where there are three.

    `val` takes the lowest lots and `test` the highest: from opposite ends, `val` is the same
    whether `test` is drawn now or was kept.
    """
    lots = sorted((_lot(content, seed), content) for content in contents if content not in kept)
    order = [content for _, content in lots]
    high = 0 if kept else max(1, sum(lot >= 1 - test for lot, _ in lots))
    end = max(len(order) - high, min(2, len(order)))  # of few images, two remain for the others
    low = min(max(1, sum(lot < val for lot, _ in lots)), end - 1)
    drawn = list(kept) if kept else order[end:]
    return {"train": order[low:end], "val": order[:low], "test": drawn}


def _chosen(dataset: Dataset, images: Mapping[str, list[Path]], *, own: bool) -> Path:
    """Which of equal images is listed: of a kept test split its own, else the best labelled."""
    names = ("test",) if own else SPLITS
    copies = [image for name in names for image in images.get(name, ())]
    return max(copies, key=lambda image: _boxes(dataset, image))  # the first one on a tie


def _boxes(dataset: Dataset, image: Path) -> int:
    file = label_path(image)
    if not file.is_file():
        return 0
    return len(validation.read(file, dataset.names, dataset.keypoint_columns)[0])


def _require_usable(
    dataset: Dataset, lists: Mapping[str, list[Path]], total: int, *, kept: bool
) -> None:
    """Each split has images, and true boxes in them.

    Raises:
        DatasetError: one has not.
    """
    hint = "Another `--seed` divides otherwise; `hpo data show` counts the boxes."
    if kept:
        hint = "Leave `test:` out of the data YAML, and another test split is drawn."
    if not all(lists.values()):
        fault = f"{total} different images, expected 3 or more for three splits"
        if kept:
            fault = f"test: has {len(lists['test'])} of {total} images, expected 2 others or more"
        raise DatasetError(str(dataset.yaml), [fault], hint=hint if kept else "")
    blank = [
        f"{name}: none of {len(images)} images would have a true box"
        for name, images in lists.items()
        if not any(_boxes(dataset, image) for image in images)
    ]
    if blank:
        raise DatasetError(str(dataset.yaml), blank, hint=hint)


def _files(dataset: Dataset, output: Path, lists: Mapping[str, list[Path]]) -> dict[Path, str]:
    """File -> text, the data YAML last: without it the lists mean nothing."""
    import yaml

    texts = {}
    places: dict[str, Any] = {}
    for name, images in lists.items():
        file = output.with_name(f"{output.stem}.{name}.txt")
        texts[file] = "".join(f"{image}\n" for image in images)
        places[name] = file.name
    keys = dataset.absolute()
    keys = places | {key: value for key, value in keys.items() if key not in ("path", *SPLITS)}
    text = yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
    return texts | {output: f"{HEADER}\n{text}"}


def _write(texts: Mapping[Path, str]) -> bool:
    """Write files, each as a whole; False when all were there as they are.

    Raises:
        UsageError: one is there with another content.
    """
    wanted = {file: text.encode(errors="surrogateescape") for file, text in texts.items()}
    missing = [file for file in wanted if not file.exists()]
    for file, content in wanted.items():
        if file not in missing and (not file.is_file() or file.read_bytes() != content):
            raise UsageError(
                f"{file} exists with another content",
                hint="Name another file with `-o NAME.yaml`, or remove it.",
            )
    for file in missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
        try:
            part.write_bytes(wanted[file])
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    return bool(missing)

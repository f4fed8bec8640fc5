"""Check a dataset's `test` split: that no trial sees its images, and its own fingerprint.

The fingerprint is of the split alone: datasets that share a test split share it, whatever they
train on, so that models of both can be judged on the same images.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpo.datasets import validation
from hpo.datasets.data_yaml import Dataset, Split, label_path, load
from hpo.datasets.fingerprint import Cache, digests, head, named_files, remembered
from hpo.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

SCHEME = 1  # in the hash and in the cache: raise it when what is hashed or refused changes
EXAMPLES = 3  # of images that stand in two splits


@dataclass(frozen=True)
class HeldOut:
    """A test split that no trial sees.

    Attributes:
        fingerprint: sha256 of its images, labels and class names, in hexadecimal.
        images: how many it has.
    """

    fingerprint: str
    images: int


def held_out(
    yaml_path: Path, *, home: Path, progress: Callable[[int, int], None] | None = None
) -> HeldOut:
    """The dataset's test split, sound and apart from what is trained and validated on.

    Args:
        yaml_path: an Ultralytics data YAML.
        home: the project's `.hpo`; where it exists, the result is cached below it.
        progress: called with (files read, files in all) while files are read.

    Raises:
        DatasetError: the YAML is not usable, or it has no test split, an empty one, one without a
            single true box, or one with images whose very bytes are in train or val, too.
    """
    dataset = load(yaml_path)
    test = dataset.splits.get("test")
    if test is None:
        raise _refusal(dataset, ["test: missing; expected images that no trial sees"])
    faults = [fault for split in dataset.splits.values() for fault in split.faults]
    faults = faults or [*_lost(dataset, test), *_twice(dataset, test)]
    if not faults and not _labelled(dataset, test):
        fault = f"test: none of {len(test.images)} images has a true box"
        hint = "Label them, or leave `test:` out of the data YAML. " + mend(dataset.yaml)
        raise DatasetError(str(dataset.yaml), [fault], hint=hint)
    if faults:
        raise _refusal(dataset, faults)
    cache = Cache(home, dataset.yaml, f"held-out-{SCHEME}")
    found = remembered(cache, dataset, lambda: _look(dataset, test, progress))
    return HeldOut(found, len(test.images))


def simulated_fingerprint(code_version: str) -> str:
    """A stand-in for the test split of a trainer without data; changes with the trainer's code."""
    return hashlib.sha256(f"SIMULATED test split\n{code_version}".encode()).hexdigest()


def mend(yaml_path: Path) -> str:
    """The command that makes a dataset with a sound test split of this one, in a sentence."""
    made = shlex.quote(f"{yaml_path.stem}-split.yaml")
    command = f"hpo data split {shlex.quote(str(yaml_path))} -o {made}"
    return f"`{command}` writes a data YAML whose splits share no image."


def _refusal(dataset: Dataset, faults: list[str]) -> DatasetError:
    return DatasetError(str(dataset.yaml), faults, hint=mend(dataset.yaml))


def _lost(dataset: Dataset, test: Split) -> list[str]:
    lost = [image for image in test.images if not image.is_file()]
    return _told("listed but not there", [dataset.relative(image) for image in lost], test)


def _twice(dataset: Dataset, test: Split) -> list[str]:
    """Faults of images that are listed twice, which would count twice."""
    twice = [image for image, times in Counter(test.images).items() if times > 1]
    return _told("listed more than once", [dataset.relative(image) for image in twice], test)


def _labelled(dataset: Dataset, test: Split) -> bool:
    """Whether the split has a true box; without one, every model scores the same."""
    columns = dataset.keypoint_columns
    files = map(label_path, test.images)
    return any(
        file.is_file() and validation.read(file, dataset.names, columns)[0] for file in files
    )


def _told(what: str, names: list[str], test: Split) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    counted = f"{len(names)} of {len(test.images)} images {'is' if len(names) == 1 else 'are'}"
    return [f"test: {counted} {what}: {', '.join(names[:EXAMPLES])}{more}"]


def _look(dataset: Dataset, test: Split, progress: Callable[[int, int], None] | None) -> str:
    """Read the test split, and of the other images those that could be copies of its own.

    Raises:
        DatasetError: some are.
    """
    files = list(named_files(replace(dataset, splits={"test": test})))
    mine = [file for _, file, _ in files]
    # Only images of equal size can be equal: few are read of a photographed set
    sizes = {image.stat().st_size for image in test.images}
    others = [
        (split.name, image)
        for split in dataset.splits.values()
        if split is not test
        for image in dict.fromkeys(split.images)
        if image.is_file() and image.stat().st_size in sizes
    ]
    read = _counted([*mine, *(image for _, image in others)], progress)
    found = {file: next(read) for file in mine}
    faults = _shared(dataset, test, found, [(*other, next(read)) for other in others])
    if faults:
        raise _refusal(dataset, faults)
    hashed = hashlib.sha256(f"held out {SCHEME}\n{head(dataset)}\n".encode())
    for name, file, _ in files:
        hashed.update(os.fsencode(f"{name}\0{found[file].hex()}\n"))
    return hashed.hexdigest()


def _counted(files: list[Path], progress: Callable[[int, int], None] | None) -> Iterator[bytes]:
    for done, found in enumerate(digests(files), start=1):
        if progress:
            progress(done, len(files))
        yield found


def _shared(
    dataset: Dataset,
    test: Split,
    mine: Mapping[Path, bytes],
    others: list[tuple[str, Path, bytes]],
) -> list[str]:
    """One sentence for each split that holds images of `test`, whatever they are called there."""
    twins: dict[str, dict[bytes, Path]] = {}
    for name, image, found in others:
        twins.setdefault(name, {}).setdefault(found, image)
    faults = []
    for name, by_content in twins.items():
        pairs = [
            f"{dataset.relative(image)} = {dataset.relative(by_content[mine[image]])}"
            for image in test.images
            if mine[image] in by_content
        ]
        faults += _told(f"in {name}, too", pairs, test)
    return faults

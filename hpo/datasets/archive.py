"""Pack a dataset into one tar archive, and unpack it on another machine.

The same content gives the same bytes, whatever the dataset's place, its files' times, owners and
the way its splits are written down: a data YAML of the archive's own, `images/SPLIT/…` and beside
them `labels/SPLIT/…`. What is unpacked has the fingerprint of what was packed, and so has its test
split. It is not compressed: images are already, and zlib's bytes differ from version to version.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from hpo.datasets.data_yaml import KEYS, SPLITS, Dataset, Split, label_path, load
from hpo.datasets.fingerprint import combined, named_files
from hpo.errors import DatasetError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

YAML_NAME = "data.yaml"
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
_BLOCK = tarfile.BLOCKSIZE  # what a file of the archive is padded to, and its header's size


def own_keys(dataset: Dataset) -> dict[str, Any]:
    """The YAML's keys that trainers read beside places and class names, in a fixed order."""
    left_out = {"path", "download", "validation", "minival", "masks_dir", "nc", "names", *SPLITS}
    return {key: dataset.keys[key] for key in sorted(set(KEYS) - left_out) if key in dataset.keys}


def packed_bytes(dataset: Dataset) -> int:
    """About how many bytes the dataset's archive will have."""
    files = {file for _, file, _ in named_files(dataset)}
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return sum(size + 2 * _BLOCK for size in sizes) + tarfile.RECORDSIZE


def pack(
    yaml_path: Path, archive: BinaryIO, *, progress: Callable[[int, int], None] | None = None
) -> str:
    """Write a dataset's archive; the fingerprint of what was written.

    Args:
        yaml_path: an Ultralytics data YAML.
        archive: an empty file, open for writing.
        progress: called with (files written, files in all).

    Raises:
        DatasetError: images are missing, or a split cannot be told in an archive.
        OSError: the archive cannot be written, or a file of the dataset not read.
    """
    dataset = load(yaml_path)
    _require_packable(dataset)
    files = list(named_files(dataset))
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in _texts(dataset).items():
            tar.addfile(_info(name, len(text)), io.BytesIO(text))
        known: dict[str, bytes] = {}

        def found() -> Iterator[tuple[str, bytes]]:
            for done, (name, file, needed) in enumerate(files, 1):
                place = _place(name)
                if place not in known:  # an image may stand in a list twice
                    known[place] = _add(tar, place, file)
                if needed and not known[place]:
                    raise DatasetError(str(dataset.yaml), [f"no such image: {file}"])
                yield name, known[place]
                if progress:
                    progress(done, len(files))

        return combined(dataset, found())


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive into a new folder, which is made; the data YAML in it.

    Only plain files below the folder are written, each once: an archive may come from anyone who
    can write to the store.

    Raises:
        WeightsError: it is no archive of `pack`'s; the folder may hold a part of it.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True)
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for info in tar:
                _extract(tar, info, folder)
    except (tarfile.TarError, UnicodeError, EOFError) as error:
        raise _refusal(archive, f"it is damaged: {error}") from error
    if not (folder / YAML_NAME).is_file():
        raise _refusal(archive, f"there is no {YAML_NAME} in it")
    return folder / YAML_NAME


def _require_packable(dataset: Dataset) -> None:
    """Refuse splits of which only a part is known, and names that no list can hold."""
    faults: list[str] = []
    for split in dataset.splits.values():
        if split.images or split.name != "test":  # a test split that is wholly absent is left out
            faults += split.faults
        if split.images and not _as_folder(dataset, split):
            broken = [name for name in _names(dataset, split) if len(name.splitlines()) > 1]
            faults += [f"{split.name}: a name with a line break: {name!r}" for name in broken]
    if faults:
        raise DatasetError(str(dataset.yaml), faults)


def _names(dataset: Dataset, split: Split) -> list[str]:
    """Places of a split's images in the archive; an image listed twice is there twice."""
    return [place for place, _ in _images(dataset, split)]


def _images(dataset: Dataset, split: Split) -> Iterator[tuple[str, Path]]:
    """(place in the archive, file) of each of a split's images, in order."""
    for name, file, needed in named_files(replace(dataset, splits={split.name: split})):
        if needed:
            yield _place(name), file


def _as_folder(dataset: Dataset, split: Split) -> bool:
    """Whether naming the images' folder lists exactly the split's images, without a list."""
    names = _names(dataset, split)
    hidden = any(part.startswith(".") for name in names for part in PurePosixPath(name).parts)
    return len(set(names)) == len(names) and not hidden


def _texts(dataset: Dataset) -> dict[str, bytes]:
    """Name -> content of the YAML and of the lists of images that it needs."""
    import yaml

    texts, places = {}, {}
    for split in dataset.splits.values():
        if not split.images:
            continue
        if _as_folder(dataset, split):
            places[split.name] = f"images/{split.name}"
        else:
            places[split.name] = f"{split.name}.txt"
            lines = "".join(f"{line}\n" for line in _listed(dataset, split))
            texts[places[split.name]] = lines.encode(errors="surrogateescape")
    keys = own_keys(dataset) | places | {"names": dict(enumerate(dataset.names))}
    text = yaml.safe_dump(keys, sort_keys=True, allow_unicode=True)
    return {YAML_NAME: text.encode()} | texts


def _listed(dataset: Dataset, split: Split) -> Iterator[str]:
    """The split's images as lines of a list.

    An image that the dataset names by two spellings of its path is named by two here as well: the
    test split tells it from one that is listed twice.
    """
    spelt: Counter[str] = Counter()
    seen: dict[Path, str] = {}
    for place, file in _images(dataset, split):
        if file not in seen:
            seen[file] = "./" + "images/../" * spelt[place] + place
            spelt[place] += 1
        yield seen[file]


def _place(name: str) -> str:
    """Where in the archive a file of `named_files` lies."""
    split, kind, inner = name.split("\0", 2)
    image = Path("/images", split, inner)
    return (image if kind == "image" else label_path(image)).relative_to("/").as_posix()


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644  # its other fields are 0 or "": no time, no owner
    return info


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, source: BinaryIO) -> None:
        self._source, self.digest = source, hashlib.sha256()

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self.digest.update(chunk)
        return chunk


def _add(tar: tarfile.TarFile, place: str, file: Path) -> bytes:
    """Add a file; the sha256 of what was written, nothing where there is no such file."""
    try:
        source = file.open("rb")
    except FileNotFoundError:
        return b""
    with source:
        reading = _Hashing(source)
        # A file that grows or shrinks meanwhile gets another digest, and so another fingerprint
        tar.addfile(_info(place, os.fstat(source.fileno()).st_size), reading)  # type: ignore[arg-type]
        return reading.digest.digest()


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo, folder: Path) -> None:
    where = PurePosixPath(info.name)
    if info.type not in _PLAIN:
        raise _refusal(tar.name, f"{info.name!r} is no plain file")
    if not where.parts or where.is_absolute() or ".." in where.parts or "\0" in info.name:
        raise _refusal(tar.name, f"{info.name!r} leads out of its folder")
    source = tar.extractfile(info)
    if source is None:
        raise _refusal(tar.name, f"{info.name!r} is no plain file")
    target = folder.joinpath(*where.parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with source, target.open("xb") as file:
            shutil.copyfileobj(source, file)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _refusal(tar.name, f"{info.name!r} stands in it twice") from error
    if target.stat().st_size != info.size:
        raise _refusal(tar.name, f"it ends within {info.name!r}")


def _refusal(archive: object, why: str) -> WeightsError:
    return WeightsError(
        f"{archive} is no packed dataset: {why}",
        hint="It is not used. Push the dataset again: `hpo data push --again DATA`.",
    )

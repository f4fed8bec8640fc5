"""Download COCO128, and make the set `tiny-person` of its images of people.

Which sixty images are taken, and which of them train, follows from their names and the seed by a
hash, so no version of a random generator can change it.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from contextlib import contextmanager
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

from hpo.datasets import validation
from hpo.datasets.data_yaml import IMAGE_SUFFIXES, label_path
from hpo.datasets.generated import make
from hpo.errors import DatasetError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT_S = 30  # without a byte
BLOCK_BYTES = 1 << 18
MOST_BYTES = 1 << 28  # unpacked; COCO128 is 7 MB
OTHER_WAY = "`--source DIR` takes a COCO128 that is on this machine already."


def address() -> str:
    """Where Ultralytics downloads COCO128 from, read from its own data YAML without importing it.

    Raises:
        ServiceError: Ultralytics is not installed, or names no address.
    """
    import yaml

    spec = find_spec("ultralytics")
    for place in (spec.submodule_search_locations or []) if spec else []:
        file = Path(place) / "cfg" / "datasets" / "coco128.yaml"
        if file.is_file():
            url = yaml.safe_load(file.read_text(encoding="utf-8")).get("download")
            if isinstance(url, str):
                return url
    raise ServiceError(
        "Ultralytics' coco128.yaml, which says where COCO128 is, was not found", hint=OTHER_WAY
    )


@contextmanager
def downloaded(url: str, *, progress: Callable[[int, int], None] | None = None) -> Iterator[Path]:
    """COCO128's folder, downloaded and unpacked, until the block ends.

    Args:
        url: of the zip file.
        progress: called with (bytes here, bytes in all or 0 where unknown).

    Raises:
        ServiceError: it cannot be reached, or the transfer broke.
        DatasetError: what came is no zip file with COCO128 in it.
    """
    with TemporaryDirectory(prefix="hpo-coco128-") as name:
        folder = Path(name)
        packed = folder / "coco128.zip"
        _fetch(url, packed, progress)
        _unpack(url, packed, folder / "unpacked")
        found = sorted((folder / "unpacked").glob("**/images/train2017"))
        if not found:
            raise DatasetError(url, ["no folder images/train2017 in the zip file"], hint=OTHER_WAY)
        yield found[0].parents[1]


def _fetch(url: str, target: Path, progress: Callable[[int, int], None] | None) -> None:
    if not url.startswith(("https://", "http://")):
        raise ServiceError(f"{url}: expected an http address", hint=OTHER_WAY)
    try:
        answer = urlopen(url, timeout=TIMEOUT_S)  # noqa: S310 - the scheme is checked above
    except (OSError, HTTPException) as error:
        raise _unreachable(url, error) from None
    with answer, target.open("wb") as stream:
        total, here = int(answer.headers.get("Content-Length") or 0), 0
        while block := _read(url, answer.read):
            stream.write(block)
            here += len(block)
            if progress:
                progress(here, total)
    if total and here != total:
        raise ServiceError(f"{url}: {here} bytes came, expected {total}", hint=OTHER_WAY)


def _read(url: str, read: Callable[[int], bytes]) -> bytes:
    # Apart from the writing, whose OSError is the disk's and not the network's
    try:
        return read(BLOCK_BYTES)
    except (OSError, HTTPException) as error:
        raise _unreachable(url, error) from None


def _unreachable(url: str, error: Exception) -> ServiceError:
    reason: object = getattr(error, "reason", error)
    if isinstance(error, HTTPError):  # an answer with a connection of its own
        reason = error
        error.close()
    return ServiceError(f"COCO128 cannot be downloaded from {url}: {reason}", hint=OTHER_WAY)


def _unpack(url: str, packed: Path, folder: Path) -> None:
    root = folder.resolve()
    try:
        with zipfile.ZipFile(packed) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if sum(member.file_size for member in members) > MOST_BYTES:
                raise DatasetError(url, [f"more than {MOST_BYTES} bytes unpacked"], hint=OTHER_WAY)
            for member in members:
                target = (root / member.filename).resolve()
                if not target.is_relative_to(root):
                    fault = f"a member that leaves its folder: {member.filename}"
                    raise DatasetError(url, [fault], hint=OTHER_WAY)
                target.parent.mkdir(parents=True, exist_ok=True)
                # Contents only: a link in the archive becomes a small text file
                with archive.open(member) as source, target.open("wb") as stream:
                    shutil.copyfileobj(source, stream)
    except zipfile.BadZipFile as error:
        raise DatasetError(url, [f"not a sound zip file: {error}"], hint=OTHER_WAY) from None


COUNTS = {"train": 40, "val": 10, "test": 10}
IMGSZ = (
    320  # px, of an image's longer side; labels are parts of the sides, so they stay as they are
)
SEED = 42
SELECTION = 1  # raise it when the same source gives other files
JPEG_QUALITY = 95
PERSON = "0"  # COCO's class number, and this set's
COCO_CLASSES = 80
IMAGES = "images/train2017"  # where COCO128 keeps them; labels lie beside, under `labels`
HEADER = "# Made by `hpo data tiny-person`; paths are relative to this file."
MARK: dict[str, Any] = {
    "made": "tiny-person",
    "selection": SELECTION,
    "imgsz": IMGSZ,
    "seed": SEED,
    **COUNTS,
}


def make_tiny_person(source: Path, folder: Path) -> Path:
    """Make the set and return its data YAML; does nothing where it is there already.

    Args:
        source: COCO128's folder, with images/train2017 and labels/train2017.
        folder: where; absent or empty.

    Raises:
        DatasetError: no COCO128 there, fewer than 60 images with people, or faulty labels.
        UsageError: something else in that place.
    """
    source = source.resolve()
    make(folder, MARK, lambda part: _fill(source, part))
    return folder / "data.yaml"


def people(source: Path) -> dict[Path, list[str]]:
    """Each image that shows a person, in order of name, and the label lines of its persons.

    Raises:
        DatasetError: no COCO128 there, or faulty labels.
    """
    places = source / IMAGES, label_path(source / IMAGES / "x").parent
    missing = [f"no such folder: {place}" for place in places if not place.is_dir()]
    if missing:
        raise DatasetError(str(source), missing, hint="COCO128's own folder is expected.")
    faults, found = [], {}
    for image in sorted(places[0].iterdir()):
        file = label_path(image)
        if image.suffix[1:].lower() not in IMAGE_SUFFIXES or not file.is_file():
            continue  # COCO128 has images without labels, and labels without an image
        _, wrong = validation.read(file, [str(number) for number in range(COCO_CLASSES)])
        faults += [f"{file.relative_to(source)} {fault}" for fault in wrong]
        rows = [line.split() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        lines = [" ".join(row) for row in rows if row and row[0] == PERSON]
        if lines:
            found[image] = lines
    if faults:
        raise DatasetError(str(source), faults)
    return found


def _fill(source: Path, folder: Path) -> None:
    found = people(source)
    wanted = sum(COUNTS.values())
    if len(found) < wanted:
        fault = f"{len(found)} images show a person, expected {wanted} or more"
        raise DatasetError(str(source), [fault], hint="COCO128 as published has 61.")
    chosen = sorted(found, key=_lot)[:wanted]
    for split, count in COUNTS.items():
        images, texts = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        texts.mkdir(parents=True)
        for image in chosen[:count]:
            _shrink(image, images / f"{image.stem}.jpg")
            text = "".join(f"{line}\n" for line in found[image])
            (texts / f"{image.stem}.txt").write_text(text, encoding="utf-8")
        chosen = chosen[count:]
    places = [f"{split}: images/{split}" for split in COUNTS]
    lines = [HEADER, *places, "names:", f"  {PERSON}: person"]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lot(image: Path) -> str:
    return hashlib.sha256(f"{SEED} {image.name}".encode()).hexdigest()


def _shrink(image: Path, target: Path) -> None:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(image) as opened:
            # Labels are of the image as shown, with a camera's turn applied
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError:
        raise DatasetError(str(image), ["not an image that can be read"]) from None
    scale = IMGSZ / max(upright.size)
    width, height = (max(1, round(side * scale)) for side in upright.size)
    upright.resize((width, height), Image.Resampling.LANCZOS).save(target, quality=JPEG_QUALITY)

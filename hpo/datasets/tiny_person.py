"""COCO128 -> sixty small images of people, class person only; knows no study.

Which sixty, and which of them train, follows from the images' names and the seed by a hash, so
no version of a random generator can change it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from hpo.datasets import labels
from hpo.datasets.folder import make
from hpo.datasets.layout import IMAGE_SUFFIXES, label_path
from hpo.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

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
        _, wrong = labels.read(file, [str(number) for number in range(COCO_CLASSES)])
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

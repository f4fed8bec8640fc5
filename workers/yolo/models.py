"""Tell which `model:` values can be trained, and where their weights lie.

Neither torch nor Ultralytics is loaded: study files are checked with this.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.names import did_you_mean
from workers.yolo.arguments import package_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = ("yolov8n.yaml", "yolov8n.pt", "yolo11n.yaml", "yolo26n.yaml")

# Detection weights that Ultralytics publishes (its utils/downloads.py); other tasks are no use here
_PUBLISHED = re.compile(
    r"yolov8[nsmlx](-oiv7)?|yolo(11|12)[nsmlx]|yolo26[nsmlx](-objv1-150)?|yolov5[nsmlx]6?u"
    r"|yolov3(-spp|-tiny)?u|yolov9[tsmce]|yolov10[nsmblx]"
)
# Architectures of other tasks, and those that Ultralytics' DetectionTrainer does not build
_OTHER_TASK = re.compile(r"-(seg|cls|pose|obb|sem|depth|world|worldv2|rtdetr)\b|^rtdetr|^yoloe")
_SCALE = re.compile(r"(\d+)([nslmx])(.+)?$")


def model_faults(model: str) -> Iterator[str]:
    """What is wrong with a study's `model:`, each starting with that key."""
    path = Path(model)
    if path.suffix == ".pt":
        if path.is_file():
            if fault := weights_fault(path):
                yield f"model: {fault}"
        elif not is_published(path):
            near = did_you_mean(model, EXAMPLES)
            yield f"model: {model} is neither a file nor weights that Ultralytics publishes{near}"
    elif path.suffix in {".yaml", ".yml"}:
        if _OTHER_TASK.search(path.stem):
            yield f"model: {model} is not a detector's architecture"
        elif (file := hiding(model)) is not None:
            yield f"model: {hidden_words(model, file)}"
        elif not path.is_file() and not _is_architecture(path):
            near = did_you_mean(model, EXAMPLES)
            yield f"model: {model} is neither a file nor an architecture of Ultralytics{near}"
    else:
        near = did_you_mean(model, EXAMPLES)
        yield f"model: '{model}' is neither weights (.pt) nor an architecture (.yaml){near}"


def weights_fault(path: Path) -> str:
    """What is visibly wrong with a weights file, or ""; reads its table of contents only."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch saves zip files; a cut one has no directory
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        return f"{path} cannot be read as weights: {error}"
    if not any(name.endswith("data.pkl") for name in names):
        return f"{path} holds no PyTorch weights"
    return ""


def start_file(model: str) -> Path | None:
    """Where the file of a study's `model` is, or is downloaded to; None for an architecture's name.

    Weights of one's own go before published ones of the same name.
    """
    path = Path(model)
    if _is_architecture(path):
        return None
    if path.is_file() or path.suffix != ".pt":
        return path.resolve() if path.is_file() else None
    return weights_cache() / path.name if is_published(path) else path.absolute()


def hiding(model: str) -> Path | None:
    """The file of this folder that Ultralytics would take for its own architecture `model`.

    It looks here first, under the name with the size's letter and without.
    """
    path = Path(model)
    if not _is_architecture(path):
        return None
    names = (path.name, _SCALE.sub(r"\1\3", path.stem) + path.suffix)
    return next((Path(name).absolute() for name in names if Path(name).is_file()), None)


def hidden_words(model: str, file: Path) -> str:
    """What is wrong with a file that `hiding` found, and what mends it."""
    return (
        f"{file} would be taken for Ultralytics' own {Path(model).name}: give it a name of its "
        "own, and name it as the study's `model` where it is meant"
    )


def is_published(path: Path) -> bool:
    """Whether Ultralytics publishes weights of that name, given without a folder."""
    return len(path.parts) == 1 and _PUBLISHED.fullmatch(path.stem) is not None


def weights_cache() -> Path:
    """Folder for downloaded weights, shared by the workers of one user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hpo-service" / "weights"


def _is_architecture(path: Path) -> bool:
    if path.suffix != ".yaml":
        return False
    known = {file.stem for file in (package_dir() / "cfg" / "models").rglob("*.yaml")}
    return len(path.parts) == 1 and {path.stem, _SCALE.sub(r"\1\3", path.stem)} & known != set()

"""Find, download and check weights files in the training process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hpo.errors import TrialError, WeightsError
from workers.yolo.models import hidden_words, hiding, start_file, weights_cache, weights_fault


def find_model(model: str) -> str:
    """What Ultralytics is given for a study's `model`, with no download left to Ultralytics.

    Raises:
        TrialError: weights that cannot be downloaded.
        WeightsError: a file that is no weights, or that Ultralytics would take for its own model.
    """
    if (file := hiding(model)) is not None:
        raise WeightsError(hidden_words(model, file))
    path = start_file(model)
    if path is None:
        return model
    if path.suffix == ".pt":
        if path.parent == weights_cache() and weights_fault(path):
            _download(path)  # anew, where an earlier one was damaged
        require_weights(path)
    return str(path)


def require_architecture(path: Path) -> None:
    """Raise WeightsError unless Ultralytics builds a detector by the file."""
    from ultralytics.nn.tasks import DetectionModel

    try:
        DetectionModel(str(path), verbose=False)
    except Exception as error:
        # What a file of somebody's own makes of its layers raises anything
        raise WeightsError(
            f"{path} is no detector's architecture: {type(error).__name__}: {error}"
        ) from error


def require_weights(path: Path) -> None:
    """Raise WeightsError unless Ultralytics can load the file."""
    from ultralytics.nn.tasks import load_checkpoint

    if fault := weights_fault(path):
        raise WeightsError(fault)
    try:
        load_checkpoint(path)
    except Exception as error:
        # Unpickling damaged bytes raises anything
        raise WeightsError(
            f"{path} cannot be loaded as weights: {type(error).__name__}: {error}"
        ) from error


def _download(path: Path) -> None:
    # Ultralytics would download into the current folder, under the final name from the first byte
    from ultralytics.utils.downloads import attempt_download_asset

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{os.getpid()}-") as folder:
        draft = Path(folder) / path.name
        try:
            attempt_download_asset(draft)
        except Exception as error:
            raise TrialError(
                "error",
                f"{path.name} is not here and could not be downloaded: {str(error).lstrip('❌ ')}",
                hint=f"Put the file at {path}, or train from scratch: `model: yolov8n.yaml`.",
            ) from error
        draft.replace(path)

"""A trainer's Package -> the folder that MLflow calls a model; knows no registry, runs no model.

The signature and the input example are written by hand: MLflow would otherwise load the model, and
torch with it, into this process to infer them.

The folder, as MLflow's page shows it:

    MLmodel                what it is: signature, requirements, `metadata` with licence and origin
    README.md              the model card
    LICENSE
    artifacts/             the trainer's own files, under their own names: `best.pt` loads with
                           `ultralytics.YOLO`, `model.onnx` is there where it was asked for
    detector_model.py      the code that MLflow runs
    input_example.json, serving_input_example.json
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.storage.artifacts.store import sha256_of

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.trainer import Package

# MLflow puts the model that a code file sets into a global variable.
_ONE_AT_A_TIME = threading.Lock()
_KINDS = {bool: "boolean", int: "long", float: "double", str: "string"}
EXAMPLE_PATH = "image.jpg"  # the input example where the trainer has no image to show


@dataclass(frozen=True)
class Identity:
    """What the folder's MLmodel file says it is: MLflow's ids, and where its files will lie."""

    model_id: str
    run_id: str
    location: str


def write_model(package: Package, identity: Identity, folder: Path) -> Path:
    """Write the model's folder, which `mlflow.pyfunc.load_model` can load by itself.

    Args:
        package: code, files, requirements and columns.
        identity: of the logged model that the files belong to.
        folder: where; it must not exist.
    """
    import pandas as pd

    example = EXAMPLE_PATH if package.example is None else package.example
    if isinstance(example, str) or not isinstance(example, (list, tuple)):
        example = [example]
    # MLflow warns of its own type hints when imported, and advises hints for `predict`, which would
    # replace the signature given here. It puts its own filter in front, so they are recorded away.
    with _ONE_AT_A_TIME, warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        import mlflow.pyfunc
        from mlflow.models import Model

        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(package.code),
            artifacts={name: str(file) for name, file in package.artifacts.items()},
            # The model compares when it is loaded: weights altered in the registry are refused.
            model_config={
                "sha256": {name: sha256_of(file) for name, file in package.artifacts.items()}
            },
            signature=_signature(package),
            input_example=pd.DataFrame({"image": pd.Series(list(example), dtype=object)}),
            pip_requirements=list(package.requirements),
            metadata=_metadata(package) or None,
            mlflow_model=Model(
                artifact_path=identity.location,
                run_id=identity.run_id,
                model_uuid=identity.model_id,
                model_id=identity.model_id,
            ),
        )
    for name, text in (("README.md", package.card), ("LICENSE", package.licence_text)):
        if text:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def _metadata(package: Package) -> dict[str, Any]:
    return dict(package.metadata) | ({"license": package.licence} if package.licence else {})


def _signature(package: Package) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, ParamSchema, ParamSpec, Schema

    # Only `any` lets a cell be a path, encoded bytes or an H x W x 3 array alike.
    inputs = Schema([ColSpec(AnyType(), "image")])
    outputs = Schema([ColSpec(kind, name) for name, kind in package.outputs.items()])
    # Without a schema of their own, MLflow drops the parameters that `predict` is given.
    params = ParamSchema(
        [ParamSpec(name, _KINDS[type(value)], value) for name, value in package.params.items()]
    )
    return ModelSignature(inputs=inputs, outputs=outputs, params=params if package.params else None)

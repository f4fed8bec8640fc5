"""Write and read MLflow's Model Registry: model folders, versions and aliases.

Every write can be repeated: a version, and the files behind it, are looked up by the decision that
they are made for before they are made.

A model's folder, as MLflow's page shows it:

    MLmodel                what it is: signature, requirements, `metadata` with licence and origin
    README.md              the model card
    LICENSE
    artifacts/             the trainer's own files, under their own names: `best.pt` loads with
                           `ultralytics.YOLO`, `model.onnx` is there where it was asked for
    detector_model.py      the code that MLflow runs
    input_example.json, serving_input_example.json

The signature and the input example are written by hand: to infer them MLflow would load the model,
and torch with it, into this process.
"""

from __future__ import annotations

import tempfile
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import WeightsError
from hpo.storage.artifacts.store import sha256_of
from hpo.tracking.client import error_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    from hpo.tracking.client import Client
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


DECISION = "hpo.decision"  # tag: the decision that a version was made for
# MLflow says the second of an alias that a model does not have.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model.

    Attributes:
        model: the registered model's name.
        number: counted from 1.
        tags: all of its tags.
        run_id: the run it belongs to; None for none.
        source: where its files lie.
    """

    model: str
    number: int
    tags: Mapping[str, str]
    run_id: str | None
    source: str

    @property
    def decision(self) -> str | None:
        """The decision that the version was made for; None where it is not this service's."""
        return self.tags.get(DECISION)


class Registry:
    """The registry behind one client. Not for several threads at once."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def champion(self, model: str, alias: str) -> Version | None:
        """The version that the alias points to; None when there is no such model or alias."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._client.get_model_version_by_alias(model, alias))
        except MlflowException as error:
            if error_code(error) in _ABSENT:
                return None
            raise

    def find(self, decision: str, model: str | None = None) -> Version | None:
        """The version made for a decision, the earliest should there be several.

        Args:
            decision: its name.
            model: where to look; a version copied to another model has the same tags.
        """
        # The model's name stays out of the filter: it may hold quotes.
        found = self._client.search_model_versions(f"tags.`{DECISION}` = '{decision}'")
        versions = [_version(item) for item in found if model in (None, item.name)]
        return min(versions, key=lambda item: item.number, default=None)

    def get(self, model: str, number: int) -> Version | None:
        """The version of that number; None when there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._client.get_model_version(model, str(number)))
        except MlflowException as error:
            if error_code(error) in _ABSENT:
                return None
            raise

    def create(
        self,
        model: str,
        run_id: str,
        package: Package,
        *,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        description: str,
    ) -> Version:
        """Make the version of the decision that `tags` name, or find it.

        Args:
            model: the registered model; it is made where there is none.
            run_id: the run that the version belongs to.
            package: what its files are written from.
            tags: of the version; DECISION among them.
            params: of the logged model behind it.
            description: of the version, as Markdown.
        """
        decision = tags[DECISION]
        found = self.find(decision)
        if found is not None:
            return found
        logged = self._logged_model(run_id, package, decision, params)
        self._ensure_model(model)
        # Files are named by their place: a `models:/` source would be resolved by MLflow's global
        # tracking address, which is not this client's.
        made = self._client.create_model_version(
            model, source=logged.artifact_location, run_id=run_id, tags=dict(tags),
            description=description, model_id=logged.model_id, await_creation_for=0,
        )  # fmt: skip
        return _version(made)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(version.model, str(version.number), key, value)

    def foreign(self, model: str) -> list[int]:
        """The newest versions of a model that were made for no decision of this service."""
        found = self._model(model)
        newest = [] if found is None else found.latest_versions
        return sorted(int(item.version) for item in newest if DECISION not in item.tags)

    def has(self, model: str) -> bool:
        """Whether there is such a registered model, with or without versions."""
        return self._model(model) is not None

    def aliases(self, model: str) -> dict[str, int]:
        """Every alias of a model with the version it points to; none when there is no model."""
        # Not from a search for versions: that answers without their aliases.
        found = self._model(model)
        return {} if found is None else {name: int(to) for name, to in found.aliases.items()}

    def move_alias(self, version: Version, alias: str) -> None:
        """Let the alias point to the version."""
        self._client.set_registered_model_alias(version.model, alias, str(version.number))

    def remove_alias(self, model: str, alias: str) -> None:
        """Remove the alias from the model; nothing happens where it is not set."""
        if self.has(model):
            self._client.delete_registered_model_alias(model, alias)

    def _model(self, name: str) -> RegisteredModel | None:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(name)
        except MlflowException as error:
            if error_code(error) in _ABSENT:
                return None
            raise

    def log_text(self, run_id: str, name: str, text: str) -> None:
        """Store a text as an artifact of a run; one of that name is replaced."""
        self._client.log_text(run_id, text, name)

    def read_texts(self, run_id: str, names: Iterable[str]) -> dict[str, str]:
        """Texts among a run's artifacts, by name; those that are not there are left out."""
        there = {item.path for item in self._client.list_artifacts(run_id)}
        with tempfile.TemporaryDirectory() as scratch:
            return {
                name: Path(self._client.download_artifacts(run_id, name, scratch)).read_text(
                    encoding="utf-8"
                )
                for name in names
                if name in there
            }

    def fetch(self, version: Version, sha256: str, folder: Path) -> Path:
        """Copy the file of that content out of a version's files.

        Raises:
            WeightsError: the version has no such file.
            TrackingError: MLflow cannot be reached.
        """
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException

        try:
            local = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{version.source.rstrip('/')}/artifacts",
                dst_path=str(folder),
                tracking_uri=self._client.uri,
            )
            files = [file for file in Path(local).rglob("*") if file.is_file()]
        except (MlflowException, OSError) as error:
            self._client.ping()  # a server that is away says nothing about the weights
            raise WeightsError(
                f"the files of {version.model} version {version.number} cannot be read: {error}"
            ) from error
        for file in files:
            if sha256_of(file) == sha256:
                return file
        raise WeightsError(
            f"{version.model} version {version.number} has no file with the sha256 {sha256[:12]}"
        )

    def _logged_model(
        self, run_id: str, package: Package, decision: str, params: Mapping[str, str]
    ) -> LoggedModel:
        """The uploaded files of a decision, from an earlier attempt when it got that far.

        What an attempt left that did not get that far is removed: the caller holds the lock of the
        registered model, so nobody is at it.
        """
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        client = self._client
        experiment = client.get_run(run_id).info.experiment_id
        earlier = client.search_logged_models([experiment], f"tags.`{DECISION}` = '{decision}'")
        for model in earlier:
            if model.status == LoggedModelStatus.READY:
                return model
            client.delete_logged_model(model.model_id)
        made = client.create_logged_model(
            experiment, name="detector", source_run_id=run_id, tags={DECISION: decision},
            params=dict(params), model_type="detector",
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch:
            identity = Identity(made.model_id, run_id, made.artifact_location)
            folder = write_model(package, identity, Path(scratch) / "model")
            client.log_model_artifacts(made.model_id, str(folder))
        client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
        return client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise


def _version(item: ModelVersion) -> Version:
    return Version(
        model=item.name,
        number=int(item.version),
        tags=dict(item.tags),
        run_id=item.run_id or None,
        source=item.source,
    )

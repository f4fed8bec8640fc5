"""Find a registered model by what a person calls it, and load it into this process.

NAME            its champion
NAME@ALIAS      the version that the alias points to
NAME/VERSION    that version
models:/…       any of these as MLflow writes them
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import UsageError, WeightsError
from hpo.storage.artifacts.store import sha256_of
from hpo.tracking.registry import Registry
from search_spaces.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.tracking.client import Client
    from hpo.tracking.registry import Version

SCHEME = "models:/"


@dataclass(frozen=True)
class Reference:
    """What a person asked for.

    Attributes:
        model: the registered model.
        alias: of the version; None where a number is given, or neither.
        number: of the version; None where an alias is given, or neither.
    """

    model: str
    alias: str | None = None
    number: int | None = None


def read_reference(text: str) -> Reference:
    """The reference in a text.

    Raises:
        UsageError: it has another form.
    """
    plain = text.removeprefix(SCHEME)
    model, at, alias = plain.partition("@")
    name, slash, number = model.partition("/")
    wrong = (at and (slash or not alias)) or (slash and not number.isdecimal())
    if not name or wrong or "://" in plain:
        raise UsageError(
            f"MODEL: {text!r}, expected NAME, NAME@ALIAS or NAME/VERSION of a registered model",
            hint="`hpo champion` names a study's.",
        )
    return Reference(name, alias or None, int(number) if slash else None)


def find(client: Client, reference: Reference) -> Version:
    """The version that a reference means.

    Raises:
        UsageError: there is no such model, alias or version; the nearest is named.
    """
    registry, model = Registry(client), reference.model
    if reference.number is None:
        found = registry.champion(model, reference.alias or "champion")
    else:
        found = registry.get(model, reference.number)
    if found is not None:
        return found
    names = {item.name: item for item in client.search_registered_models(max_results=1000)}
    if model not in names:
        raise UsageError(
            f"MODEL: MLflow at {client.place} has no model '{model}'{did_you_mean(model, names)}",
            hint="`hpo finalize` registers a study's best.",
        )
    if reference.number is not None:
        raise UsageError(
            f"MODEL: {model} has no version {reference.number}",
            hint=f"`hpo champion --model {model}` shows its champion.",
        )
    alias, known = reference.alias or "champion", list(names[model].aliases)
    raise UsageError(
        f"MODEL: {model} has no alias '{alias}'{did_you_mean(alias, known)}",
        hint=f"Name a version: {model}/1; or promote one: `hpo finalize`.",
    )


def load(client: Client, version: Version, folder: Path, weights: str | None = None) -> Any:
    """The version as an MLflow pyfunc model, whose own code runs here.

    Args:
        client: of the MLflow that holds it.
        version: which.
        folder: an empty one, which its files are copied to; they are needed while it is used.
        weights: sha256 by PostgreSQL's record; None for a version that it knows nothing of.

    Raises:
        WeightsError: its files are missing, or were altered since they were registered. Nothing
            of them was run.
        TrackingError: MLflow cannot be reached.
    """
    client.load()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import load_model

    try:
        # By its place and this client: a `models:/` address would be resolved by a global setting
        local = download_artifacts(
            artifact_uri=version.source, dst_path=str(folder), tracking_uri=client.uri
        )
        files = (file for file in Path(local, "artifacts").rglob("*") if file.is_file())
        if weights is not None and weights not in map(sha256_of, files):
            raise WeightsError(
                f"{version.model} version {version.number} was altered: no file of it has the "
                f"sha256 {weights[:12]}, which its weights had when they were promoted",
                hint="Take another version (NAME/VERSION), or `hpo rollback`.",
            )
        # The model's own type hints are for no schema, which MLflow warns of in colours
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return load_model(local)
    except (MlflowException, OSError, ValueError) as error:
        client.ping()  # a server that is away says nothing about the files
        raise WeightsError(
            f"{version.model} version {version.number} cannot be loaded: {error}",
            hint="Take another version (NAME/VERSION), or register it again.",
        ) from error


def boxes_in(model: Any, image: bytes, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a loaded model finds in one encoded image: its columns but `image`, a dict a box.

    Raises:
        ValueError: the model refuses the image.
    """
    import pandas as pd
    from mlflow.exceptions import MlflowException

    # As bytes: a form that every version takes, wherever it runs
    cell = pd.Series([image], dtype=object)
    try:
        table = model.predict(pd.DataFrame({"image": cell}), params=dict(params))
    except MlflowException as error:
        raise ValueError(error.message) from error
    return [dict(row) for row in table.drop(columns="image").to_dict("records")]


def taken(model: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the loaded model declares; MLflow warns of others."""
    schema = model.metadata.get_params_schema()
    names = {item.name for item in schema.params} if schema else set()
    return {name: value for name, value in params.items() if name in names}

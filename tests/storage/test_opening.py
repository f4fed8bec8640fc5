"""HPO_ARTIFACTS names a folder or a bucket."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from hpo.errors import UsageError
from hpo.settings import Settings
from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.artifacts.opening import open_store
from hpo.storage.artifacts.s3 import S3Store
from hpo.tracking.uri import artifact_root


def settings(artifacts: str) -> Settings:
    env = {"HPO_HOME": "/project/.hpo"} | ({"HPO_ARTIFACTS": artifacts} if artifacts else {})
    return Settings.read(env, Path("/project"))


@pytest.mark.parametrize(
    ("given", "place"),
    [("", "/project/.hpo/artifacts"), ("shared", "/project/shared"), ("/data/a", "/data/a")],
)
def test_a_path_is_a_folder(given: str, place: str) -> None:
    """Relative ones are seen from the folder that the command runs in."""
    store = open_store(settings(given))
    assert isinstance(store, FolderStore)
    assert store.place == place


@pytest.mark.parametrize(
    ("given", "bucket", "prefix", "place"),
    [
        ("s3://lab", "lab", "", "s3://lab"),
        ("s3://lab/", "lab", "", "s3://lab"),
        ("s3://lab/hpo/one/", "lab", "hpo/one", "s3://lab/hpo/one"),
        ("s3://my.lab-2/x", "my.lab-2", "x", "s3://my.lab-2/x"),
    ],
)
def test_an_s3_address_is_a_bucket(given: str, bucket: str, prefix: str, place: str) -> None:
    """With a prefix or without; MLflow's files lie beside ours."""
    store = open_store(settings(given))
    assert isinstance(store, S3Store)
    assert (store.bucket, store.prefix, store.place) == (bucket, prefix, place)
    assert artifact_root(settings(given)) == f"{place}/mlflow"


def test_an_endpoint_with_a_key_in_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 would not use the key, and would show it whenever the server is away."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://key:s3cr3t@127.0.0.1:9")
    with pytest.raises(UsageError, match="holds a user or a key") as caught:
        open_store(settings("s3://lab")).require_writable()
    shown = "".join(traceback.format_exception(caught.value))
    assert "s3cr3t" not in f"{shown}{caught.value.hint}"


@pytest.mark.parametrize(
    "given",
    [
        "s3://", "s3:///prefix", "s3://ab", "s3://lab?region=x", "s3://key:s3cr3t@lab/x",
        "gs://lab/x", "https://lab.s3.amazonaws.com/x?sig=s3cr3t", "file:///data",
    ],
)  # fmt: skip
def test_anything_else_is_refused_without_repeating_a_secret(given: str) -> None:
    """The hint says what to give instead."""
    with pytest.raises(UsageError, match=r"is neither a folder nor s3://BUCKET/PREFIX") as caught:
        open_store(settings(given))
    assert "AWS_ENDPOINT_URL" in caught.value.hint
    assert "s3cr3t" not in f"{caught.value}{caught.value.hint}"

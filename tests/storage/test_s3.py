"""S3 as artifact store: wrong buckets and keys, full pages, and MLflow's files beside ours.

The server is a stand-in in memory; rights are checked by one that was started to check them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.s3_server import S3Server
from support.studies import Bench

from hpo.errors import StoreError, UsageError
from hpo.storage.artifacts import s3
from hpo.storage.artifacts.s3 import S3Store
from hpo.tracking.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from hpo.settings import Settings

SECRET = "secret-of-tests"  # noqa: S105 - of nobody


@pytest.fixture
def store(s3_server: S3Server) -> S3Store:
    return S3Store(s3_server.bucket, "lab")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file."""
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    return path


def refused(store: S3Store) -> UsageError:
    with pytest.raises(UsageError, match="artifacts") as caught:
        store.require_writable()
    assert SECRET not in f"{caught.value}{caught.value.hint}"
    return caught.value


def test_keys_are_as_the_documentation_has_them(
    store: S3Store, s3_server: S3Server, file: Path
) -> None:
    """PREFIX/objects/ab/abcdef… and PREFIX/AREA/abcdef…, with the sha256 noted at the object."""
    sha256 = store.put(file).sha256
    store.put(file, "checkpoints/study/1")
    S3Store(s3_server.bucket, "").put(file, "area")
    client = s3_server.client()
    listed = client.list_objects_v2(Bucket=s3_server.bucket)["Contents"]
    keys = [one["Key"] for one in listed]
    assert keys == [
        f"area/{sha256}", f"lab/checkpoints/study/1/{sha256}", f"lab/objects/{sha256[:2]}/{sha256}",
    ]  # fmt: skip
    for key in keys:
        head = client.head_object(Bucket=s3_server.bucket, Key=key)
        assert head["Metadata"] == {"sha256": sha256}


def test_a_bucket_that_is_not_there_is_wrong_input(s3_server: S3Server) -> None:
    """Buckets are not made: whoever pays for them does that."""
    del s3_server
    error = refused(S3Store("nobody-made-it", "lab"))
    assert "NoSuchBucket" in str(error)
    assert "aws s3 mb s3://nobody-made-it" in error.hint


def test_no_credentials_are_wrong_input(
    store: S3Store, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint names the variables."""
    del s3_server
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refused(store).hint


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "storage:8333", "AWS_ENDPOINT_URL"),
        ("AWS_PROFILE", "nobody", "nobody"),
    ],
)
def test_a_wrong_setting_of_aws_is_wrong_input(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    """Such as an endpoint without http:// or an unknown profile."""
    monkeypatch.setenv(name, value)
    error = refused(store)
    assert said in f"{error}{error.hint}"


def test_a_server_that_does_not_answer_is_an_outage(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows then whether the settings are right."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot be reached"):
        store.require_writable()


@pytest.mark.parametrize("name", ["AWS_DEFAULT_REGION", "AWS_REGION"])
def test_the_region_may_be_named_either_way(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """boto3 knows the one name, every other AWS library the other."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv(name, "eu-north-1")
    assert store._client().meta.region_name == "eu-north-1"


class TestRights:
    """A server that checks keys and rights."""

    @pytest.fixture
    def strict(
        self, tmp_path: Path, aws_env: pytest.MonkeyPatch
    ) -> Iterator[tuple[S3Server, pytest.MonkeyPatch]]:
        """The server, and the environment of a user who may do nothing."""
        # What comes first is allowed: making the bucket, the user and the key
        server = S3Server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="3")
        try:
            server.start()
            iam = server.client("iam")
            iam.create_user(UserName="ada")
            key = iam.create_access_key(UserName="ada")["AccessKey"]
            aws_env.setenv("AWS_ENDPOINT_URL", server.url)
            aws_env.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
            aws_env.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
            yield server, aws_env
        finally:
            server.stop()

    def test_missing_and_wrong_keys_are_wrong_input(
        self, strict: tuple[S3Server, pytest.MonkeyPatch], file: Path
    ) -> None:
        """Each has its mend when the store is made ready; after that it is waited for."""
        server, env = strict
        denied = refused(S3Store(server.bucket, "lab"))
        assert "AccessDenied" in str(denied)
        assert "s3:PutObject" in denied.hint
        with pytest.raises(StoreError, match="AccessDenied"):
            S3Store(server.bucket, "lab").put(file)
        env.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        wrong = refused(S3Store(server.bucket, "lab"))
        assert "SignatureDoesNotMatch" in str(wrong)
        env.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
        unknown = refused(S3Store(server.bucket, "lab"))
        assert "InvalidAccessKeyId" in str(unknown)
        assert "AWS_ACCESS_KEY_ID" in wrong.hint
        assert wrong.hint == unknown.hint


def test_large_areas_are_cleared_whole(store: S3Store, s3_server: S3Server) -> None:
    """S3 lists a thousand keys a page and deletes as many a request; all pages are gone through."""
    client = s3_server.client()
    for number in range(1005):
        client.put_object(Bucket=s3_server.bucket, Key=f"lab/area/{number:064x}", Body=b"")
    assert store.keep_only("area", {f"{1004:064x}"}) == 1004
    listed = client.list_objects_v2(Bucket=s3_server.bucket)["Contents"]
    assert [one["Key"] for one in listed] == [f"lab/area/{1004:064x}"]


def test_uploads_to_objects_that_nobody_ends_go_after_a_day(
    store: S3Store, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Younger ones, and those of others in the same bucket, are left alone.

    This server says of all uploads that they began in 2010: the age is moved, not the clock.
    """
    client = s3_server.client()
    for key in ("lab/objects/ab/abc", "lab/mlflow/1/model.pt"):
        client.create_multipart_upload(Bucket=s3_server.bucket, Key=key)

    def unfinished() -> list[str]:
        listed = client.list_multipart_uploads(Bucket=s3_server.bucket).get("Uploads", ())
        return [one["Key"] for one in listed]

    with monkeypatch.context() as patient:
        patient.setattr(s3, "DRAFTS_LAST_S", 50 * 365 * 86400.0)
        store.require_writable()
    assert len(unfinished()) == 2
    store.require_writable()
    assert unfinished() == ["lab/mlflow/1/model.pt"]


def test_mlflow_keeps_its_files_beside_ours(
    engine: Engine, mirror_settings: Settings, s3_server: S3Server, tmp_path: Path
) -> None:
    """With AWS_ENDPOINT_URL alone: MLflow's own variable for it need not be set."""
    settings = replace(mirror_settings, artifacts=f"s3://{s3_server.bucket}/lab")
    bench = Bench(engine, settings, tmp_path)
    try:
        bench.trial(0.1, 0.2)
        result = bench.mirror().sync_study()
        assert (result.copied, result.behind, result.errors) == (1, 0, [])
        assert bench.run(0).info.artifact_uri.startswith(f"s3://{s3_server.bucket}/lab/mlflow/")
        found = verify(engine, bench.client(), bench.study.study_id)
        assert [str(one) for one in found.differences] == []
    finally:
        bench.close()
    listed = s3_server.client().list_objects_v2(Bucket=s3_server.bucket)["Contents"]
    folders = {one["Key"].split("/")[1] for one in listed}
    assert folders == {"objects", "mlflow"}

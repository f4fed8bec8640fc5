"""An artifact store in an S3 bucket, with the client that it needs and the bucket's making.

A file of the area `objects` lies at PREFIX/objects/ab/abcdef…, of another one at
PREFIX/AREA/abcdef…. Endpoint, region and credentials are found as boto3 finds them: in the AWS_*
variables, in ~/.aws, or in the machine's role. With an endpoint of its own (AWS_ENDPOINT_URL),
boto3 puts the bucket into the path and not into the host's name, as IP addresses need it.
"""

from __future__ import annotations

import os
import ssl
import threading
import uuid
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hpo.errors import StoreError, UsageError
from hpo.storage.artifacts.s3_errors import is_missing, meaning, no_s3, refusal
from hpo.storage.artifacts.store import (
    CHUNK,
    DRAFTS_LAST_S,
    OBJECTS,
    Stored,
    missing,
    receive,
    refuse_objects,
    sha256_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path
    from typing import Any

ATTEMPTS = 3
_REDIRECTS = (301, 302, 307)
# A caller hears within a minute that the store is away; it waits and repeats the call itself
_CONNECT_S, _READ_S = 5, 20


def open_client(place: str) -> Any:
    """A client of S3; nothing is reached yet.

    Args:
        place: the store, for messages.

    Raises:
        UsageError: a variable is no such thing: the endpoint, the region, or the file of
            certificates.
    """
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import InvalidRegionError

    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        response_checksum_validation="when_required",  # the sha256 is checked in any case
    )
    # boto3 itself reads AWS_DEFAULT_REGION and ~/.aws, but not the name that other SDKs share.
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")
    # A session of our own: making a client of the common one is not thread-safe.
    core = botocore.session.get_session()
    session = boto3.session.Session(botocore_session=core)
    try:
        client = session.client("s3", config=config, region_name=region)
    except InvalidRegionError as error:
        raise _unusable(place, str(error), f"Correct {_region_from()}, e.g. us-east-1.") from error
    except ValueError as error:
        if "@" in str(error):
            raise _with_a_key(place) from None
        hint = "Correct AWS_ENDPOINT_URL, for instance http://HOST:PORT."
        raise _unusable(place, str(error), hint) from error
    if "@" in client.meta.endpoint_url:
        raise _with_a_key(place)
    if client.meta.endpoint_url.startswith("https:"):
        _require_certificates(place, core.get_config_variable("ca_bundle"))
    client.meta.events.register_first("needs-retry.s3", _ask_no_further)
    return client


def _unusable(place: str, why: str, hint: str) -> UsageError:
    return UsageError(f"artifacts in {place} cannot be reached: {why}", hint=hint)


def _with_a_key(place: str) -> UsageError:
    """The refusal of a key that boto3 would not use, and show in its errors."""
    return _unusable(
        place,
        "the endpoint's URL holds a user or a key: they have variables of their own",
        "Correct AWS_ENDPOINT_URL, for instance http://HOST:PORT.",
    )


def _region_from() -> str:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        if os.environ.get(name):
            return name
    return "`region` in ~/.aws/config"


def _require_certificates(place: str, configured: str | None) -> None:
    """Refuse a file that holds none: the first request would name neither it nor its variable."""
    path = configured or os.environ.get("REQUESTS_CA_BUNDLE")  # in boto3's own order
    if not path:
        return
    name = "AWS_CA_BUNDLE" if os.environ.get("AWS_CA_BUNDLE") else "`ca_bundle` in ~/.aws/config"
    if not configured:
        name = "REQUESTS_CA_BUNDLE"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # what is wrong inside the file is one, too
        why = getattr(error, "reason", None) or error.strerror
        raise _unusable(
            place,
            f"{name} is {path}, and no certificates can be read there: {why}",
            f"Set {name} to the file of the authority's certificates (PEM), or unset it.",
        ) from error


def _ask_no_further(request_dict: dict[str, Any], response: Any, **_: Any) -> None:
    """Take a redirection that names no region as it is.

    boto3 then asks for the bucket's region, is redirected again, and asks again without an end: so
    answers a web server that sends http to https, or everybody to its login.
    """
    if response is None or response[0].status_code not in _REDIRECTS:
        return
    named = response[0].headers.get("x-amz-bucket-region") or response[1]["Error"].get("Region")
    if not named:
        request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True


PART_BYTES = 8 << 20  # larger files go up in parts of this size
_PARTS_AT_ONCE = 4  # of one file; each takes a thread and a part's memory
_PROBE = b"?"  # written and read back
_AT_ONCE = 1000  # keys that one request may delete, S3's limit


class S3Store:
    """An ArtifactStore in an S3 bucket; boto3 loads at the first use (a third of a second).

    Attributes:
        bucket: its name.
        prefix: where in the bucket, without slashes at its ends; "" for the whole.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        self._opening = threading.Lock()
        self._opened: Any = None

    @property
    def place(self) -> str:
        """The store's place as HPO_ARTIFACTS writes it."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def require_writable(self, *, make: bool = True) -> None:
        """Write, read, list and delete, as later calls will; the bucket itself is never made."""
        del make
        probe = {"Bucket": self.bucket, "Key": self._key(f".probe-{uuid.uuid4().hex}")}
        try:
            with self.reached() as client:
                client.put_object(**probe, Body=_PROBE)
                with closing(client.get_object(**probe)["Body"]) as body:
                    read = body.read(len(_PROBE) + 1)
                client.list_objects_v2(Bucket=self.bucket, Prefix=probe["Key"])
                client.delete_object(**probe)
                # S3 refuses clocks that are a quarter of an hour off: this machine's will do
                day_ago = datetime.now(UTC) - timedelta(seconds=DRAFTS_LAST_S)
                self._abort(client, self._key(f"{OBJECTS}/"), before=day_ago)
            if read != _PROBE:  # a web page answers every request, too
                raise no_s3(self.place)
        except StoreError as error:
            refused = refusal(error.__cause__, self.place, self.bucket)
            if refused is None:
                raise
            raise refused from error

    def put(self, file: Path, area: str = OBJECTS) -> Stored:
        """Upload a file; see ArtifactStore. S3 shows an object once its upload is complete.

        The sha256, which is the object's name, must be known before the upload begins, so the file
        is read twice. Content that is there already goes up again: an object of that name and size
        may have been altered, and nothing that S3 tells of it would show it.
        """
        from boto3.s3.transfer import TransferConfig

        stored = Stored(sha256_of(file), file.stat().st_size)
        parts = TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
            preferred_transfer_client="classic",  # the other one takes the retries in its own hands
        )
        with self.reached() as client:
            client.upload_file(
                str(file),
                self.bucket,
                self._place(stored.sha256, area),
                ExtraArgs={"Metadata": {"sha256": stored.sha256}},
                Config=parts,
            )
        return stored

    def fetch(self, sha256: str, target: Path, area: str = OBJECTS) -> Path:
        """Download the content and check it; see ArtifactStore."""
        key = self._place(sha256, area)
        place = f"s3://{self.bucket}/{key}"
        return receive(self._chunks(sha256, key), sha256, target, self, place)

    def size_of(self, sha256: str, area: str = OBJECTS) -> int | None:
        """An object's size; see ArtifactStore."""
        with self.reached() as client:
            try:
                head = client.head_object(Bucket=self.bucket, Key=self._place(sha256, area))
            except Exception as error:
                if is_missing(error):
                    # HEAD has no words: it may be the bucket that is missing
                    client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
                    return None
                raise
            return int(head["ContentLength"])

    def keep_only(self, area: str, sha256s: Collection[str]) -> int:
        """Remove everything else from an area; see ArtifactStore."""
        refuse_objects(area)
        folder = self._key(f"{area}/")
        with self.reached() as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=folder, Delimiter="/"
            )
            held = [item["Key"] for page in pages for item in page.get("Contents", ())]
            gone = [key for key in held if key.removeprefix(folder) not in sha256s]
            for start in range(0, len(gone), _AT_ONCE):
                self._delete(client, gone[start : start + _AT_ONCE])
            return len(gone) + self._abort(client, folder)

    def _chunks(self, sha256: str, key: str) -> Iterator[bytes]:
        with self.reached() as client:
            try:
                answer = client.get_object(Bucket=self.bucket, Key=key)
            except Exception as error:
                if is_missing(error):
                    raise missing(sha256, self) from error
                raise
            yield from self._unbroken(client, key, answer)

    def _unbroken(self, client: Any, key: str, answer: Any) -> Iterator[bytes]:
        """An object's chunks, going on where a connection broke off.

        boto3 repeats requests, not the reading of their answers; a dataset takes minutes to read.
        """
        from botocore.exceptions import BotoCoreError

        done, left = 0, ATTEMPTS  # tries without a byte in between
        while True:
            try:
                with closing(answer["Body"]) as body:
                    for chunk in body.iter_chunks(CHUNK):
                        done, left = done + len(chunk), ATTEMPTS
                        yield chunk
            except BotoCoreError:
                left -= 1
                if not left:
                    raise
                same = {"Range": f"bytes={done}-", "IfMatch": answer["ETag"]}
                answer = client.get_object(Bucket=self.bucket, Key=key, **same)
            else:
                return

    def _delete(self, client: Any, keys: list[str]) -> None:
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        left = client.delete_objects(Bucket=self.bucket, Delete=wanted).get("Errors")
        if left:  # the request as a whole succeeds nevertheless
            raise StoreError(
                f"{len(left)} of {len(keys)} artifacts in {self.place} cannot be removed: "
                f"{left[0].get('Code')}: {left[0].get('Message')}"
            )

    def _abort(self, client: Any, folder: str, before: datetime | None = None) -> int:
        """End uploads below `folder` that were never completed; returns how many."""
        pages = client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.bucket, Prefix=folder
        )
        unfinished = [
            one
            for page in pages
            for one in page.get("Uploads", ())
            if one["Key"].startswith(folder) and (before is None or one["Initiated"] < before)
        ]
        for one in unfinished:
            try:
                client.abort_multipart_upload(
                    Bucket=self.bucket, Key=one["Key"], UploadId=one["UploadId"]
                )
            except Exception as error:
                if not is_missing(error):  # its writer, or another worker, was quicker
                    raise
        return len(unfinished)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _place(self, sha256: str, area: str) -> str:
        return self._key(f"{area}/{sha256[:2]}/{sha256}" if area == OBJECTS else f"{area}/{sha256}")

    @contextmanager
    def reached(self) -> Iterator[Any]:
        """Yield boto3's client; turn what it says of the bucket into a StoreError."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield self._client()
        except (Boto3Error, BotoCoreError, ClientError) as error:
            # boto3's transfers wrap what S3 answered, and keep only its text
            cause = error.__context__ if isinstance(error, Boto3Error) else error
            raise meaning(cause or error, self.place) from (cause or error)

    def _client(self) -> Any:
        """The one client of this store; boto3's clients may be shared by threads once made."""
        with self._opening:
            if self._opened is None:
                self._opened = open_client(self.place)
            return self._opened


# Amazon's first region takes no constraint, and others no other than their own
_WITHOUT_CONSTRAINT = (None, "", "us-east-1", "aws-global")
_MADE_MEANWHILE = ("BucketAlreadyOwnedByYou", "OperationAborted")


def ensure_bucket(store: S3Store) -> bool:
    """Make the store's bucket where it is missing; whether it was made.

    Any number of processes may call it at once.

    Raises:
        UsageError: the bucket is another's, or this key may not make or use it.
        StoreError: the server cannot be reached now.
    """
    try:
        try:
            with store.reached() as client:
                client.head_bucket(Bucket=store.bucket)
        except StoreError as error:
            if error.__cause__ is None or not is_missing(error.__cause__):
                raise
        else:
            return False
        with store.reached() as client:
            return _make(client, store.bucket)
    except StoreError as error:
        refused = refusal(error.__cause__, store.place, store.bucket)
        if refused is None:
            raise
        raise refused from error


def _make(client: Any, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    region = client.meta.region_name
    place = (
        {}
        if region in _WITHOUT_CONSTRAINT
        else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    )
    try:
        client.create_bucket(Bucket=bucket, **place)
    except ClientError as error:
        if error.response["Error"]["Code"] in _MADE_MEANWHILE:
            return False
        raise
    return True

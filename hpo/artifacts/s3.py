"""An artifact store in an S3 bucket, Amazon's or another's; knows no trial.

A file of the area `objects` lies at PREFIX/objects/ab/abcdef…, of another one at
PREFIX/AREA/abcdef…. Endpoint, region and credentials are found as boto3 finds them: in the AWS_*
variables, in ~/.aws, or in the machine's role. With an endpoint of its own (AWS_ENDPOINT_URL),
boto3 puts the bucket into the path and not into the host's name, as IP addresses need it.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hpo.artifacts.s3_client import ATTEMPTS, open_client
from hpo.artifacts.s3_failures import is_missing, meaning, no_s3, refusal
from hpo.artifacts.store import (
    CHUNK,
    DRAFTS_LAST_S,
    OBJECTS,
    Stored,
    missing,
    receive,
    refuse_objects,
    sha256_of,
)
from hpo.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

PART_BYTES = 8 << 20  # larger files go up in parts of this size
_PARTS_AT_ONCE = 4  # of one file; each takes a thread and a part's memory
_PROBE = b"?"  # written and read back
_AT_ONCE = 1000  # keys that one request may delete, S3's limit


class S3Store:
    """See ArtifactStore. boto3 loads at the first use: it takes a third of a second.

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
        """As HPO_ARTIFACTS has it."""
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
        """End uploads below `folder` that were never completed; how many."""
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
        """boto3's client; what it says of the bucket, as StoreError."""
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

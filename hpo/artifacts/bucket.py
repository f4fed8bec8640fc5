"""The bucket of an S3 store, made where it is missing; knows no artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.artifacts.s3_failures import is_missing, refusal
from hpo.errors import StoreError

if TYPE_CHECKING:
    from typing import Any

    from hpo.artifacts.s3 import S3Store

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

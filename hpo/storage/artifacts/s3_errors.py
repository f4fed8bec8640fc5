"""Tell what errors of S3 and boto3 mean: missing, passing or final, each with its mend."""

from __future__ import annotations

import re
import ssl
from typing import Any

from hpo.errors import StoreError, UsageError

_MISSING = ("NoSuchKey", "NoSuchUpload", "404")
# Amazon is never full; other servers say it in these words or with the status 507
_FULL = ("QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded")
_FULL_STATUS = 507
_REDIRECTED = ("301", "302", "307", "308")
_REGION = (
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
)
# Answers of the kind «your fault» that nevertheless pass: timeout, conflict, too many requests
_PASSING_STATUS = (408, 409, 425, 429)
# What OpenSSL says of a first answer that is not TLS, by its version
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG")
# Amazon's names of buckets (general purpose); most other servers take no others either
_NAME = re.compile(
    r"(?!xn--|sthree-|amzn-s3-demo-|.*\.\.|\d+\.\d+\.\d+\.\d+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
    r"(?<!-s3alias)(?<!--ol-s3)(?<!\.mrap)(?<!--x-s3)(?<!--table-s3)"
)
_RIGHTS = (
    "s3:PutObject, s3:GetObject, s3:DeleteObject, s3:AbortMultipartUpload, s3:ListBucket and "
    "s3:ListBucketMultipartUploads"
)


def is_missing(error: BaseException) -> bool:
    """Whether S3 answered that there is no such object or upload."""
    return _answer(error)[0] in _MISSING


def meaning(error: BaseException, place: str) -> StoreError:
    """The error for a store that cannot do what was asked now."""
    code, status, words = _answer(error)
    if code in _FULL or status == _FULL_STATUS:
        return StoreError(
            f"no space left for artifacts in {place}: {words}",
            hint="Free some space there or raise its quota, or set HPO_ARTIFACTS elsewhere.",
        )
    return StoreError(
        f"artifacts in {place} cannot be reached: {words}",
        hint=_of_tls(error)[1]
        or "Check HPO_ARTIFACTS, AWS_ENDPOINT_URL and the AWS credentials with `hpo doctor`.",
    )


def no_s3(place: str) -> UsageError:
    """The error for a server that answers, and is no S3."""
    return UsageError(
        f"artifacts cannot be written to {place}: what was written is not what is read there",
        hint="AWS_ENDPOINT_URL does not lead to an S3 server: correct it.",
    )


def refusal(error: BaseException | None, place: str, bucket: str) -> UsageError | None:
    """The error for what stays as it is until somebody mends it; None for what may pass."""
    if error is None or not _is_final(error):
        return None
    code, _, words = _answer(error)
    hint = _of_region(error) or _of_tls(error)[1] or _mend(code, bucket)
    return UsageError(f"artifacts cannot be written to {place}: {words}", hint=hint)


def _is_final(error: BaseException) -> bool:
    from botocore import exceptions as botocore

    if isinstance(error, botocore.ClientError):
        code, status, _ = _answer(error)
        refused = 300 <= status < 500 and status not in _PASSING_STATUS  # noqa: PLR2004 - HTTP's
        return refused and code not in _FULL
    passing = (
        botocore.ConnectionError,
        botocore.HTTPClientError,
        botocore.CredentialRetrievalError,
        botocore.TokenRetrievalError,
    )
    return bool(_of_tls(error)[0]) or not isinstance(error, passing)


def _of_tls(error: BaseException) -> tuple[str, str]:
    """What is wrong with the encryption, and its mend; "" and "" where it is something else."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        said = f"the server's certificate is not trusted here: {cause.verify_message}"
        return said, "Set AWS_CA_BUNDLE to the certificates of its authority (a PEM file)."
    if cause is not None and cause.reason in _NO_TLS:
        said = f"asked with https://, the server answers in plain http, not TLS ({cause.reason})"
        return said, "Begin AWS_ENDPOINT_URL with http://, or give the port that speaks https."
    return "", ""


def _of_region(error: BaseException) -> str:
    """What to set where S3 says that the bucket is in another region."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    said, heard = response.get("Error", {}), response.get("ResponseMetadata", {})
    region = said.get("Region") or heard.get("HTTPHeaders", {}).get("x-amz-bucket-region")
    if region:
        return f"The bucket is in another region: AWS_DEFAULT_REGION={region}."
    if said.get("Code") in _REGION:
        return "The bucket is in another region: set AWS_DEFAULT_REGION to it."
    return ""


def _mend(code: str, bucket: str) -> str:
    if code in ("NoSuchBucket", "InvalidBucketName") and not _NAME.fullmatch(bucket):
        return (
            f"Correct HPO_ARTIFACTS: no bucket can be called '{bucket}'. A name has 3 to 63 "
            "lower-case letters, digits, hyphens and dots, and some beginnings and ends are "
            "Amazon's own."
        )
    if code == "NoSuchBucket":
        return f"Make it, for instance with `aws s3 mb s3://{bucket}`, or correct HPO_ARTIFACTS."
    if code in ("NoCredentialsError", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role."
    if code in ("AccessDenied", "403"):
        return f"Give the owner of the key these rights on the bucket: {_RIGHTS}."
    if code == "RequestTimeTooSkewed":
        return "Set this machine's clock: S3 takes requests of the last quarter of an hour."
    return "Correct HPO_ARTIFACTS, AWS_ENDPOINT_URL, AWS_DEFAULT_REGION or the AWS credentials."


def _answer(error: BaseException) -> tuple[str, int, str]:
    """S3's code, HTTP's status and words for a person; the class and 0 where nobody answered."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    said = response.get("Error", {})
    code = str(said.get("Code", type(error).__name__))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if status and (not code or code in _REDIRECTED):
        return code, status, f"HTTP status {status}, and not as S3 writes it: is it an S3 server?"
    if said.get("Message"):
        return code, status, f"{code}: {said['Message']}"
    return code, status, _of_tls(error)[0] or str(error)

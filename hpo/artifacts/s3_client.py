"""boto3's client as the AWS_* variables say, and what is wrong with these; knows no bucket."""

from __future__ import annotations

import os
import ssl
from typing import Any

from hpo.errors import UsageError

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

"""Open the artifact store that HPO_ARTIFACTS names: a folder or an S3 bucket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import UsageError
from hpo.storage.artifacts.folder import FolderStore
from hpo.storage.artifacts.s3 import S3Store

if TYPE_CHECKING:
    from hpo.settings import Settings
    from hpo.storage.artifacts.store import ArtifactStore

# Amazon's rules for bucket names, and the capitals and underscores that other servers allow
_S3 = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{2,62})(?:/(?P<prefix>[^?#\s]*))?")


def open_store(settings: Settings) -> ArtifactStore:
    """The store that HPO_ARTIFACTS names; nothing is reached yet.

    Raises:
        UsageError: it names neither a folder nor a bucket.
    """
    given = settings.artifacts
    if "://" not in given:
        return FolderStore(Path(given))
    found = _S3.fullmatch(given)
    if found is None:
        # The value may hold somebody's key, written as in other URLs: only its form is repeated
        raise UsageError(
            f"HPO_ARTIFACTS={given.partition('://')[0]}://… is neither a folder nor "
            "s3://BUCKET/PREFIX",
            hint="Give a folder that all workers reach, or s3://BUCKET/PREFIX with the endpoint "
            "and the keys in AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    return S3Store(found["bucket"], (found["prefix"] or "").strip("/"))

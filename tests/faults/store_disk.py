"""A small disk of a run's own for the artifact store, that fills up and goes away.

The disk is a tmpfs in a mount namespace which a process of ours holds open; commands that are to
see it are started in that namespace. It is gone with the last of them. Where the system allows no
such namespace the store lies in a plain folder, which cannot be filled, and `has_quota` says so.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

_BALLAST = "ballast"
_CHUNK = b"\0" * (1 << 16)
_SCRIPT = 'mount -t tmpfs -o "size=$2m" store "$1" && echo ready && exec cat'


class StoreDisk:
    """The disk; a context manager.

    Attributes:
        store: the artifact store's folder, as the commands under test name it.
        prefix: what the command line of whoever is to see the disk begins with.
        has_quota: whether it can be filled.
    """

    def __init__(self, folder: Path, *, megabytes: int) -> None:
        self._disk = folder / "disk"
        self._disk.mkdir()
        self._seen = self._disk
        self.store = self._disk / "store"
        self.prefix: tuple[str, ...] = ()
        self.has_quota = False
        # Only root may mount without a user namespace, and needs none
        user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        self._holder = subprocess.Popen(
            ["unshare", *user, "--mount", "sh", "-c", _SCRIPT, "sh", str(self._disk),
             str(megabytes)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() == b"ready\n":
            pid = self._holder.pid
            spaces = ("--mount", "--user", "--preserve-credentials") if user else ("--mount",)
            self.prefix = ("nsenter", f"--target={pid}", *spaces, f"--wd={folder}")
            self._seen = type(folder)(f"/proc/{pid}/root{self._disk}")
            self.has_quota = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._holder.communicate()  # its standard input ends, and so does it

    @property
    def seen(self) -> Path:
        """The store's folder as this process reaches it."""
        return self._seen / "store"

    def fill(self) -> None:
        """Leave not a byte."""
        with (self._seen / _BALLAST).open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(_CHUNK)
            except OSError:
                return  # full, as asked

    def free(self) -> None:
        """Give the space back."""
        (self._seen / _BALLAST).unlink(missing_ok=True)

    def take_away(self) -> None:
        """Put the store where nobody finds it; a file in its place keeps others from making one."""
        self.seen.rename(self._seen / "away")
        self.seen.touch()

    def bring_back(self) -> None:
        """Put the store back as it was."""
        self.seen.unlink()
        (self._seen / "away").rename(self.seen)

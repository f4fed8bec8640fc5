"""workers.workspace: a folder that goes with its worker, however that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workers.workspace import own_folder

HOLD = """
import sys
from pathlib import Path
from workers.workspace import own_folder

with own_folder(Path(sys.argv[1])) as folder:
    (folder / "state").write_bytes(bytes(1000))
    print(folder, flush=True)
    sys.stdin.read()
"""


def holder(runs: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another worker's process, and the folder that it holds."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(runs)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_ends_with_its_block(tmp_path: Path) -> None:
    """Whatever ended the block."""
    seen = []

    def interrupted() -> None:
        with own_folder(tmp_path / "runs") as own:
            seen.append(own)
            (own / "state").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not seen[0].exists()


def test_a_killed_workers_folder_is_removed_by_the_next_and_a_living_ones_stays(
    tmp_path: Path,
) -> None:
    """States of tens of megabytes do not pile up, and nobody loses what it works on."""
    killed, left = holder(tmp_path)
    living, kept = holder(tmp_path)
    try:
        killed.kill()
        killed.communicate()
        assert (left / "state").is_file()
        with own_folder(tmp_path) as own:
            assert sorted(tmp_path.glob("worker-*")) == sorted([own, kept])
            assert (kept / "state").is_file()
    finally:
        living.communicate("")
    assert list(tmp_path.glob("worker-*")) == []

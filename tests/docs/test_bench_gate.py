"""The measurement of the gate's error rate runs and writes its tables."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.sources import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/bench_gate.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.promotion
def test_a_quick_run_writes_every_row_between_the_markers(tmp_path: Path) -> None:
    """Three kinds of equal models and three gains, each at three numbers of images."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench-gate: begin -->old<!-- bench-gate: end -->\nafter\n")
    done = bench("--quick", "--seed", "3", "--out", str(page))
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("before\n<!-- bench-gate: begin -->\n")
    assert text.endswith("<!-- bench-gate: end -->\nafter\n")
    assert "old" not in text
    assert done.stdout.strip() in text
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    kinds = [row[0].strip() for row in rows]
    assert [kinds.count(kind) for kind in ("usual", "near twins", "weak")] == [3, 3, 3]
    assert [kinds.count(gain) for gain in ("0.02", "0.05", "0.10")] == [3, 3, 3]

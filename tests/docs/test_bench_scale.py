"""The measurement of many workers runs and writes its tables."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.sources import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.cluster  # 15 s of many processes


def test_a_small_run_writes_a_row_for_each_number_between_the_markers(tmp_path: Path) -> None:
    """Two sizes of a study by two numbers of workers, and the arithmetic to a thousand."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench-scale: begin -->old<!-- bench-scale: end -->\nafter\n")
    done = subprocess.run(
        [sys.executable, "benchmarks/bench_scale.py", "--workers", "1", "2", "--trials", "60",
         "100", "--seconds", "0.2", "--real", "0", "--out", str(page)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("before\n<!-- bench-scale: begin -->\n")
    assert text.endswith("<!-- bench-scale: end -->\nafter\n")
    assert "old" not in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = [row for row in cells if len(row) == 11 and row[0].isdecimal()]
    assert [row[:2] for row in rows] == [["60", "1"], ["60", "2"], ["100", "1"], ["100", "2"]]
    assert all(float(figure) > 0 for row in rows for figure in row[2:6])
    sizes = [row for row in cells if len(row) == 5 and row[0].isdecimal()]
    assert [row[0] for row in sizes] == ["60", "100"]
    assert "1,000 workers make 0.33 claims" in text

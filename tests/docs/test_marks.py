"""The search for marked secrets sees what it is to see: a test that cannot fail proves nothing."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import time
import zipfile
from typing import TYPE_CHECKING

import pytest
from support.secrets import Marks, Watched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMS: dict[str, Callable[[Marks], bytes]] = {
    "plain": lambda marks: marks.secret("one").encode(),
    "in a URL": lambda marks: f"postgresql://u:{marks.quoted('one')}@host/db".encode(),
    "in JSON": lambda marks: json.dumps({"why": marks.secret("one")}).encode(),
    "in a login": lambda marks: base64.b64encode(f"me:{marks.secret('one')}".encode()),
    "in a login of another length": lambda marks: base64.b64encode(
        f"ann:{marks.secret('one')}".encode()
    ),
    "and of another": lambda marks: base64.b64encode(f"anna:{marks.secret('one')}".encode()),
    "hexadecimal": lambda marks: marks.secret("one").encode().hex().encode(),
    "gzip": lambda marks: gzip.compress(marks.secret("one").encode()),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_found_in_every_form(form: str) -> None:
    """And only this one: another one that was made beside it is not."""
    marks = Marks("one", "another")
    assert marks.found_in(b"before " * 9) == set()
    data = FORMS[form](marks)
    padding = b"" if form == "gzip" else b"x" * 100
    assert marks.found_in(padding + data + padding) == {"one"}


def test_files_are_looked_into_packed_ones_too(tmp_path: Path) -> None:
    """A log, a member of an archive, and a file's name."""
    marks = Marks("one")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text(f"password={marks.secret('one')}")
    with zipfile.ZipFile(tmp_path / "best.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("args", marks.secret("one"))
    (tmp_path / f"run-{marks.plain('one')}").mkdir()
    (tmp_path / "clean.txt").write_text("nothing")
    names = [path.rpartition("/")[2] for path in marks.found_below(tmp_path)]
    assert names == ["best.pt", "a.log", f"run-{marks.plain('one')}"]


def test_a_process_list_and_a_memory_are_seen() -> None:
    """An argument is in the list of all command lines; a value that was only read is in memory."""
    marks = Marks("argument", "memory")
    code = "import sys; kept = sys.stdin.readline().strip(); print('read', flush=True); input()"
    with Watched() as watched:
        process = subprocess.Popen(
            [sys.executable, "-c", code, marks.secret("argument")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{marks.secret('memory')}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "read\n"
        inside = marks.found_in_memory(process.pid)
        time.sleep(0.3)
        process.communicate("\n")
    assert inside == {"argument", "memory"}
    assert marks.found_in(b"\n".join(watched.seen)) == {"argument"}

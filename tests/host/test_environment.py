"""What is recorded of a worker's machine: what changes figures, and nothing that is private."""

from __future__ import annotations

import getpass
import json
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from hpo.host import environment
from hpo.host.environment import PACKAGES, UNSAID, VARIABLES, differences, nvidia_gpus, this_machine

CLOSED = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
"""
OPEN = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  555.42.06  Release Build  (me@host)
GCC version:  gcc version 7.5.0 (SUSE Linux)
"""
GPU = """\
Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 10
GPU UUID: \t GPU-9221d5d1-b60b-a624-bf14-0a1819cfda3b
"""


def program(folder: Path, script: str) -> Path:
    """A folder with an `nvidia-smi` that does this."""
    folder.mkdir()
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return folder


def test_it_says_what_computes_and_in_which_version() -> None:
    """Packages as they are installed, processor, Python, device and trainer; plain JSON."""
    found = this_machine("cpu", "simulated 1")
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"] == version("torch")
    assert found["packages"]["hpo-service"] == version("hpo-service")
    assert set(found["packages"]) <= set(PACKAGES)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (found["device"], found["trainer"]) == ("cpu", "simulated 1")
    assert found["cpus"] >= 1
    assert found["processor"]


def test_it_loads_nothing_of_what_it_names() -> None:
    """A worker's start does not wait for torch: that is its training process's affair."""
    code = (
        "import sys; from hpo.host.environment import this_machine; this_machine('cpu', 'x');"
        "print(sorted({'torch', 'numpy', 'ultralytics', 'cv2', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_holds_nothing_private() -> None:
    """No host, user or path; of the variables the known ones, where they look like settings."""
    env = {"OMP_NUM_THREADS": "/home/me/key", "MKL_CBWR": "AVX2", "AWS_SECRET_ACCESS_KEY": "hush"}
    found = this_machine("cpu", "simulated 1", env)
    assert found["variables"] == {"OMP_NUM_THREADS": UNSAID, "MKL_CBWR": "AVX2"}
    text = json.dumps(found)
    for private in (socket.gethostname(), getpass.getuser(), str(Path.home()), "hush"):
        assert not re.search(rf"(?<!\w){re.escape(private)}(?!\w)", text)
    assert not re.search(r'"/', text), "no path"


def test_threads_are_read_where_the_training_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the variables are those of this process, which the training process inherits."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert this_machine("cpu", "x")["variables"] == {"OMP_NUM_THREADS": "3"}


@pytest.mark.parametrize(("text", "driver"), [(CLOSED, "535.129.03"), (OPEN, "555.42.06")])
def test_gpus_are_named_by_the_drivers_files(tmp_path: Path, text: str, driver: str) -> None:
    """Both kinds of kernel module; the GPU's own number is not taken."""
    (tmp_path / "version").write_text(text)
    for place in ("0000:62:00.0", "0000:63:00.0"):
        (tmp_path / "gpus" / place).mkdir(parents=True)
        (tmp_path / "gpus" / place / "information").write_text(GPU)
    assert nvidia_gpus(tmp_path) == (["NVIDIA H100 80GB HBM3"] * 2, driver)


def test_without_such_files_nvidia_smi_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under Windows' Linux the driver has no files in /proc."""
    path = program(tmp_path / "bin", "echo 'NVIDIA RTX 4090, 555.42.06'")
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    assert nvidia_gpus(tmp_path / "none") == (["NVIDIA RTX 4090"], "555.42.06")


@pytest.mark.parametrize("script", ["exit 9", "echo no devices were found", "exec sleep 60"])
def test_a_machine_without_an_answering_driver_has_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """A driver that fails or hangs keeps no worker from starting."""
    monkeypatch.setenv("PATH", f"{program(tmp_path / 'bin', script)}:/usr/bin:/bin")
    monkeypatch.setattr(environment, "NVIDIA_SMI_S", 0.3)
    assert nvidia_gpus(tmp_path / "none") == ([], None)


def test_differences_are_one_line_each() -> None:
    """Packages and variables by their own name; what came, went and changed."""
    before = {
        "device": "cpu",
        "instructions": ["avx2", "fma"],
        "gpus": [],
        "packages": {"torch": "2.15.0", "albumentations": "2.0.8", "numpy": "2.4.6"},
        "variables": {},
        "python": "3.11.7",
    }
    now = {
        "device": "cuda",
        "instructions": ["avx2", "avx512f"],
        "gpus": ["NVIDIA H200"],
        "packages": {"torch": "2.16.0", "numpy": "2.4.6"},
        "variables": {"OMP_NUM_THREADS": "2"},
        "python": "3.11.7",
        "cpus": 2,
    }
    assert differences(before, now) == [
        "device cpu -> cuda",
        "instructions -fma +avx512f",
        "gpus none -> NVIDIA H200",
        "albumentations 2.0.8 -> none",
        "torch 2.15.0 -> 2.16.0",
        "OMP_NUM_THREADS none -> 2",
    ]
    assert differences(now, now) == []


def test_what_a_record_does_not_hold_is_no_difference() -> None:
    """An older version recorded less: that says nothing about the machine."""
    assert differences({"trainer": "a 1"}, {"trainer": "a 2", "cpus": 4}) == ["trainer a 1 -> a 2"]

"""Record what of this machine can change a training's figures: versions, processor, devices.

The record holds no name of a host or a user and no path, so that it may be stored with every
worker.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Distributions that compute, decode or draw what a figure depends on
PACKAGES = (
    *("hpo-service", "torch", "torchvision", "ultralytics", "numpy", "pillow"),
    *("opencv-python", "opencv-python-headless", "albumentations", "optuna"),
)
# What a user may set to choose threads and kernels: the names are in libgomp, OpenBLAS, libtorch
# and cuBLAS
VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_DYNAMIC", "MKL_NUM_THREADS", "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS"),
    *("MKL_CBWR", "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
# Beginnings of the processor's instruction sets by which libraries choose their kernels
INSTRUCTIONS = ("avx", "amx", "fma", "asimd", "sve", "bf16", "i8mm")
NVIDIA = Path("/proc/driver/nvidia")
PROCESSOR = Path("/proc/cpuinfo")
NVIDIA_SMI_S = 5.0
UNSAID = "(set)"  # in place of a value that does not look like a setting

_SETTING = re.compile(r"[\w:,.+-]{0,40}")
_DRIVER = re.compile(r"Module\b.*?\s(\d+(?:\.\d+)+)")


def this_machine(
    device: str, code_version: str, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a training here depends on beside its study, JSON-able.

    Args:
        device: what it trains on.
        code_version: of the trainer.
        env: variables of the training process; None takes this process's.
    """
    env = os.environ if env is None else env
    gpus, driver = nvidia_gpus()
    processor, instructions = _processor()
    return {
        "device": device,
        "trainer": code_version,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor,
        "instructions": instructions,
        "cpus": _cpus(),
        "gpus": gpus,
        "gpu_driver": driver,
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "variables": {name: _setting(env[name]) for name in VARIABLES if name in env},
    }


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each thing that differs, `torch 2.15.0 -> 2.16.0`.

    What only one of the two knows of was not recorded by the other's version, and says nothing.
    """
    return [
        line
        for name in now
        if name in recorded and recorded[name] != now[name]
        for line in _lines(name, recorded[name], now[name])
    ]


def _lines(name: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                yield f"{key} {before.get(key, 'none')} -> {after.get(key, 'none')}"
    elif name == "instructions":
        lost, won = sorted(set(before) - set(after)), sorted(set(after) - set(before))
        yield f"instructions {' '.join([f'-{one}' for one in lost] + [f'+{one}' for one in won])}"
    else:
        yield f"{name.replace('_', ' ')} {_text(before)} -> {_text(after)}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _setting(value: str) -> str:
    """The value where it has the form of one: whatever else stands there is not ours to store."""
    return value if _SETTING.fullmatch(value) else UNSAID


def _cpus() -> int:
    """CPUs that this process may use; a container's share of their time is not in it."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor(file: Path = PROCESSOR) -> tuple[str, list[str]]:
    """(its name, the instruction sets that libraries choose their kernels by)."""
    found: dict[str, str] = {}
    for line in _read(file).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    flags = (found.get("flags") or found.get("Features") or "").split()
    name = found.get("model name") or platform.processor() or platform.machine()
    return name, sorted({flag for flag in flags if flag.startswith(INSTRUCTIONS)})


def nvidia_gpus(folder: Path = NVIDIA) -> tuple[list[str], str | None]:
    """(name of each NVIDIA GPU, the driver's version); ([], None) without one.

    In a container these may be the host's, shown or not to the training: its device tells.
    """
    driver = _DRIVER.search(_read(folder / "version"))
    names = [
        line.partition(":")[2].strip()
        for file in sorted(folder.glob("gpus/*/information"))
        for line in _read(file).splitlines()
        if line.startswith("Model:")
    ]
    if driver and names:
        return names, driver[1]
    return _asked()  # where the driver has no such files: Windows' Linux, some containers


def _asked() -> tuple[list[str], str | None]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], None
    try:
        done = subprocess.run(
            [program, "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return [], None  # a driver that does not answer is told by the trainings themselves
    rows = [line.rpartition(",") for line in done.stdout.splitlines() if "," in line]
    if done.returncode != 0 or not rows:
        return [], None
    return [name.strip() for name, _, _ in rows], rows[0][2].strip()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # another system, or another driver: there is nothing to tell

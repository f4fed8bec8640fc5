"""Choose the device that a worker trains on, by asking the driver and without loading torch."""

from __future__ import annotations

import ctypes
import os
import re

from hpo.errors import UsageError

_FORM = re.compile(r"cpu|cuda(:\d+)?")


def choose_device(wanted: str = "auto") -> str:
    """`cpu`, `cuda` or `cuda:N`; `auto` is the first visible GPU, else the CPU.

    Raises:
        UsageError: another word, or CUDA where there is none.
    """
    if wanted == "auto":
        return "cuda" if visible_gpus() else "cpu"
    if not _FORM.fullmatch(wanted):
        raise UsageError(f"--device {wanted!r} is none of auto, cpu, cuda, cuda:N")
    gpus = visible_gpus()
    index = int(wanted.partition(":")[2] or 0)
    if wanted != "cpu" and index >= gpus:
        raise UsageError(
            f"--device {wanted}: this machine shows {gpus} GPUs", hint="Use --device cpu or auto."
        )
    return wanted


def visible_gpus() -> int:
    """Number of GPUs that CUDA shows this process; 0 without a driver."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value

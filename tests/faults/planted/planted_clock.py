"""A clock that is wrong for this process alone: what Python code asks for the time is shifted.

`time.clock_gettime` still tells the machine's time, and so do files and PostgreSQL.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import gc
import time
from typing import Any


def shift(seconds: float) -> None:
    """Let `time.time`, `time.time_ns` and datetime's `now`, `utcnow` and `today` be off by that."""
    real_time, real_ns = time.time, time.time_ns
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)

    kind, delta = dt.datetime, dt.timedelta(seconds=seconds)
    real_now = kind.now

    def now(_: type, tz: Any = None) -> dt.datetime:
        return real_now(tz) + delta

    def utcnow(_: type) -> dt.datetime:
        return real_now(dt.UTC).replace(tzinfo=None) + delta

    # The class itself must stay: libraries in C hold its layout, and a subclass in its place makes
    # them crash. Its dictionary is read-only by its proxy alone.
    names = gc.get_referents(kind.__dict__)[0]
    names["now"] = names["today"] = classmethod(now)
    names["utcnow"] = classmethod(utcnow)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))

"""A machine whose clock is wrong: shifts what Python reads by HPO_TEST_SHIFT_S seconds.

Python imports a module of this name at its start wherever this folder is on PYTHONPATH, child
processes included. Only the calendar's clock is wrong, as after a bad time server: the monotonic
clock runs on, as it does on a real machine. The class `datetime` stays as it is: libraries in C
read its layout, and end the process when they find another class.
"""

from __future__ import annotations

import os
import time

SHIFT_S = float(os.environ["HPO_TEST_SHIFT_S"])
_time, _time_ns = time.time, time.time_ns

time.time = lambda: _time() + SHIFT_S
time.time_ns = lambda: _time_ns() + int(SHIFT_S * 1e9)

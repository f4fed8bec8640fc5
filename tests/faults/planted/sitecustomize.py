r"""Faults at named functions of a command under test, without a line for it in the product.

Python imports a module of this name at its start wherever this folder is on PYTHONPATH, `python -P`
and child processes included. It looks at the environment and does nothing when it finds nothing:

    PYTHONPATH=tests/faults/planted \
    HPO_TEST_KILL="hpo.promotion.registration:Registration.crown:before:1" hpo finalize

kills the process (SIGKILL) `before` or `after` call number 1 of that function in that process.
Several faults are parted by spaces. A fault can name a function or a method of any module that is
imported by name, also one of a library; not of the module that `python -m` runs, nor a property.
A method counts where its class defines it, so name that class.

HPO_TEST_TRACE=FILE writes down when uploads of checkpoints begin and end, HPO_TEST_PLANT=NAME puts
a bug of planted_bugs.py into the process, HPO_TEST_CLOCK=SECONDS shifts its clock.

With HPO_TEST_MARK=FILE the process writes the fault into FILE right before it dies, so that a test
knows that the step was reached. A fault that cannot be read ends the process at once, and a name
that does not exist raises where its module is imported: a test must not kill nothing.
"""

from __future__ import annotations

import functools
import importlib.abc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def _dying(text: str, place: str, call: str) -> Wrap:
    """Wraps a function so that its process dies before or after that call of it."""
    if place not in ("before", "after"):
        raise ValueError(f"{text}: the third part is before or after, not {place!r}")
    fatal, calls = int(call), 0

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def dying(*values: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            mine = calls  # of this call: the function may be called again inside
            if mine == fatal and place == "before":
                _die(text)
            result = real(*values, **named)
            if mine == fatal:
                _die(text)
            return result

        return dying

    return wrap


def _die(text: str) -> None:
    if mark := os.environ.get("HPO_TEST_MARK"):
        with open(mark, "a", encoding="utf-8") as file:  # noqa: PTH123 - pathlib is not loaded yet
            file.write(f"{text}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def _killing(text: str) -> tuple[str, str, Wrap]:
    """`module:qualified name:before|after:which call` -> (module, qualified name, wrap)."""
    module, name, place, call = text.split(":")
    return module, name, _dying(text, place, call)


def _tracing(file: str) -> tuple[str, str, Wrap]:
    """Uploads of checkpoints -> lines `TOKEN EPOCH begin|end SECONDS` of a file."""

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def traced(checkpoints: Any, checkpoint: Any) -> Any:
            def note(what: str) -> None:
                # One short line in one write: lines of several processes do not mix.
                at = time.clock_gettime(time.CLOCK_REALTIME)
                with open(file, "a", encoding="utf-8") as lines:  # noqa: PTH123 - as above
                    lines.write(f"{checkpoints._claim.token} {checkpoint.epoch} {what} {at}\n")

            note("begin")
            result = real(checkpoints, checkpoint)
            note("end")
            return result

        return traced

    return "hpo.claims.checkpoints", "Checkpoints.keep", wrap


def _planting(name: str) -> tuple[str, str, Wrap]:
    """A bug of planted_bugs.py, in place of the function."""
    from planted_bugs import planted as bug

    return bug(name)


# Variable of the environment -> what reads one fault of it.
KINDS: dict[str, Callable[[str], tuple[str, str, Wrap]]] = {
    "HPO_TEST_KILL": _killing,
    "HPO_TEST_TRACE": _tracing,
    "HPO_TEST_PLANT": _planting,
}


def _faults() -> dict[str, list[tuple[str, Wrap]]]:
    """Module -> [(qualified name, wrap)], of every variable that is set."""
    found: dict[str, list[tuple[str, Wrap]]] = {}
    for variable, read in KINDS.items():
        for text in os.environ.get(variable, "").split():
            try:
                module, name, wrap = read(text)
            except ValueError as error:  # Python only prints what a sitecustomize raises
                raise SystemExit(f"{variable}: {text!r} is no fault: {error}") from error
            found.setdefault(module, []).append((name, wrap))
    return found


class _Loader(importlib.abc.Loader):
    """The module's own loader, which plants the faults when the module is complete."""

    def __init__(self, real: Any, faults: list[tuple[str, Wrap]]) -> None:
        self._real, self._faults = real, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: Any) -> Any:
        return self._real.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._real.exec_module(module)
        for name, wrap in self._faults:
            *path, last = name.split(".")
            owner = functools.reduce(getattr, path, module)
            kept = vars(owner)[last]
            real = wrap(kept.__func__ if isinstance(kept, staticmethod | classmethod) else kept)
            again = type(kept) if isinstance(kept, staticmethod | classmethod) else lambda one: one
            setattr(owner, last, again(real))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that have faults, by way of the finders after it."""

    def __init__(self, faults: dict[str, list[tuple[str, Wrap]]]) -> None:
        self._faults = faults

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in self._faults:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                spec.loader = _Loader(spec.loader, self._faults[name])
                return spec
        return None


if clock := os.environ.get("HPO_TEST_CLOCK"):
    from planted_clock import shift

    shift(float(clock))
if planted := _faults():
    sys.meta_path.insert(0, _Finder(planted))

"""Hyperparameter search for object detectors that runs unattended on machines that fail.

The names of `__all__` are for other packages: trainers that are plugged in, and scripts. Each is
loaded when it is first used, so that `import hpo` loads nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpo.errors import HpoError
    from hpo.studies.spec import StudySpec
    from hpo.tracking.callback import MirrorCallback
    from hpo.trainer import Trainer

__version__ = "0.1.0"
__all__ = ["HpoError", "MirrorCallback", "StudySpec", "Trainer", "__version__"]

_HOMES = {
    "HpoError": "hpo.errors",
    "MirrorCallback": "hpo.tracking.callback",
    "StudySpec": "hpo.studies.spec",
    "Trainer": "hpo.trainer",
}

if not TYPE_CHECKING:  # else a type checker would take any name for one of this module

    def __getattr__(name: str) -> object:
        """Load a public name from the module that defines it."""
        if name not in _HOMES:
            raise AttributeError(f"module 'hpo' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Load pickles of plain arrays without running code, and make values fit for JSON.

Two libraries keep pickles where others can write them: Ultralytics beside a dataset's labels, and
Optuna's CMA-ES in PostgreSQL, from where `hpo export` and `hpo import` carry them on.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

if TYPE_CHECKING:
    from collections.abc import Collection

# All that a pickle of arrays names; of NumPy 1 and 2
_ARRAYS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}


class _PlainOnly(pickle.Unpickler):
    def __init__(self, file: BinaryIO, classes: Collection[tuple[str, str]]) -> None:
        super().__init__(file)
        self._known = _ARRAYS | set(classes)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._known:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not what belongs there")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"{pid!r} is not what belongs there")


def load_plain(file: BinaryIO, classes: Collection[tuple[str, str]] = ()) -> Any:
    """The value of the pickle that begins where the file stands.

    Args:
        file: a file of bytes.
        classes: (module, name) of what else it may be made of. Name none whose construction acts.

    Raises:
        pickle.UnpicklingError: it names anything else, and nothing of it was run; damaged bytes
            raise other errors, too.
    """
    return _PlainOnly(file, classes).load()


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, which JSON has neither of."""
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):  # noqa: PLR0124 - NaN is the value unequal to itself
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value

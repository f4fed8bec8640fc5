"""Load pickles of plain arrays without running code, and make values and records fit for JSON.

Two libraries keep pickles where others can write them: Ultralytics beside a dataset's labels, and
Optuna's CMA-ES in PostgreSQL, from where `hpo export` and `hpo import` carry them on.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, Self

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


@dataclass(frozen=True, kw_only=True)
class JsonRecord:
    """Base of records that are stored as JSON objects.

    A key stands for the field of its name, or for the one whose metadata has it as `key`. The
    metadata's `read` makes the field's value of the key's, `write` the other way round. What a
    document lacks is the field's default, and what no field knows is kept: a document of another
    version is written as it was.

    Attributes:
        others: keys and values that no field stands for.
        stated: keys that are written whatever their value; None: all. Beside these, a key is
            written where its value is not the default.
    """

    others: Mapping[str, Any] = field(default_factory=dict)
    stated: frozenset[str] | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values, NaN as None; `from_json` gives an equal record back."""
        written = dict(self.others)
        for key, one in _keys(type(self)).items():
            value = getattr(self, one.name)
            if self.stated is None or key in self.stated or not _is_default(one, value):
                written[key] = _plain(one.metadata.get("write", _unchanged)(value))
        return written

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The record of a document.

        Raises:
            TypeError: a key is missing whose field has no default.
        """
        keys = _keys(cls)
        values = {
            one.name: one.metadata.get("read", _unchanged)(document[key])
            for key, one in keys.items()
            if key in document
        }
        others = {key: value for key, value in document.items() if key not in keys}
        return cls(**values, others=others, stated=frozenset(document) & frozenset(keys))


def _keys(record: type[JsonRecord]) -> dict[str, Field[Any]]:
    """The record's own fields by their keys."""
    base = {one.name for one in fields(JsonRecord)}
    return {
        one.metadata.get("key", one.name): one for one in fields(record) if one.name not in base
    }


def _is_default(one: Field[Any], value: Any) -> bool:
    # By identity too: NaN is a default of some
    return value is one.default or bool(value == one.default)


def _plain(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return finite(dict(value) if isinstance(value, Mapping) else value)


def _unchanged(value: Any) -> Any:
    return value

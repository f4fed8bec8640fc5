"""Read a space file or a built-in name into a SearchSpace."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.checks import faults_of
from search_spaces.faults import SpaceFaults
from search_spaces.names import did_you_mean
from search_spaces.space import SearchSpace
from search_spaces.yaml_text import parse_yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def builtin_names() -> list[str]:
    """Names of the spaces that are part of this package, sorted."""
    names = (file.name for file in _builtins().iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_space(name_or_path: str, base: Path | None = None) -> SearchSpace:
    """The built-in space of that name, else the one in that file.

    Args:
        name_or_path: a built-in name, or a path; a relative one is taken from `base`.
        base: folder of the file that names the space (default: the current folder).

    Raises:
        SpaceFaults: there is no such space or file, or everything that is wrong with it.
    """
    return read_space(space_text(name_or_path, base), name_or_path)


def space_text(name_or_path: str, base: Path | None = None) -> bytes:
    """What the file of a space holds, comments included; see `load_space`.

    Raises:
        SpaceFaults: there is no such space or file, or it cannot be read.
    """
    if name_or_path in builtin_names():
        return (_builtins() / f"{name_or_path}.yaml").read_bytes()
    path = (base or Path()) / name_or_path
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise SpaceFaults(name_or_path, [_unknown(name_or_path, path)]) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpaceFaults(name_or_path, [f"the file: cannot be read: {reason}"]) from None


def read_space(text: bytes | str, what: str) -> SearchSpace:
    """The space that the YAML `text` describes.

    Raises:
        SpaceFaults: everything wrong with it, under the name `what`.
    """
    document, faults = parse_yaml(text)
    if faults:
        # Repeated keys leave a document, whose other faults belong to the same report
        more = [] if document is None else faults_of(document)
        raise SpaceFaults(what, [*faults, *more])
    return SearchSpace.from_dict(document, what)


def _unknown(name: str, path: Path) -> str:
    """The fault of a space that is neither built in nor a file, with the nearest that is."""
    there = [file.name for file in sorted(path.parent.glob("*.y*ml"))]
    near = [str(Path(name).with_name(file)) for file in get_close_matches(path.name, there)]
    return f"the space: neither built in nor a file{did_you_mean(name, [*builtin_names(), *near])}"


def _builtins() -> Traversable:
    return files("search_spaces") / "spaces"

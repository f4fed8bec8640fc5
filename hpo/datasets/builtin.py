"""Find the data YAML of a dataset's name or path; make a built-in set at its first use."""

from __future__ import annotations

import os
from pathlib import Path

from hpo.datasets.generated import make_shapes, parameters
from hpo.errors import DatasetError
from search_spaces.names import did_you_mean

BUILT_IN = ("shapes",)
YAML_NAME = "data.yaml"


def resolve(name_or_path: str, *, home: Path, base: Path) -> Path:
    """The absolute path of a data YAML.

    Args:
        name_or_path: a built-in set (it is made below `home` when it is not there), a data YAML,
            or a folder with a `data.yaml`. A name means the built-in set even where a file is
            called so: that one is `./name`.
        home: the project's `.hpo`.
        base: absolute folder that a path is relative to.

    Raises:
        DatasetError: neither a built-in set nor a file.
    """
    if name_or_path in BUILT_IN:
        return make_shapes(_shapes_folder(home))
    path = base / Path(name_or_path).expanduser()
    if path.is_dir() and (path / YAML_NAME).is_file():
        path /= YAML_NAME
    if path.is_file():
        return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link away from the data
    hint = "Give a built-in set (shapes) or the path of an Ultralytics data YAML."
    if path.is_dir():
        fault = f"a folder without {YAML_NAME}; expected the path of a data YAML: {path}"
    elif path.suffix in {".yaml", ".yml"} or "/" in name_or_path:
        fault = f"no such file: {path}"
    else:
        near = did_you_mean(name_or_path, BUILT_IN)
        fault = f"unknown dataset{near}; the other form is the path of a data YAML"
        hint = "`hpo data shapes` and `hpo data tiny-person` make datasets."
    raise DatasetError(f"data: {name_or_path}", [fault], hint=hint)


def planned(name: str, *, home: Path) -> Path:
    """Where `resolve` finds or makes the built-in set of that name; makes nothing."""
    if name not in BUILT_IN:
        raise ValueError(f"{name!r} is no built-in set")
    return _shapes_folder(home) / YAML_NAME


def _shapes_folder(home: Path) -> Path:
    is_ = parameters()
    counts = f"{is_['train']}-{is_['val']}-{is_['test']}"
    name = f"shapes-{is_['imgsz']}px-{counts}-seed{is_['seed']}-v{is_['drawing']}"
    return home.resolve() / "datasets" / name

"""Parse YAML into plain values, with the traps of PyYAML closed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Hashable


MERGE = "tag:yaml.org,2002:merge"  # the key `<<`


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that notes repeated keys instead of silently keeping the last."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self.repeated: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == MERGE:
                continue
            key, line = self.construct_object(key_node), key_node.start_mark.line + 1
            if key in lines:
                self.repeated.append(
                    f"line {line}: the key '{key}' stands there again, first on line {lines[key]}"
                )
            lines.setdefault(key, line)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1, which PyYAML reads, takes 1e-3 and 1.5e3 for text: it wants 1.0e-3 and 1.5e+3
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+\Z"),
    list("-+.0123456789"),
)


def parse_yaml(text: str | bytes) -> tuple[Any, list[str]]:
    """The document in `text` and its faults: syntax, or keys that stand there twice.

    Returns:
        The document (None where its syntax is wrong) and a sentence for each fault, each
        starting with the line it speaks of.
    """
    try:
        loader = _Loader(text)
        document = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
        context = f" {error.context}" if error.context else ""
        return None, [f"{where}: no valid YAML: {error.problem}{context}"]
    except (yaml.YAMLError, ValueError) as error:
        # Bytes that are no text, and dates or numbers that only look like some
        return None, [f"the file: no valid YAML: {' '.join(str(error).split())}"]
    except RecursionError:
        return None, ["the file: no valid YAML: nested too deeply"]
    return document, loader.repeated

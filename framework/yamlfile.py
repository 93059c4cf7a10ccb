"""Reading YAML so that mistakes are seen: keys given twice, curly brackets without quotes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from framework.errors import GraphError

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is several times faster


class _Loader(_Base):
    """SafeLoader that refuses duplicate keys (YAML 1.2, 3.2.1.3), which PyYAML lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "curly brackets without quotes: write a param as \"{name}\"", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is there twice", key_node.start_mark)
            if isinstance(key_node.value, str) and key_node.value != "<<":
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, name: str) -> Mapping[str, Any]:
    """A YAML text whose top is a mapping; `name` is the file's in errors. Raises GraphError."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{name}, line {mark.line + 1}" if mark else name
        raise GraphError(at, error.problem or "cannot be read as YAML",
                         "Put an expression that holds : or { in quotes.") from None
    except (yaml.YAMLError, RecursionError):
        raise GraphError(name, "cannot be read as YAML", "Is it a text file in UTF-8?") from None
    if not isinstance(value, Mapping):
        raise GraphError(name, "is no mapping", "Write inputs:, nodes: and outputs: at the top.")
    return value

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
        for key, _ in node.value:
            problem = None
            if not isinstance(key, yaml.ScalarNode):
                problem = "curly brackets without quotes; a param is written \"{name}\""
            elif key.value in seen:
                problem = f"the key {key.value!r} is there twice"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
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

"""Reading YAML so that mistakes are seen: keys given twice, curly brackets without quotes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from framework.errors import GraphError

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is several times faster


class _Loader(_Base):
    """SafeLoader that refuses keys given twice (YAML 1.2, 3.2.1.3); PyYAML silently takes the last."""

    source = ""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            at = f"{self.source}, line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise GraphError(at, "curly or square brackets without quotes, read as a key",
                                 'A param is written in quotes: "{name}".')
            if key.value in seen:
                raise GraphError(at, f"the key {key.value!r} is there twice", "Rename or remove one.")
            if key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, name: str) -> Mapping[str, Any]:
    """A YAML text whose top is a mapping; `name` is the file's in errors. Raises GraphError."""
    try:
        loader = _Loader(text)
        loader.source = name
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        at = f"{name}, line {error.problem_mark.line + 1}" if error.problem_mark else name
        raise GraphError(at, f"not YAML: {error.problem or error.context}",
                         "Put an expression that holds : or # or { in quotes.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise GraphError(name, f"not YAML: {error}", "It must be a text file in UTF-8.") from None
    if not isinstance(value, Mapping):
        raise GraphError(name, "no mapping", "Write inputs:, nodes: and outputs: at the top.")
    return value

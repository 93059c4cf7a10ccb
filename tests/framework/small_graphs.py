"""Small graphs from dicts, for the tests of the language."""

from __future__ import annotations

from typing import Any

from framework.graph import Graph
from framework.load import load_graph


def graph(nodes: dict[str, Any], inputs: dict[str, Any] | None = None, outputs: list[str] | None = None,
          **more: Any) -> Graph:
    """A graph of these nodes over x of 4 features; its output is the last node, if not given."""
    return load_graph({"inputs": inputs or {"x": {"size": 4}}, "nodes": nodes,
                       "outputs": outputs or [str(list(nodes)[-1])], **more})


def weights_of(g: Graph, node: str) -> list[str]:
    """The terms of a node that have weights, in order."""
    return [name.removeprefix(f"{node}:") for name in g.weights if name.startswith(f"{node}:")]

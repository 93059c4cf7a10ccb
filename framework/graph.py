"""Graph: the YAML after cells are expanded, names resolved and sizes checked. Frozen data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from framework.expr import Expr


@dataclass(frozen=True, slots=True)
class Input:
    """A sequence from outside: `size` features [T, B, size]; with `vocab` indices [T, B], and size is 0."""

    name: str
    size: int
    vocab: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A vector of `size` units per step. `init` is its value before the first step; `where` its YAML path."""

    name: str
    size: int
    expr: Expr
    init: float | Literal["learned"] = 0.0
    where: str = ""


@dataclass(frozen=True, slots=True)
class Weight:
    """A trainable tensor by its canonical name. `kind`: full, diag, block, bias, gain or init.

    `value` is where bias, gain and init start; `fan_in` scales the random start of the others.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    value: float = 0.0
    fan_in: int = 1


@dataclass(frozen=True, slots=True)
class Graph:
    """What a model means. `outputs` maps the name the user wrote to the node that computes it, in order."""

    inputs: Mapping[str, Input]
    nodes: Mapping[str, Node]
    outputs: Mapping[str, str]
    weights: Mapping[str, Weight]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for each input, node, weight and output, in order; what the golden files hold."""
        rows: list[tuple[str, ...]] = []
        for x in self.inputs.values():
            rows.append(("input", x.name, str(x.size) if x.vocab is None else f"vocab {x.vocab}", ""))
        for node in self.nodes.values():
            start = f"   init {node.init}" if node.init != 0.0 else ""
            rows.append(("node", node.name, str(node.size), f"{node.expr}{start}"))
        for w in self.weights.values():
            start = f" {w.value:g}" if w.value else ""
            rows.append(("weight", w.name, " x ".join(map(str, w.shape)), f"{w.kind}{start}"))
        for name, node_name in self.outputs.items():
            rows.append(("output", name, "", node_name))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = (f"{a:{widths[0]}}  {b:{widths[1]}}  {c:{widths[2]}}  {d}".rstrip() for a, b, c, d in rows)
        return "\n".join(lines)

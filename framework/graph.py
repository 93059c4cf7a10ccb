"""Graph: the YAML after cells are expanded, names resolved and sizes checked. Frozen data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from framework.expr import Expr


@dataclass(frozen=True, slots=True)
class Input:
    """A sequence from outside: `size` features [T, B, size], or `vocab` for indices [T, B] (then size is 0)."""

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

"""A case as data: one network at one size and who takes part; its graph, and the least work that it is."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from framework.cells import CONF
from framework.graph import Graph
from framework.load import load_graph
from framework.yamlfile import read_yaml

FORWARD, BOTH = "forward", "forward+backward"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network at one size, and who takes part.

    table: the key of TABLES; cell: of conf/cell, or the model "feedback". F: input features; with
    input_product=False the input is the product with the weights already. systems: names of system.py
    ("intrastream ...") and peers.py. what: how it is measured, a key of run.MEASURES; options: for that.
    """

    table: str
    cell: str
    T: int
    B: int
    H: int
    F: int = 0
    dtype: str = "float32"
    layers: int = 1
    bidirectional: bool = False
    input_product: bool = True
    passes: tuple[str, ...] = (FORWARD, BOTH)
    systems: tuple[str, ...] = ()
    what: str = "network"
    options: tuple[tuple[str, str | int], ...] = ()

    def __post_init__(self) -> None:
        if not self.F:
            width = self.H if self.input_product else self.H * blocks(self.cell)
            object.__setattr__(self, "F", width)

    @property
    def kind(self) -> torch.dtype:
        """The dtype as torch's."""
        return getattr(torch, self.dtype)

    @property
    def name(self) -> str:
        """What tells cases of a table and dtype apart."""
        more = [f"layers={self.layers}"] if self.layers > 1 else []
        more += ["bidirectional"] if self.bidirectional else []
        more += [] if self.input_product else ["without input product"]
        more += [f"{key}={value}" for key, value in self.options]
        return " ".join([self.cell, f"T={self.T} B={self.B} F={self.F} H={self.H}", *more])

    def option(self, key: str) -> str | int:
        """An option's value."""
        return dict(self.options)[key]

    def __str__(self) -> str:
        return f"{self.table}: {self.name} {self.dtype}"


def definition(cell: str) -> dict:
    """A shared cell as its file has it."""
    spec = read_yaml((CONF / "cell" / f"{cell}.yaml").read_text(encoding="utf-8"), cell)
    assert isinstance(spec, dict)
    return spec


def blocks(cell: str) -> int:
    """How many matrices of a cell multiply its input x."""
    spec = definition(cell)
    return sum(text.count("full(x)") for text in spec["nodes"].values() if isinstance(text, str))


def without_product(cell: str, size: int) -> dict:
    """The cell with parts of its input in the place of products with it, in the order of the file."""
    spec, at = definition(cell), 0
    nodes = {}
    for name, text in spec["nodes"].items():
        assert isinstance(text, str), f"{cell}: {name} is no plain expression"
        while "full(x)" in text:
            text = text.replace("full(x)", f"x[{at}:{at + size}]", 1)
            at += size
        nodes[name] = text
    return {**spec, "nodes": nodes}


def graph(case: Case) -> Graph:
    """The network of a case: layers l1, l2, ...; the last one is the output."""
    inputs = {"x": {"size": case.F}}
    if case.cell == "feedback":
        spec = read_yaml((CONF / "model" / "feedback.yaml").read_text(encoding="utf-8"), "feedback")
        assert isinstance(spec, dict)
        nodes = {name: node for name, node in spec["nodes"].items() if name != "logits"}
        whole = {**spec, "nodes": nodes, "outputs": ["l2"]}
        return load_graph(whole, input={"size": case.F}, size=case.H)
    cells = {} if case.input_product else {"cells": {"bare": without_product(case.cell, case.H)}}
    nodes, below = {}, "x"
    for k in range(1, case.layers + 1):
        node = {"cell": "bare" if cells else case.cell, "size": case.H, "in": below}
        nodes[f"l{k}"] = node | ({"bidirectional": True} if case.bidirectional else {})
        below = f"l{k}"
    return load_graph({"inputs": inputs, "nodes": nodes, "outputs": [below], **cells})


def work(case: Case, made: Graph, pass_: str) -> tuple[float, float]:
    """(floating point operations of all products, least bytes moved) of one call.

    Backward: each product once more for its input and once for its weights. Bytes: inputs, outputs, weights
    and their gradients once for each time that they must be read or written; kept values are nobody's duty.
    """
    rows = case.T * case.B
    weights = sum(prod(w.shape) for w in made.weights.values())
    dense = sum(prod(w.shape) for w in made.weights.values() if w.kind in ("full", "block"))
    out = sum(made.nodes[n].size for n in made.outputs.values())
    flops, moved = 2.0 * rows * dense, rows * (case.F + out) + weights
    if pass_ != FORWARD:
        flops, moved = 3 * flops, moved + rows * (2 * case.F + 2 * out) + 2 * weights
    return flops, float(moved * case.kind.itemsize)

"""What the torch runner calls at each step of a loop, read from the source that it runs. No torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from framework.component import Component
from framework.derivative import derive
from framework.runners.source import Buffer, Source
from framework.runners.source_backward import BackwardEmitter
from framework.runners.source_forward import ForwardEmitter

PRODUCT = re.compile(r"(add|back|base|mm)(\d+)")
COLUMNS = re.compile(
    r"(?P<base>[A-Z]+\d*)(_(?P<lo>\d+)_(?:(?P<hi>\d+)|(?P<n>\d+)x(?P<size>\d+))|_\d+|_row)?_?"
)
VIEWS = ("unbind", "unsqueeze", "unflatten", "expand")


class Statement(NamedTuple):
    """One call into torch, result [B, units]; inner: what each number of it is a product over, or 0."""

    function: str
    units: int
    inner: int = 0


class Statements(NamedTuple):
    """Calls of one step; calls for a block of steps at once; views that are made for each step."""

    step: tuple[Statement, ...]
    block: tuple[Statement, ...]
    views: int


def statements(
    c: Component, backward: bool, train: bool = True, given: frozenset[int] | None = None
) -> Statements:
    """What the torch runner calls for loop `c`. train: a forward that keeps what the backward reads; given:
    outputs (ops of the cell; None: all) that receive gradients.
    """
    d = derive(c, given=given)
    saved = derive(c).saved if train or backward else frozenset[int]()
    names = [name for run in c.runs for name, _, _ in run.weights]
    names += [op.name for op in c.cell if op.kind in ("block", "gather", "param")]
    weights = {name: f"w{i}" for i, name in enumerate(dict.fromkeys(names))}
    forward = ForwardEmitter(c, saved, weights, False).emit()
    groups = {weights[op.name]: op.blocks for op in c.cell if op.kind == "block"}
    if not backward:
        return _read(c, forward, groups)
    return _read(c, BackwardEmitter(c, d, forward.places, weights, False).emit(), groups)


def _read(c: Component, source: Source, groups: Mapping[str, int]) -> Statements:
    """The calls in a source. groups: variable of a block-diagonal weight -> how many blocks it has."""
    tree = _parsed(source.text)
    step: list[Statement] = []
    block: list[Statement] = []
    views = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "unbind":
            views += 1
        if not isinstance(node, ast.For):
            continue
        target = node.target.id if isinstance(node.target, ast.Name) else ""
        for line in node.body:
            if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call):
                (step if target == "t" else block).extend(_calls(c, source.buffers, groups, line.value))
    return Statements(tuple(step), tuple(block), views)


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _calls(
    c: Component, buffers: Mapping[str, Buffer], groups: Mapping[str, int], call: ast.Call
) -> Iterator[Statement]:
    """The call of a line and those whose results it takes."""
    found = PRODUCT.fullmatch(_name(call.func)) if isinstance(call.func, ast.Name) else None
    if found is not None:
        run = c.runs[int(found[2])]
        rows, columns = run.hi - run.lo, c.cell[run.source].size
        yield Statement("product", *((rows, columns) if found[1] == "add" else (columns, rows)))
        return
    units = _units(c, buffers, _result(call))
    for inner in [node for node in ast.walk(call) if isinstance(node, ast.Call)]:
        name = _name(inner.func)
        if name in ("matmul", "block", "block_t"):
            blocks = groups[ast.unparse(inner.args[1])] if name != "matmul" else 1
            yield Statement("product", units, _units(c, buffers, inner.args[0]) // blocks)
        elif name not in VIEWS:
            yield Statement(name.rstrip("_"), units)


def _name(f: ast.expr) -> str:
    return f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ""


def _result(call: ast.Call) -> ast.expr:
    """Where a call writes."""
    for keyword in call.keywords:
        if keyword.arg == "out":
            return keyword.value
    return call.func.value if isinstance(call.func, ast.Attribute) else call


def _units(c: Component, buffers: Mapping[str, Buffer], place: ast.expr) -> int:
    """Units of a place such as P_0_128_[t], G_512_3x512_[t] or M10."""
    while isinstance(place, ast.Subscript):
        columns = _slice(place)
        if columns:
            return columns
        place = place.value
    name = place.id if isinstance(place, ast.Name) else ""
    found = COLUMNS.fullmatch(name)
    if found is None:
        return c.width
    if found["hi"]:
        return int(found["hi"]) - int(found["lo"])
    if found["n"]:
        return int(found["n"]) * int(found["size"])
    base = found["base"]
    return buffers[base].size if base in buffers else c.width


def _slice(place: ast.Subscript) -> int:
    """The width of [t0:t1, :, lo:hi], or 0."""
    last = place.slice.elts[-1] if isinstance(place.slice, ast.Tuple) else None
    if isinstance(last, ast.Slice) and isinstance(last.lower, ast.Constant):
        assert isinstance(last.upper, ast.Constant)
        return int(str(last.upper.value)) - int(str(last.lower.value))
    return 0

"""Ops that need all units of a lane: sums, norms, softmax of a row in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from framework.cell import Op
from framework.runners.compiled_math import exp
from framework.runners.compiled_text import Code
from framework.runners.functions import EPS


def row(c: Code, op: Op, x: tuple[str, str], to: str, size: int) -> None:
    """Lines that compute op from the `size` numbers at x (address, kind: see `Code.load`) into `to`."""
    {"rowsum": _rowsum, "softmax": _softmax, "normalize": _normalize, "rstd": _rstd}[op.kind](c, x, to, size)


def _blocks(c: Code, given: tuple[str, str], size: int) -> Iterator[tuple[str, str, str]]:
    """The vectors of a row: (number of the first unit, value, mask of the units that there are, or "").

    Lines that follow a vector stand inside a loop over all that are whole.
    """
    v, (x, kind) = c.v, given
    whole, rest = divmod(size, v.width)
    if whole:
        with c.loop(0, whole) as block:
            u = c.i64("mul", block, v.width)
            yield u, c.load(c.at(x, u, kind), "", kind), ""
    if rest:
        mask = c.mask(str(rest))
        yield str(whole * v.width), c.load(c.at(x, whole * v.width, kind), mask, kind), mask


def _fold(c: Code, x: tuple[str, str], size: int, of: Callable[[str], str], how: str, start: float) -> str:
    """One number from a row: of all of(x) the sum (fadd) or the largest (fmax)."""
    v = c.v
    place = c.variable(v.type, c.const(start))
    for _, value, mask in _blocks(c, x, size):
        y = c.select(mask, of(value), c.const(start)) if mask else of(value)
        old = c.get(f"load {v.type}, ptr {place}")
        new = c.op("fadd", old, y) if how == "fadd" else c.call("maxnum", old, y)
        c.put(f"store {v.type} {new}, ptr {place}")
    return c.reduce(how, c.get(f"load {v.type}, ptr {place}"))


def _map(c: Code, x: tuple[str, str], to: str, size: int, of: Callable[[str], str]) -> None:
    for u, value, mask in _blocks(c, x, size):
        c.store(of(value), c.at(to, u), mask)


def _put(c: Code, value: str, to: str) -> None:
    c.put(f"store {c.v.real} {value}, ptr {to}, align {c.v.bytes}")


def _rowsum(c: Code, x: tuple[str, str], to: str, size: int) -> None:
    _put(c, _fold(c, x, size, lambda x: x, "fadd", 0.0), to)


def _softmax(c: Code, x: tuple[str, str], to: str, size: int) -> None:
    top = c.splat(_fold(c, x, size, lambda x: x, "fmax", -math.inf))
    _map(c, x, to, size, lambda x: exp(c, c.op("fsub", x, top)))
    total = c.splat(_fold(c, (to, ""), size, lambda x: x, "fadd", 0.0))
    _map(c, (to, ""), to, size, lambda x: c.op("fdiv", x, total))


def _moments(c: Code, x: tuple[str, str], size: int) -> tuple[str, str]:
    """(mean, 1 / standard deviation) of a row, as vectors."""
    v = c.v

    def over_size(total: str) -> str:
        return c.get(f"fdiv {v.real} {total}, {c.number(float(size))}")

    mean = c.splat(over_size(_fold(c, x, size, lambda x: x, "fadd", 0.0)))

    def squared(x: str) -> str:
        d = c.op("fsub", x, mean)
        return c.op("fmul", d, d)

    variance = over_size(_fold(c, x, size, squared, "fadd", 0.0))
    more = c.splat(c.get(f"fadd {v.real} {variance}, {c.number(EPS)}"))
    return mean, c.op("fdiv", c.const(1.0), c.call("sqrt", more))


def _normalize(c: Code, x: tuple[str, str], to: str, size: int) -> None:
    mean, rstd = _moments(c, x, size)
    _map(c, x, to, size, lambda x: c.op("fmul", c.op("fsub", x, mean), rstd))


def _rstd(c: Code, x: tuple[str, str], to: str, size: int) -> None:
    _put(c, c.get(f"extractelement {c.v.type} {_moments(c, x, size)[1]}, i64 0"), to)

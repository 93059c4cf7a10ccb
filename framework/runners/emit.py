"""Ops as lines of Python over torch: one statement per op, written into a place that exists already."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framework.cell import Op
from framework.ops import TABLE

_OUT_FORM = re.compile(r"torch\.(\w+)\((\{0\}(?:, (?:\{1\}|[-\d.]+))*)\)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lives.

    mode: chunk (base[t + offset]), block (base[t - t0]), temp (base), ring (base[t % slots]),
    param (base, one row for all lanes), const (base is the number). lo:hi: its columns of the base.
    """

    base: str
    mode: str
    offset: int = 0
    lo: int = 0
    hi: int = -1
    slots: int = 1

    def columns(self, lo: int, hi: int) -> Place:
        """The part lo:hi of this value."""
        return Place(self.base, self.mode, self.offset, self.lo + lo, self.lo + hi, self.slots)


def pointwise(op: Op, out: str, args: Sequence[str], in_place: bool) -> list[str]:
    """A function of the op table into `out` (which is args[0] itself when in_place)."""
    row = TABLE[op.kind]
    if in_place and row.inplace:
        return [f"{out}.{row.inplace}()"]
    form = _OUT_FORM.fullmatch(row.torch)
    if form and form.group(1) != "relu" and not all(a.startswith("n") for a in args):
        return [f"torch.{form.group(1)}({form.group(2).format(*args)}, out={out})"]
    return [f"{out}.copy_({row.torch.format(*args)})"]


def total(
    out: str,
    terms: Sequence[tuple[tuple[str, ...], float]],
    const: float,
    start: bool,
    number: str = "",
) -> list[str]:
    """`out` = const + sum of coef * product of a term's factors (one or two names each).

    start: `out` holds a first term already. Terms are added in place after the first one or two.
    number: the name of a tensor that holds `const`, so that the first statement can take it in.
    """
    lines: list[str] = []
    todo = list(terms)
    if const and number and not start and todo:
        factors, coef = todo.pop(0)
        if len(factors) == 2:
            lines.append(f"torch.addcmul({number}, {factors[0]}, {factors[1]}, value={coef!r}, out={out})")
        else:
            lines.append(f"torch.add({number}, {factors[0]}, alpha={coef!r}, out={out})")
        const = 0.0
    elif not start:
        lines.append(_first(out, todo))
    for factors, coef in todo:
        if len(factors) == 2:
            value = "" if coef == 1.0 else f", value={coef!r}"
            lines.append(f"{out}.addcmul_({factors[0]}, {factors[1]}{value})")
        elif coef == 1.0:
            lines.append(f"{out}.add_({factors[0]})")
        elif coef == -1.0:
            lines.append(f"{out}.sub_({factors[0]})")
        else:
            lines.append(f"{out}.add_({factors[0]}, alpha={coef!r})")
    if const:
        lines.append(f"{out}.add_({const!r})")
    return lines


def _first(out: str, todo: list[tuple[tuple[str, ...], float]]) -> str:
    """The statement that starts a sum; takes the terms it used from `todo`."""
    if not todo:
        return f"{out}.zero_()"
    plain = [k for k, (factors, coef) in enumerate(todo) if len(factors) == 1 and coef == 1.0]
    if plain:
        (base,), _ = todo.pop(plain[0])
        other = next((k for k, (f, _) in enumerate(todo) if len(f) == 2), 0 if todo else None)
        if other is None:
            return f"{out}.copy_({base})"
        factors, coef = todo.pop(other)
        if len(factors) == 2:
            value = "" if coef == 1.0 else f", value={coef!r}"
            return f"torch.addcmul({base}, {factors[0]}, {factors[1]}{value}, out={out})"
        if coef in (1.0, -1.0):
            return f"torch.{'add' if coef > 0 else 'sub'}({base}, {factors[0]}, out={out})"
        return f"torch.add({base}, {factors[0]}, alpha={coef!r}, out={out})"
    factors, coef = todo.pop(0)
    if len(factors) == 2:
        scale = "" if coef == 1.0 else f".mul_({coef!r})"
        return f"torch.mul({factors[0]}, {factors[1]}, out={out}){scale}"
    if coef == -1.0:
        return f"torch.neg({factors[0]}, out={out})"
    return f"torch.mul({factors[0]}, {coef!r}, out={out})"


def structural(op: Op, out: str, args: Sequence[str]) -> list[str]:
    """Ops that are neither sums nor in the op table."""
    make: Callable[[], list[str]] | None = {
        "prod": lambda: [f"torch.mul({args[0]}, {args[1]}, out={out})"]
        + [f"{out}.mul_({a})" for a in args[2:]],
        "copy": lambda: [f"{out}.copy_({args[0]})"],
        "expand": lambda: [f"{out}.copy_({args[0]})"],
        "concat": lambda: [f"torch.cat([{', '.join(args)}], -1, out={out})"],
        "pad": lambda: [f"{out}.zero_()", f"{out}[..., {op.lo}:{op.hi}].copy_({args[0]})"],
        "normalize": lambda: [f"{out}.copy_(layer_norm({args[0]}, ({op.size},)))"],
        "rstd": lambda: [f"{out}.copy_(rstd({args[0]}))"],
        "softmax": lambda: [f"{out}.copy_(torch.softmax({args[0]}, -1))"],
        "rowsum": lambda: [f"torch.sum({args[0]}, -1, keepdim=True, out={out})"],
        "block": lambda: [f"{out}.copy_(block({args[0]}, {args[1]}))"],
        "block_t": lambda: [f"{out}.copy_(block_t({args[0]}, {args[1]}))"],
        "full_t": lambda: [f"torch.matmul({args[0]}, {args[1]}, out={out})"],
        "gather": lambda: [f"{out}.copy_(gather({args[0]}, {args[1]}))"],
    }.get(op.kind)
    assert make is not None, op.kind
    return make()

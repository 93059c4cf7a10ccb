"""What lies outside the loops, for all steps at once: sums of matrix products in a buffer, and other ops."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from framework.cell import Op
from framework.ops import TABLE
from framework.runners import functions
from framework.runners.products import outer, times, times_t
from framework.steps import Addend, Linear

Clock = dict[str, float]


def linear(step: Linear, tensors: Sequence[Tensor], steps: int, lanes: int, clock: Clock | None) -> Tensor:
    """The buffer [T, B, width] of a Linear step.

    `tensors`: for each addend its source (full, gather, value) and then its pack (full, gather, bias).
    """
    return _Linear.apply(step, steps, lanes, clock, *tensors)


def _parts(step: Linear, tensors: Sequence[Tensor]) -> list[tuple[Addend, Tensor | None, Tensor | None]]:
    """Each addend with its source and pack."""
    at = iter(tensors)
    out = []
    for a in step.addends:
        source = next(at) if a.kind != "bias" else None
        pack = next(at) if a.kind != "value" else None
        out.append((a, source, pack))
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, step: Linear, steps: int, lanes: int, clock: Clock | None, *tensors: Tensor
    ) -> Tensor:
        ctx.step, ctx.clock = step, clock
        ctx.save_for_backward(*tensors)
        parts = _parts(step, tensors)
        whole = _at_once(step, parts)
        if whole is not None:
            # As a tensor of its own, not a view: the loop overwrites it.
            return whole.unflatten(0, (steps, lanes)).detach()
        like = next(x for _, s, p in parts for x in (p, s) if x is not None and x.is_floating_point())
        whole = like.new_empty(steps, lanes, step.width)
        out = whole.view(steps * lanes, step.width)
        written: list[tuple[int, int]] = []
        parts.sort(key=lambda part: part[0].kind != "bias")  # biases start their columns
        for a, source, pack in parts:
            free = _free(a.lo, a.hi, written)
            fresh = free == [(a.lo, a.hi)]
            if not fresh:
                for lo, hi in free:
                    out[:, lo:hi].zero_()
            _add(out[:, a.lo : a.hi], a, source, pack, fresh, steps, lanes)
            written.append((a.lo, a.hi))
        for lo, hi in _free(0, step.width, written):
            out[:, lo:hi].zero_()
        for lo, hi, const in step.const:
            out[:, lo:hi].add_(const)
        return whole

    @staticmethod
    @functions.first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        start = time.perf_counter()
        flat = g.reshape(-1, g.shape[-1])
        out: list[Tensor | None] = []
        needs = iter(ctx.needs_input_grad[4:])
        for a, source, pack in _parts(ctx.step, ctx.saved_tensors):
            part = flat[:, a.lo : a.hi]
            if source is not None:
                out.append(_source_gradient(a, part, source, pack) if next(needs) else None)
            if pack is not None:
                out.append(_pack_gradient(a, part, source, pack) if next(needs) else None)
        if ctx.clock is not None:
            ctx.clock["hoisted"] += time.perf_counter() - start
        return (None, None, None, None, *out)


def _at_once(step: Linear, parts: Sequence[tuple[Addend, Tensor | None, Tensor | None]]) -> Tensor | None:
    """One product over all columns, with at most one bias over all of them: the common case, in one call."""
    full = [(s, p) for a, s, p in parts if a.kind == "full" and a.coef == 1.0 and a.hi - a.lo == step.width]
    bias = [p for a, _, p in parts if a.kind == "bias" and a.coef == 1.0 and a.hi - a.lo == step.width]
    if step.const or len(full) != 1 or len(full) + len(bias) != len(parts):
        return None
    source, pack = full[0]
    assert source is not None and pack is not None
    return times_t(source.reshape(-1, source.shape[-1]), pack, bias[0] if bias else None)


def _free(lo: int, hi: int, written: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of lo:hi that nothing has written yet."""
    free = [(lo, hi)]
    for a, b in written:
        free = [p for x, y in free for p in ((x, min(y, a)), (max(x, b), y)) if p[0] < p[1]]
    return free


def _add(
    out: Tensor, a: Addend, source: Tensor | None, pack: Tensor | None, fresh: bool, steps: int, lanes: int
) -> None:
    """Write (fresh) or add one addend into its columns [T*B, n]."""
    if a.kind == "full":
        assert source is not None and pack is not None
        rows = source.reshape(steps * lanes, -1)
        out.addmm_(rows, pack.t(), beta=0.0 if fresh else 1.0, alpha=a.coef)
        return
    if a.kind == "gather":
        assert source is not None and pack is not None
        value = functions.gather(source.reshape(-1), pack)
    elif a.kind == "bias":
        assert pack is not None
        value = pack
    else:
        assert source is not None
        value = source.reshape(steps * lanes, -1)
    if fresh:
        torch.mul(value, a.coef, out=out) if a.coef != 1.0 and value.shape == out.shape else out.copy_(value)
        if a.coef != 1.0 and value.shape != out.shape:
            out.mul_(a.coef)
    else:
        out.add_(value, alpha=a.coef)


def _source_gradient(a: Addend, g: Tensor, source: Tensor, pack: Tensor | None) -> Tensor | None:
    if a.kind == "gather":
        return None
    if a.kind == "full":
        assert pack is not None
        back = times(g, pack)
    else:
        back = g.sum(-1, keepdim=True) if source.shape[-1] == 1 and g.shape[-1] > 1 else g
    return (back if a.coef == 1.0 else back * a.coef).view(source.shape)


def _pack_gradient(a: Addend, g: Tensor, source: Tensor | None, pack: Tensor) -> Tensor:
    if a.kind == "bias":
        out = g.sum(0)
    elif a.kind == "full":
        assert source is not None
        out = outer(g, source.reshape(g.shape[0], -1))
    else:
        assert source is not None
        index = source.reshape(-1)
        # One row more takes what comes from before the first step (index -1).
        out = g.new_zeros(pack.shape[0] + 1, pack.shape[1])
        out = out.index_add_(0, torch.where(index < 0, pack.shape[0], index), g)[:-1]
    return out if a.coef == 1.0 else out * a.coef


_POINTWISE: dict[str, Callable[..., Tensor]] = {
    name: eval(f"lambda a, b=None: {row.torch.format('a', 'b')}", {"torch": torch})
    for name, row in TABLE.items()
}


def apply(op: Op, args: Sequence[Tensor], pack: Tensor | None) -> Tensor:
    """A hoisted op other than a sum of products, on whole sequences; autograd differentiates it."""
    if op.kind == "sum":
        return _sum(op, args)
    if op.kind == "prod":
        out = args[0]
        for x in args[1:]:
            out = out * x
        return out
    if op.kind in TABLE:
        return _POINTWISE[op.kind](*args)
    if op.kind == "block":
        assert pack is not None
        return functions.block(args[0], pack)
    simple: dict[str, Callable[[], Tensor]] = {
        "copy": lambda: args[0],
        "expand": lambda: args[0].expand(*args[0].shape[:-1], op.size),
        "stop": lambda: args[0].detach(),
        "concat": lambda: torch.cat(list(args), -1),
        "slice": lambda: args[0][..., op.lo : op.hi],
        "normalize": lambda: functions.layer_norm(args[0], (op.size,)),
        "softmax": lambda: torch.softmax(args[0], -1),
    }
    return simple[op.kind]()


def _sum(op: Op, args: Sequence[Tensor]) -> Tensor:
    out: Tensor | None = None
    for x, coef in zip(args, op.coefs, strict=True):
        if out is None:
            out = x if coef == 1.0 else x * coef
        else:
            out = torch.add(out, x, alpha=coef)
    assert out is not None
    return out + op.value if op.value else out

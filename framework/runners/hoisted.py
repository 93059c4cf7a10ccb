"""What lies outside the loops, for all steps at once: sums of matrix products in a buffer, and other ops."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from framework.cell import Op
from framework.ops import TABLE
from framework.products import By
from framework.runners import functions, linear_op
from framework.runners.hoisted_products import TorchProducts, add_values, products_by
from framework.runners.products import copies_columns
from framework.steps import Addend, Linear

Clock = dict[str, float]
Part = tuple[Addend, Tensor | None, Tensor | None]  # with its source and pack


def linear(
    step: Linear, tensors: Sequence[Tensor], steps: int, lanes: int, clock: Clock | None, by: By = "torch"
) -> Tensor:
    """The buffer [T, B, width] of a Linear step.

    `tensors`: for each addend its source (full, gather, value) and then its pack (full, gather, bias). `by`:
    who multiplies. Raises ConfigError where that one cannot.
    """
    if torch.compiler.is_compiling():
        return linear_op.call(step, tensors, steps, lanes, by)
    return _Linear.apply(step, steps, lanes, clock, by, *tensors)


def _parts(step: Linear, tensors: Sequence[Tensor]) -> list[Part]:
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
        ctx: Any, step: Linear, steps: int, lanes: int, clock: Clock | None, by: By, *tensors: Tensor
    ) -> Tensor:
        ctx.step, ctx.clock, ctx.by = step, clock, by
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return buffer_of(step, tensors, steps, lanes, by)

    @staticmethod
    @functions.first_order
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:  # of a loop that has none, beside one that has
            return (None,) * (5 + len(ctx.saved_tensors))
        start = time.perf_counter()
        out = gradients_of(ctx.step, ctx.saved_tensors, g, ctx.needs_input_grad[5:], ctx.by)
        if ctx.clock is not None:
            ctx.clock["hoisted"] += time.perf_counter() - start
        return (None, None, None, None, None, *out)


def buffer_of(step: Linear, tensors: Sequence[Tensor], steps: int, lanes: int, by: By) -> Tensor:
    """What `linear` gives, without its place in autograd."""
    products = products_by(by, tensors[0].device)
    parts = _parts(step, tensors)
    whole = _at_once(step, parts, products)
    if whole is not None:
        # As a tensor of its own, not a view: the loop overwrites it.
        return whole.unflatten(0, (steps, lanes)).detach()
    like = next(x for _, s, p in parts for x in (p, s) if x is not None and x.is_floating_point())
    whole = like.new_empty(steps, lanes, step.width)
    out = whole.view(steps * lanes, step.width)
    written: list[tuple[int, int]] = []
    for a, source, pack, bias in _in_order(parts):
        free = _free(a.lo, a.hi, written)
        fresh = free == [(a.lo, a.hi)]
        if not fresh:
            for lo, hi in free:
                out[:, lo:hi].zero_()
        _add(products, out[:, a.lo : a.hi], a, source, pack, bias, fresh)
        written.append((a.lo, a.hi))
    for lo, hi in _free(0, step.width, written):
        out[:, lo:hi].zero_()
    for lo, hi, const in step.const:
        out[:, lo:hi].add_(const)
    return whole


def constants(step: Linear, like: Tensor, steps: int, lanes: int) -> Tensor:
    """The buffer of a Linear step without addends, of the type and on the device of `like`."""
    buffer = like.new_zeros(steps, lanes, step.width)
    for lo, hi, const in step.const:
        buffer[..., lo:hi] += const
    return buffer


def gradients_of(
    step: Linear, tensors: Sequence[Tensor], g: Tensor, wanted: Sequence[bool], by: By
) -> list[Tensor | None]:
    """Gradients of the tensors of `linear` that are wanted; None for the others, and for indices."""
    products = products_by(by, g.device)
    flat = g.reshape(-1, g.shape[-1])
    out: list[Tensor | None] = []
    needs = iter(wanted)
    for a, source, pack in _parts(step, tensors):
        part = flat[:, a.lo : a.hi]
        if a.kind == "full" and pack is not None and copies_columns(g, flat.shape[0], *pack.shape):
            part = part.contiguous()  # once for both products
        if source is not None:
            out.append(_source_gradient(products, a, part, source, pack) if next(needs) else None)
        if pack is not None:
            out.append(_pack_gradient(products, a, part, source, pack) if next(needs) else None)
    return out


def _at_once(step: Linear, parts: Sequence[Part], products: TorchProducts) -> Tensor | None:
    """One product over all columns, with at most one bias over all of them: the common case, in one call."""
    full = [(s, p) for a, s, p in parts if a.kind == "full" and a.coef == 1.0 and a.hi - a.lo == step.width]
    bias = [p for a, _, p in parts if a.kind == "bias" and a.coef == 1.0 and a.hi - a.lo == step.width]
    if step.const or len(full) != 1 or len(full) + len(bias) != len(parts):
        return None
    source, pack = full[0]
    assert source is not None and pack is not None
    return products.whole(source.reshape(-1, source.shape[-1]), pack, bias[0] if bias else None)


def _in_order(parts: Sequence[Part]) -> list[tuple[Addend, Tensor | None, Tensor | None, Tensor | None]]:
    """Parts as they are added, each with the bias that goes in with it: biases start their columns, on their
    own or in a product over the same ones that comes next.
    """
    biases = [part for part in parts if part[0].kind == "bias"]
    others = [part for part in parts if part[0].kind != "bias"]
    columns = [(a.lo, a.hi) for a, _, _ in biases]
    inside: dict[int, Tensor] = {}  # place in others -> its bias
    alone: list[tuple[Addend, Tensor | None, Tensor | None, Tensor | None]] = []
    for a, _, pack in biases:
        k = next((k for k, (b, _, _) in enumerate(others) if b.lo < a.hi and a.lo < b.hi), -1)
        b = others[k][0] if k >= 0 else a
        same = b.kind == "full" and (b.lo, b.hi) == (a.lo, a.hi)
        if same and a.coef == 1.0 and pack is not None and columns.count((a.lo, a.hi)) == 1:
            inside[k] = pack
        else:
            alone.append((a, None, pack, None))
    return alone + [(*part, inside.get(k)) for k, part in enumerate(others)]


def _free(lo: int, hi: int, written: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of lo:hi that nothing has written yet."""
    free = [(lo, hi)]
    for a, b in written:
        free = [p for x, y in free for p in ((x, min(y, a)), (max(x, b), y)) if p[0] < p[1]]
    return free


def _add(
    products: TorchProducts,
    out: Tensor,
    a: Addend,
    source: Tensor | None,
    pack: Tensor | None,
    bias: Tensor | None,
    fresh: bool,
) -> None:
    """Write (fresh) or add one addend, and the bias that goes with it, into its columns [T*B, n]."""
    if a.kind == "bias":
        assert pack is not None
        add_values(out, pack, a.coef, fresh)
        return
    assert source is not None
    if a.kind == "value":
        add_values(out, source.reshape(out.shape[0], -1), a.coef, fresh)
        return
    assert pack is not None
    if a.kind == "full":
        products.add(out, source.reshape(out.shape[0], -1), pack, bias, a.coef, fresh)
    else:
        products.add_rows(out, source.reshape(-1), pack, a.coef, fresh)


def _source_gradient(
    products: TorchProducts, a: Addend, g: Tensor, source: Tensor, pack: Tensor | None
) -> Tensor | None:
    if a.kind == "gather":
        return None
    if a.kind == "full":
        assert pack is not None
        back = products.dx(g, pack)
    else:
        back = g.sum(-1, keepdim=True) if source.shape[-1] == 1 and g.shape[-1] > 1 else g
    return (back if a.coef == 1.0 else back * a.coef).view(source.shape)


def _pack_gradient(
    products: TorchProducts, a: Addend, g: Tensor, source: Tensor | None, pack: Tensor
) -> Tensor:
    if a.kind == "bias":
        out = products.dbias(g)
    elif a.kind == "full":
        assert source is not None
        out = products.dw(g, source.reshape(g.shape[0], -1))
    else:
        assert source is not None
        out = products.dtable(source.reshape(-1), g, pack.shape[0])
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

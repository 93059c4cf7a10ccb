"""Small torch functions that generated source calls, and the step from its text to a function."""

from __future__ import annotations

import gc
import linecache
import weakref
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import count
from typing import Any

import torch
from torch import Tensor

_numbers = count()  # of generated sources in this process
EPS = 1e-5  # of layer norm, as in torch.nn.LayerNorm


DOUBLE = (
    "double backward: loops and hoisted products have first derivatives only. Leave out create_graph=True."
)


def first_order(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A backward that refuses to be differentiated itself.

    With create_graph its result would have no history, and a second derivative would be zero without a word.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(DOUBLE)
        return backward(ctx, *gradients)

    return checked


def no_second_order(ctx: Any, *gradients: Any) -> None:
    """The backward of an operator that is a derivative itself."""
    raise RuntimeError(DOUBLE)


def number_in_graphs(f: Callable[..., Any]) -> Callable[..., Any]:
    """Marks f, whose results never change, as something that torch.compile calls instead of tracing it.

    This is all that torch.compiler.assume_constant_result does, which imports the compiler: two seconds for
    everybody who compiles nothing.
    """
    f._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return f


def own(out: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """`out`, packed, each in memory of its own, from its start on.

    What an operator returns may not share any with `others` or among itself; compilers count on the rest.
    """
    taken = {x.untyped_storage().data_ptr() for x in others}
    result = []
    for x in out:
        packed = x.contiguous()
        shared = packed.numel() > 0 and packed.untyped_storage().data_ptr() in taken
        if shared or packed.storage_offset():
            packed = packed.clone()
        taken.add(packed.untyped_storage().data_ptr())
        result.append(packed)
    return result


def no_gradients(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What the derivative of an operator gives for arguments without one: a list of None for one of tensors.

    torch takes every empty list for one of tensors.
    """
    return tuple(
        [None] * len(x) if isinstance(x, list) and all(isinstance(y, Tensor) for y in x) else None
        for x in arguments
    )


def layer_norm(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(x - mean) / standard deviation over the last dimension."""
    return torch.nn.functional.layer_norm(x, shape, eps=EPS)


def rstd(x: Tensor) -> Tensor:
    """1 / standard deviation over the last dimension, [..., 1]."""
    return torch.rsqrt(x.var(-1, correction=0, keepdim=True) + EPS)


def wide(x: Tensor | float, out: Tensor) -> Tensor:
    """A vector or number as rows of `out`: torch's out= forms do not broadcast their result."""
    if not isinstance(x, Tensor):
        x = out.new_full((1,), x)
    return x.expand(*out.shape[:-1], x.shape[-1])


def block(x: Tensor, w: Tensor) -> Tensor:
    """x [..., groups * k] by w [groups, out, k] -> [..., groups * out]."""
    return torch.einsum("...gk,gok->...go", x.unflatten(-1, (w.shape[0], w.shape[2])), w).flatten(-2)


def block_t(g: Tensor, w: Tensor) -> Tensor:
    """The transposed product: g [..., groups * out] by w [groups, out, k] -> [..., groups * k]."""
    return torch.einsum("...go,gok->...gk", g.unflatten(-1, (w.shape[0], w.shape[1])), w).flatten(-2)


def gather(index: Tensor, rows: Tensor) -> Tensor:
    """Rows of [vocab, size] at `index`; an index of -1 (before the first step) gives zeros."""
    return torch.nn.functional.embedding(index.clamp(min=0), rows) * (index >= 0).unsqueeze(-1)


def run_loop(run: Callable[..., None], steps: int, block: int, v: dict[str, Any]) -> None:
    """Run generated source without Python's garbage collector.

    A loop makes thousands of short-lived views; the collector would walk them, and all else that lives, again
    and again (at 128 steps of one lane that was a third of the time). None of them is part of a cycle.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        run(steps, block, v)
    finally:
        if was_on:
            gc.enable()


def compile_source(text: str, name: str) -> Callable[..., None]:
    """The function `run` of generated source; tracebacks show its lines as long as it lives."""
    filename = f"<loop {name} {next(_numbers)}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    scope: dict[str, Any] = {
        "torch": torch, "layer_norm": layer_norm, "rstd": rstd, "block": block, "block_t": block_t,
        "gather": gather, "wide": wide,
    }  # fmt: skip
    exec(compile(text, filename, "exec"), scope)
    run = scope.pop("run")  # which holds its scope: without a way back it ends with its last reader
    weakref.finalize(run, linecache.cache.pop, filename, None).atexit = False
    return run

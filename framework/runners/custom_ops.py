"""A loop and its derivative as operators of torch: one node each in the graph of torch.compile.

Compilers look into Python: they would unroll the loop over T, and stop at the launch of a kernel. They do not
look into an operator; of it they must know the shapes that come out (its fake kernel) and its derivative,
which is an operator as well. Eager calls do not come here: an operator written in Python costs them tens of
microseconds.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from framework.runners.functions import first_order, no_gradients, no_second_order, number_in_graphs, own
from framework.runners.source import pads

if TYPE_CHECKING:
    from framework.runners.loop import Chunk, Kept, LoopRunner

# What describes the call, the same in both operators. `runner`: what `key_of` says.
_CALL = "Tensor[] masks, Tensor? seed, int[] distances, str runner, int n_ext, SymInt steps, SymInt lanes"
torch.library.define(
    "intrastream::loop",
    f"(Tensor[] tensors, {_CALL}, bool train) -> Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "intrastream::loop_backward",
    f"(Tensor[] tensors, Tensor[] kept, Tensor?[] dy, {_CALL}, bool[] wanted) -> Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)

# By content, so that a compiled graph that torch keeps on disk means the same loop in every process. What was
# compiled may outlive the network, or serve an equal one: so a loop, which holds no tensors, stays as its
# pickle of a few thousand bytes. The loops themselves, with the functions that they have made, go with their
# networks; of those that are needed again after that, some stay.
_PICKLES: dict[str, bytes] = {}
_loops: WeakValueDictionary[str, LoopRunner] = WeakValueDictionary()
_AGAIN = 64  # loops without a network that stay ready
_FORM = 1  # of what the operators take and give: another one when that changes, for graphs kept on disk


@number_in_graphs
def key_of(loop: LoopRunner) -> str:
    """The name of a loop inside operators; equal loops share one."""
    plain = replace(loop.c, members=frozenset())
    content = f"{_FORM} {type(loop).__module__}.{type(loop).__qualname__} {loop.variant} {plain!r}"
    key = hashlib.sha256(content.encode()).hexdigest()[:24]
    _loops.setdefault(key, loop)
    if key not in _PICKLES:
        _PICKLES[key] = pickle.dumps(loop)
    return key


def call(
    loop: LoopRunner, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], train: bool
) -> tuple[Tensor, ...]:
    """The outputs of a loop, as `LoopRunner.run` gives them, by its operator."""
    distances = list(chunk.masks)
    assert not isinstance(chunk.seed, int), "a seed that is a number is the same in all calls of the graph"
    out = torch.ops.intrastream.loop(
        list(tensors), [chunk.masks[d] for d in distances], chunk.seed, distances, key_of(loop), n_ext,
        chunk.steps, chunk.lanes, train,
    )  # fmt: skip
    return tuple(out[: len(loop.c.outputs)])


def _chunk(
    masks: Sequence[Tensor],
    seed: Tensor | int | None,
    distances: Sequence[int],
    loop: LoopRunner,
    steps: int,
    lanes: int,
) -> Chunk:
    from framework.runners.loop import Chunk

    # The seed lies on the CPU: reading it waits for nothing.
    number = int(seed) if seed is not None and loop.own_masks else None
    return Chunk(steps, lanes, dict(zip(distances, masks, strict=True)), None, number)


def _loop(key: str) -> LoopRunner:
    loop = _loops.get(key)
    return _again(key) if loop is None else loop


@lru_cache(_AGAIN)
def _again(key: str) -> LoopRunner:
    """A loop whose network is gone."""
    assert key in _PICKLES, f"no loop of this name was traced in this process: {key}"
    return pickle.loads(_PICKLES[key])


def _shown(loop: LoopRunner, kept: Mapping[Any, Kept]) -> dict[Any, int]:
    """What a loop keeps that one of its outputs shows -> the number of this output.

    An output may not be a view of what is kept, and two copies would cost memory until the backward: only the
    output is kept, and the steps around it are put back for the backward.
    """
    number = {at: k for k, (_, at) in enumerate(loop.c.outputs)}
    return {n: number[k.op] for n, k in kept.items() if k.op in number}


def _kept_by(
    loop: LoopRunner, chunk: Chunk, tensors: Sequence[Tensor], given: Sequence[Tensor]
) -> dict[Any, Tensor]:
    """What the loop has kept, from what the operator has: `given` ends with the outputs of `_shown`."""
    kept = loop.keeps(chunk)
    shown = _shown(loop, kept)
    others = [name for name in kept if name not in shown]
    found = dict(zip([*others, *shown], given, strict=True))
    front, states = pads(loop.c)[0], loop.c.states
    edges = dict(zip(states, tensors[len(tensors) - 2 * len(states) :], strict=False))
    for name in shown:
        whole = found[name].new_empty(kept[name].shape)
        whole[front : front + chunk.steps] = found[name]
        for node, distance in states.items():
            if loop.c.roots[node] == kept[name].op:
                start = front - distance if loop.c.direction > 0 else chunk.steps
                whole[start : start + distance] = edges[node]
        found[name] = whole
    return {name: found[name] for name in kept}


def _overwritten(loop: LoopRunner) -> bool:
    """Whether its first tensor is a hoisted buffer that it overwrites."""
    return bool(loop.c.targets) and loop.overwrites


@torch.library.impl("intrastream::loop", "default")
def _run(
    tensors: Sequence[Tensor],
    masks: Sequence[Tensor],
    seed: Tensor | None,
    distances: Sequence[int],
    runner: str,
    n_ext: int,
    steps: int,
    lanes: int,
    train: bool,
) -> list[Tensor]:
    """Outputs; and for a backward the hoisted buffer as the loop left it, and what else it keeps."""
    loop = _loop(runner)
    if tensors:
        loop.check_device(tensors[0].device.type)
    given = list(tensors)
    if _overwritten(loop):
        given[0] = given[0].clone()
    chunk = _chunk(masks, seed, distances, loop, steps, lanes)
    out, kept = loop.run(chunk, n_ext, given, train)
    if not train:
        return own(out, tensors)
    left = [given[0]] if _overwritten(loop) else []
    shown = _shown(loop, loop.keeps(chunk))
    return own([*out, *left, *(x for name, x in kept.items() if name not in shown)], tensors)


@torch.library.register_fake("intrastream::loop")
def _run_fake(
    tensors: Sequence[Tensor],
    masks: Sequence[Tensor],
    seed: Tensor | None,
    distances: Sequence[int],
    runner: str,
    n_ext: int,
    steps: int,
    lanes: int,
    train: bool,
) -> list[Tensor]:
    loop = _loop(runner)
    like = next(x for x in tensors if x.is_floating_point())
    out = [like.new_empty((steps, lanes, loop.c.cell[at].size)) for _, at in loop.c.outputs]
    if not train:
        return out
    left = [tensors[0].new_empty(tensors[0].shape)] if _overwritten(loop) else []
    kept = loop.keeps(_chunk(masks, 0 if seed is not None else None, distances, loop, steps, lanes))
    shown = _shown(loop, kept)
    left += [like.new_empty(k.shape, dtype=k.dtype(like.dtype)) for n, k in kept.items() if n not in shown]
    return [*out, *left]


@torch.library.impl("intrastream::loop_backward", "default")
def _gradients(
    tensors: Sequence[Tensor],
    kept: Sequence[Tensor],
    dy: Sequence[Tensor | None],
    masks: Sequence[Tensor],
    seed: Tensor | None,
    distances: Sequence[int],
    runner: str,
    n_ext: int,
    steps: int,
    lanes: int,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """Gradients of the tensors that are wanted; zeros where the loop says that there is none."""
    loop = _loop(runner)
    chunk = _chunk(masks, seed, distances, loop, steps, lanes)
    found = loop.gradients_of(chunk, n_ext, tensors, _kept_by(loop, chunk, tensors, kept), dy, wanted)
    out = [
        torch.zeros_like(x, memory_format=torch.contiguous_format) if g is None else g
        for x, g, want in zip(tensors, found, wanted, strict=True)
        if want
    ]
    return own(out, [*tensors, *kept, *(g for g in dy if g is not None)])


@torch.library.register_fake("intrastream::loop_backward")
def _gradients_fake(
    tensors: Sequence[Tensor],
    kept: Sequence[Tensor],
    dy: Sequence[Tensor | None],
    masks: Sequence[Tensor],
    seed: Tensor | None,
    distances: Sequence[int],
    runner: str,
    n_ext: int,
    steps: int,
    lanes: int,
    wanted: Sequence[bool],
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x, want in zip(tensors, wanted, strict=True) if want]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, masks, seed, *ctx.call, train = inputs
    assert train, "a gradient is asked of a loop that ran without one"
    loop = _loop(ctx.call[1])
    ctx.rest = no_gradients(inputs[1:])
    ctx.outputs = len(loop.c.outputs)
    left = output[ctx.outputs :]
    if _overwritten(loop):  # what stands in it now, not what the loop was given
        tensors = [left[0], *tensors[1:]]
        left = left[1:]
    kept = loop.keeps(_chunk(masks, 0 if seed is not None else None, ctx.call[0], loop, *ctx.call[3:]))
    left = [*left, *(output[k] for k in _shown(loop, kept).values())]
    ctx.counts = len(tensors), len(masks)
    ctx.save_for_backward(*tensors, *masks, *left, seed)
    ctx.mark_non_differentiable(*output[ctx.outputs :])
    ctx.set_materialize_grads(False)


@first_order
def _backward(ctx: Any, dy: Sequence[Tensor | None]) -> tuple[Any, ...]:
    *saved, seed = ctx.saved_tensors
    n, m = ctx.counts
    tensors, masks, kept = saved[:n], saved[n : n + m], saved[n + m :]
    wanted = list(ctx.needs_input_grad[0])
    found = iter(
        torch.ops.intrastream.loop_backward(
            tensors, kept, list(dy[: ctx.outputs]), masks, seed, *ctx.call, wanted
        )
    )
    gradients = [next(found) if want else None for want in wanted]
    return gradients, *ctx.rest


torch.library.register_autograd("intrastream::loop", _backward, setup_context=_save)
torch.library.register_autograd("intrastream::loop_backward", no_second_order)

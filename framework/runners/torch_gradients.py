"""The backward of one loop: run its derived source, then the products over the whole chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.derivative import Backward
from framework.runners.emit import Place
from framework.runners.functions import run_loop
from framework.runners.hoisted_products import products_by
from framework.runners.source import Source, pads

if TYPE_CHECKING:
    from framework.runners.loop import Chunk
    from framework.runners.torch_loop import TorchLoop

BLOCK_BYTES = 1 << 20  # factors prepared at once before their steps run: about a core's L2 cache


def gradients(
    loop: TorchLoop,
    chunk: Chunk,
    v: dict[str, Any],
    dy: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients in the order of TorchLoop.__call__'s tensors; None where there is none."""
    c = loop.c
    given = frozenset(at for (_, at), g in zip(c.outputs, dy, strict=True) if g is not None)
    d = loop.backward_cell(given)
    source, run = loop.source("backward", bool(chunk.masks), given)
    like = loop._like(v)
    front, back = pads(c)
    for (_, at), g in zip(c.outputs, dy, strict=True):
        if g is not None:
            v[f"DY{at}"] = g
    for distance, mask in chunk.masks.items():
        v[f"L{distance}"] = torch.nn.functional.pad(mask.to(like.dtype), (0, 0, 0, 0, back, front))
    loop.allocate(source, chunk, like, block_of(source, chunk, like.element_size()), v)
    run_loop(run, chunk.steps, block_of(source, chunk, like.element_size()), v)

    def value(at: int) -> Tensor:
        return loop.value(v, source.places[at], chunk)

    out: list[Tensor | None] = []
    if c.targets:
        out.append(v["G"][back : back + chunk.steps])
    for g in d.ext:
        out.append(None if g is None else value(g))
    out += _run_weights(loop, d, chunk, v, source)
    for name in loop.singles:
        out.append(_single(loop, d, chunk, v, source, name))
    at = len(out)
    boundary, init = _boundaries(loop, d, chunk, v, source, wanted[at:])
    return [*out, *boundary, *init]


def block_of(source: Source, chunk: Chunk, itemsize: int) -> int:
    """How many steps a backward prepares at once."""
    units = sum(s.size for s in source.buffers.values() if s.mode == "block")
    step = max(1, units * chunk.lanes * itemsize)
    return max(1, min(chunk.steps, 64, BLOCK_BYTES // step))


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _source(loop: TorchLoop, chunk: Chunk, v: dict[str, Any], source: Source, at: int) -> Tensor:
    """What a product was given, [T, B, size]; a number has no place of its own."""
    op = loop.c.cell[at]
    if op.kind == "const":
        return loop._like(v).new_full((1,), op.value).expand(chunk.steps, chunk.lanes, 1)
    return loop.value(v, source.places[at], chunk)


def _run_weights(
    loop: TorchLoop, d: Backward, chunk: Chunk, v: dict[str, Any], source: Source
) -> list[Tensor | None]:
    """Gradients of the packed recurrent weights: G^T times the source sequence."""
    c = loop.c
    reached = {m.name for m in d.matrices if m.kind == "full"}
    out: list[Tensor | None] = []
    for run in c.runs:
        if not reached & {name for name, _, _ in run.weights}:
            out.append(None)
            continue
        g = loop.value(v, Place("G", "chunk", pads(c)[1], run.lo, run.hi), chunk)
        x = _source(loop, chunk, v, source, run.source)
        if loop.stepwise:
            total = g.new_zeros(g.shape[-1], x.shape[-1])
            for t in range(chunk.steps):
                total.addmm_(g[t].t(), x[t])
            out.append(total)
        else:
            out.append(products_by(loop.by, g.device).dw(_flat(g), _flat(x)))
    return out


def _single(
    loop: TorchLoop, d: Backward, chunk: Chunk, v: dict[str, Any], source: Source, name: str
) -> Tensor | None:
    """Gradient of a vector, block or gathered weight."""
    total: Tensor | None = None
    if name in d.params:
        total = loop.value(v, source.places[d.params[name]], chunk).sum((0, 1))
    for m in d.matrices:
        if m.name != name:
            continue
        g = loop.value(v, source.places[m.g], chunk)
        x = _source(loop, chunk, v, source, m.source)
        w = v[loop.weights[name]]
        if m.kind == "gather":
            part = products_by(loop.by, g.device).dtable(x.reshape(-1), _flat(g), w.shape[0])
        else:
            by_group = _flat(g).unflatten(-1, (w.shape[0], w.shape[1]))
            part = torch.einsum("ngo,ngk->gok", by_group, _flat(x).unflatten(-1, (w.shape[0], -1)))
        total = part if total is None else total + part
    return total


def _boundaries(
    loop: TorchLoop, d: Backward, chunk: Chunk, v: dict[str, Any], source: Source, wanted: Sequence[bool]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of the steps outside the chunk that the loop read, and of initial values (at resets)."""
    c = loop.c
    like = v["G"] if c.targets else loop._like(v)
    n = len(c.states)
    edge: list[Tensor | None] = [None] * n
    init: list[Tensor | None] = [None] * n
    place = {node: i for i, node in enumerate(c.states)}
    for shift in d.shifts:
        op = c.cell[shift]
        i, distance = place[op.name], abs(op.shift)
        if wanted[i]:
            total = edge[i]
            if total is None:
                total = edge[i] = like.new_zeros(c.states[op.name], chunk.lanes, op.size)
            steps = min(distance, chunk.steps)
            for k in range(steps):
                t = k if c.direction > 0 else chunk.steps - 1 - k
                at = c.states[op.name] - distance + k if c.direction > 0 else distance - 1 - k
                total[at] += _sent(loop, chunk, v, source, shift, t)
        if chunk.masks and wanted[n + i]:
            g = v[f"C{shift}"][pads(c)[1] :][: chunk.steps]
            lost = ~chunk.masks[distance]
            part = (g * lost).sum((0, 1)).to(like.dtype)
            init[i] = part if init[i] is None else init[i] + part
    return edge, init


def _sent(loop: TorchLoop, chunk: Chunk, v: dict[str, Any], source: Source, shift: int, t: int) -> Tensor:
    """What step t sends to the step that shift op read."""
    c = loop.c
    op = c.cell[shift]
    distance, front = abs(op.shift), pads(c)[1]
    if chunk.masks:
        return v[f"C{shift}"][front + t] * chunk.masks[distance][t]
    ring = v.get(f"C{shift}")
    total = loop._like(v).new_zeros(()) if ring is None else ring[t % len(ring)]
    for k in source.direct.get(shift, ()):
        run = c.runs[k]
        total = total + v["G"][front + t, :, run.lo : run.hi] @ v[f"w{k}"]
    return total

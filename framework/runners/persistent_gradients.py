"""The gradients of a persistent loop: what its backward kernel writes, and the products that follow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from framework.runners.hoisted_products import products_by
from framework.runners.loop import Chunk

if TYPE_CHECKING:
    from framework.runners.triton_persistent import PersistentLoop
    from kernels.persistent_cell import Derivative
    from kernels.persistent_layout import Layout
    from kernels.persistent_source import Kernel


def gradients(
    loop: PersistentLoop, chunk: Chunk, code: Kernel, d: Derivative, v: dict[str, Tensor]
) -> list[Tensor | None]:
    """What `gradients_of` returns, from what the kernel has written."""
    c = loop.c
    v |= {name: v[f"sums{size}"][:, number, 0].sum(0) for name, size, number in code.sums}
    out: list[Tensor | None] = [v["d_pre"]] if c.targets else []
    out += [v.get(f"d_ext{i}") for i in loop.ext]
    weights = _matrices(loop, chunk, v, d)
    out += [weights.get(f"run {k}") for k in range(len(c.runs))]
    place = {name: i for i, name in enumerate(code.d_par)}
    for name in loop.vectors:
        found = v[f"d_par{place[name]}"] if name in place else None
        out.append(None if found is None else found.to(v[f"par {name}"].dtype))
    out += [weights.get(name) for name in loop.blocks]
    return [*out, *_boundaries(loop, chunk, v), *_initial(loop, v)]


def buffers(
    loop: PersistentLoop, chunk: Chunk, layout: Layout, code: Kernel, d: Derivative, v: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What a backward kernel writes."""
    c = loop.c
    steps, lanes, tiles = chunk.steps, chunk.lanes, -(-chunk.lanes // layout.lanes)
    like = v[f"node{loop.stored[0]}"]
    wide = torch.promote_types(like.dtype, torch.float32)
    out: dict[str, Tensor] = {}
    exts = {op.lo: op.size for op in c.cell if op.kind == "ext"}
    if c.targets:
        reached = sum(c.cell[at].size for at in d.pre)
        make = torch.zeros if reached < c.width else torch.empty
        out["d_pre"] = make((steps, lanes, c.width), dtype=like.dtype, device=like.device)
    for argument in code.arguments:
        name = argument[2:]
        if name.startswith("d_ext"):
            out[name] = like.new_empty((steps, lanes, exts[int(name[5:])]))
        elif name.startswith("sums"):
            count = 1 + max(number for _, size, number in code.sums if size == int(name[4:]))
            out[name] = like.new_empty((tiles, count, 2, int(name[4:])), dtype=wide)
        elif name.startswith("edge"):
            at = int(name[4:].partition("_")[0])
            out[name] = like.new_empty((lanes, c.cell[at].size), dtype=wide)
        elif name.startswith("far"):
            out[name] = like.new_empty((steps, lanes, c.cell[int(name[3:])].size), dtype=wide)
        elif name.startswith("factor"):
            out[name] = like.new_empty((steps, lanes, d.ops[int(name[6:])].size))
    return out


def _matrices(
    loop: PersistentLoop, chunk: Chunk, v: Mapping[str, Tensor], d: Derivative
) -> dict[str, Tensor]:
    """Gradients of the matrices: `run <number>`, or by name for block-diagonal ones."""
    c, out = loop.c, dict[str, Tensor]()
    reached = {name for kind, name, _, _ in d.products if kind == "full"}
    for k, run in enumerate(c.runs):
        if reached.isdisjoint(name for name, _, _ in run.weights):
            continue
        g = v["d_pre"][..., run.lo : run.hi]
        out[f"run {k}"] = products_by(loop.by, g.device).dw(_flat(g), _flat(loop.value(chunk, v, run.source)))
    for kind, name, g_op, source in d.products:
        if kind != "block":
            continue
        n = v[f"w{len(c.runs) + loop.blocks.index(name)}"].shape[0]
        g, x = v[f"factor{g_op}"], loop.value(chunk, v, source)
        part = torch.einsum("ngo,ngk->gok", _flat(g).unflatten(-1, (n, -1)), _flat(x).unflatten(-1, (n, -1)))
        out[name] = out[name] + part if name in out else part
    return out


def _boundaries(loop: PersistentLoop, chunk: Chunk, v: Mapping[str, Tensor]) -> list[Tensor]:
    """Gradients of the steps outside of the chunk, [distance, B, size] for each state."""
    c, total = loop.c, dict[str, Tensor]()
    for node, distance in c.states.items():
        like = v[f"node{c.roots[node]}"]
        wide = torch.promote_types(like.dtype, torch.float32)
        total[node] = like.new_zeros((distance, chunk.lanes, like.shape[-1]), dtype=wide)
    for at, op in enumerate(c.cell):
        if op.kind != "shift":
            continue
        distance = abs(op.shift)
        for k in range(min(distance, chunk.steps)):
            if f"far{at}" in v:
                row = v[f"far{at}"][k if c.direction > 0 else chunk.steps - 1 - k]
            elif f"edge{at}_{k + 1}" in v:
                row = v[f"edge{at}_{k + 1}"]
            else:
                continue
            total[op.name][c.states[op.name] - distance + k if c.direction > 0 else distance - 1 - k] += row
    return [x.to(v[f"node{c.roots[node]}"].dtype) for node, x in total.items()]


def _initial(loop: PersistentLoop, v: Mapping[str, Tensor]) -> list[Tensor | None]:
    """Gradients of initial values, where resets or lengths cut a read off."""
    out: list[Tensor | None] = []
    for i, node in enumerate(loop.c.states):
        reads = [at for at, op in enumerate(loop.c.cell) if op.kind == "shift" and op.name == node]
        parts = [v[f"lost{at}"] for at in reads if f"lost{at}" in v]
        out.append(torch.stack(parts).sum(0).to(v[f"init{i}"].dtype) if parts else None)
    return out


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])

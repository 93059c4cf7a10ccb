"""Launches of the loops without exchange: which tensors go where. The loop is in `elementwise_kernel.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.codecache import load
from kernels.elementwise_kernel import backward_kernel, forward_kernel
from kernels.elementwise_source import Backward, Forward, module_text

# One pair of lane and unit for every thread: 8 lanes of 1024 units already fill 128 programs.
BLOCK = 64
STEPS = 4  # steps whose inputs are under way at once


@dataclass(frozen=True)
class Shape:
    """What all steps have in common. `reach`: the largest distance of a read; `columns`: pre op -> its
    first column.
    """

    lanes: int
    steps: int
    units: int
    forward: bool
    reach: int
    columns: Mapping[int, int]

    @property
    def front(self) -> int:
        """Boundary steps before the chunk in stored values (those of a loop against time come after it)."""
        return self.reach if self.forward else 0


@dataclass(frozen=True)
class Rows:
    """A tensor [T, B, H] of which step and lane are one dimension; unit: 0 if all units share a number."""

    tensor: Tensor
    lane: int
    unit: int


def as_rows(x: Tensor, units: int) -> Rows:
    """x [T, B, units or 1] for the kernels; copied only where its strides do not fit."""
    steps, lanes, size = x.shape
    unit = 0 if units > 1 and (size == 1 or x.stride(2) == 0) else 1
    lane = x.stride(0) if lanes == 1 else x.stride(1)
    packed = steps == 1 or x.stride(0) == lanes * lane
    if packed and (size == 1 or x.stride(2) == unit):
        return Rows(x, lane, unit)
    return Rows(x.contiguous(), size, int(size > 1 or units == 1))


@dataclass(frozen=True)
class Outer:
    """What a chunk is given: pre [T, B, width]; ext [T, B, H or 1] by number; par: weights [H] by name; keep:
    for each distance bool [T, B] (none: every read stays in its sequence) and then init [H] for each state;
    nodes [front + T + back, B, H] for each stored op, boundary steps in place; seed of the chunk's random
    masks, and the key of each by name.
    """

    pre: Tensor | None
    ext: Mapping[int, Tensor]
    par: Mapping[str, Tensor]
    keep: Sequence[Tensor]
    init: Sequence[Tensor]
    nodes: Mapping[int, Tensor]
    seed: int = 0
    keys: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Gradients:
    """pre [T, B, width]; ext [T, B, H] by number; par [H] by name; edge: for each shift op what steps that
    read over the edge of the chunk send there, [B, H] each, the outermost step first; lost [H]: what initial
    values get of it where reads were cut.
    """

    pre: Tensor | None
    ext: Mapping[int, Tensor]
    par: Mapping[str, Tensor]
    edge: Mapping[int, Sequence[Tensor]]
    lost: Mapping[int, Tensor]


def compile_code(code: Forward | Backward, label: str, folder: Path | None = None) -> ModuleType:
    """The generated functions of one direction as a module, kept in `folder` (see `codecache`)."""
    return load(module_text([code]), label, folder)


def run_forward(code: Forward, module: ModuleType, shape: Shape, outer: Outer) -> None:
    """Fill the chunk's steps of outer.nodes."""
    ext = [as_rows(outer.ext[i], shape.units) for i in code.ext]
    pre, pre_stride = packed(outer.pre)
    place = {at: i for i, at in enumerate(code.nodes)}
    nodes = tuple(outer.nodes[at] for at in code.nodes)
    grid, options = _launch(shape, nodes[0].dtype)
    forward_kernel[grid](
        pre,
        tuple(r.tensor for r in ext),
        tuple(outer.par[name] for name in code.par),
        tuple(outer.keep),
        tuple(outer.init) if outer.keep else (),
        nodes,
        pre_stride,
        tuple(r.lane for r in ext),
        shape.steps,
        shape.lanes,
        shape.units,
        *random_arguments(code, outer),
        PAST=module.past_fwd,
        MASKS=module.masks_fwd if code.keys else None,
        CELL=module.cell_fwd,
        PUSH=module.push_fwd,
        FORWARD=shape.forward,
        FRONT=shape.front,
        COLUMNS=tuple(shape.columns[at] for at in code.pre),
        UNITS=tuple(r.unit for r in ext),
        RING_NODE=tuple(place[at] for at, depth in code.rings for _ in range(depth)),
        RING_BACK=tuple(k + 1 for _, depth in code.rings for k in range(depth)),
        FAR_NODE=tuple(place[at] for at, _ in code.far),
        FAR_SHIFT=tuple(shift for _, shift in code.far),
        **options,
    )


def run_backward(
    code: Backward,
    module: ModuleType,
    shape: Shape,
    outer: Outer,
    grad: Mapping[int, Tensor],
    reads: Mapping[int, tuple[int, int]],
) -> Gradients:
    """Gradients of what `outer` holds, given those of ops seen outside, [T, B, H] each.

    reads: shift op -> (stored op, shift).
    """
    like = next(iter(outer.nodes.values()))
    compute = torch.float64 if like.dtype == torch.float64 else torch.float32
    steps, lanes, units = shape.steps, shape.lanes, shape.units

    def empty(*size: int, dtype: torch.dtype = compute) -> Tensor:
        return torch.empty(size, dtype=dtype, device=like.device)

    # Tensors of their own, not parts of one: how a part is aligned would depend on B, and with it the code.
    d_pre = None if outer.pre is None else torch.zeros_like(outer.pre, memory_format=torch.contiguous_format)
    d_ext = {i: empty(steps, lanes, units, dtype=outer.ext[i].dtype) for i in code.d_ext}
    d_par = {name: empty(lanes, units) for name in code.d_par}
    edge = {at: [empty(lanes, units) for _ in range(depth)] for at, depth in code.rings}
    far_ops = [at for at in code.sent if at not in edge]
    far = {at: empty(steps, lanes, units) for at in far_ops}
    lost = {at: empty(lanes, units) for at in code.sent} if outer.keep else {}
    ext = [as_rows(outer.ext[i], units) for i in code.ext]
    grads = [as_rows(grad[at], units) for at in code.grad]
    pre, pre_stride = packed(outer.pre)
    stored = tuple(outer.nodes)
    grid, options = _launch(shape, like.dtype)
    backward_kernel[grid](
        pre,
        tuple(r.tensor for r in ext),
        tuple(outer.par[name] for name in code.par),
        tuple(outer.keep),
        tuple(outer.init) if outer.keep else (),
        tuple(outer.nodes.values()),
        tuple(r.tensor for r in grads),
        d_pre,
        tuple(d_ext.values()),
        tuple(d_par.values()),
        tuple(x for ring in edge.values() for x in ring),
        tuple(far.values()),
        tuple(lost.values()),
        pre_stride,
        tuple(r.lane for r in ext),
        tuple(r.lane for r in grads),
        1 if d_pre is None else d_pre.shape[2],
        steps,
        lanes,
        units,
        *random_arguments(code, outer),
        PAST=module.past_bwd,
        MASKS=module.masks_bwd if code.keys else None,
        BACK=module.back_bwd,
        CELL=module.cell_bwd,
        SENT=module.sent_bwd,
        PUSH=module.push_bwd,
        FORWARD=shape.forward,
        FRONT=shape.front,
        COLUMNS=tuple(shape.columns[at] for at in code.pre),
        UNITS=tuple(r.unit for r in ext),
        GRAD_UNITS=tuple(r.unit for r in grads),
        PAST_NODE=tuple(stored.index(reads[at][0]) for at in code.past),
        PAST_SHIFT=tuple(reads[at][1] for at in code.past),
        NOW_NODE=tuple(stored.index(at) for at in code.now),
        NOW_SHIFT=(0,) * len(code.now),
        D_COLUMNS=tuple(shape.columns[at] for at in code.d_pre),
        RING=sum(depth for _, depth in code.rings),
        FAR_SENT=tuple(code.sent.index(at) for at in far_ops),
        FAR_WHICH=tuple(far_ops.index(at) for at, _ in code.far),
        FAR_SHIFT=tuple(shift for _, shift in code.far),
        **options,
    )
    for at, x in far.items():
        first = min(abs(reads[at][1]), steps)
        edge[at] = [x[k if shape.forward else steps - 1 - k] for k in range(first)]
    return Gradients(
        d_pre,
        d_ext,
        {name: x.sum(0) for name, x in d_par.items()},
        {at: rows[:steps] for at, rows in edge.items()},
        {at: x.sum(0) for at, x in lost.items()},
    )


def random_arguments(code: Forward | Backward, outer: Outer) -> tuple[int, tuple[int, ...]]:
    """Seed and keys as the kernels' int32, whatever their value: another type would compile again."""
    seed, *keys = ((x + 2**31) % 2**32 - 2**31 for x in (outer.seed, *(outer.keys[n] for n in code.keys)))
    return seed, tuple(keys)


def packed(pre: Tensor | None) -> tuple[Tensor | None, int]:
    """The hoisted buffer and the stride of its lanes."""
    return (None, 1) if pre is None else (pre.contiguous(), pre.shape[2])


def _launch(shape: Shape, dtype: torch.dtype) -> tuple[tuple[int], dict[str, Any]]:
    """Grid and options: state and sums in float32, or float64 where all is."""
    compute = tl.float64 if dtype == torch.float64 else tl.float32
    warps = 1 if torch.version.hip else 2  # 64 threads
    grid = (triton.cdiv(shape.lanes * shape.units, BLOCK),)
    return grid, {
        "STEPS": STEPS, "BLOCK": BLOCK, "COMPUTE": compute, "num_warps": warps, "enable_fp_fusion": True,
    }  # fmt: skip

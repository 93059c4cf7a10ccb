"""Launches of linear loops as a parallel prefix over time. The kernels are in `scan_kernel.py`.

Three launches for a direction: what all steps of each part of time do together, what each part starts from,
and the steps. All but the second are parallel over time. T and B may vary without another compilation.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.elementwise import Gradients, Outer, Shape, as_rows, packed, random_arguments
from kernels.elementwise_source import Backward, Forward
from kernels.scan_kernel import backward_kernel, carry_kernel, forward_kernel

# Blocks of steps and of pairs (lane, unit): not measured.
BT = 32
BN = 32


def run_forward(code: Forward, module: ModuleType, shape: Shape, outer: Outer) -> None:
    """Fill the chunk's steps of outer.nodes."""
    ext = [as_rows(outer.ext[i], shape.units) for i in code.ext]
    pre, pre_stride = packed(outer.pre)
    nodes = tuple(outer.nodes[at] for at in code.nodes)
    (root, _), *none = code.rings
    assert not none and not code.far, "one state, one step back"
    kinds = _Kinds(shape, nodes[0])
    a, b, start = kinds.buffers()
    edge = shape.front - 1 if shape.forward else shape.steps
    start[0] = outer.nodes[root][edge].flatten()
    tensors = (
        pre, tuple(r.tensor for r in ext), tuple(outer.par[n] for n in code.par), tuple(outer.keep),
        tuple(outer.init) if outer.keep else (), nodes, a, b, start,
        pre_stride, tuple(r.lane for r in ext), shape.steps, shape.lanes, shape.units,
        *random_arguments(code, outer),
    )  # fmt: skip
    constants = {
        "MASKS": module.masks_fwd if code.keys else None, "CELL": module.cell_fwd, "SLOPE": module.slope_fwd,
        "FORWARD": shape.forward, "FRONT": shape.front, "ROOT": code.nodes.index(root),
        "COLUMNS": tuple(shape.columns[at] for at in code.pre), "UNITS": tuple(r.unit for r in ext),
    }  # fmt: skip
    forward_kernel[kinds.grid](*tensors, **constants, LAST=False, **kinds.options)
    kinds.carry(a, b, start)
    forward_kernel[kinds.grid](*tensors, **constants, LAST=True, **kinds.options)


def run_backward(
    code: Backward,
    module: ModuleType,
    shape: Shape,
    outer: Outer,
    grad: Mapping[int, Tensor],
    reads: Mapping[int, tuple[int, int]],
) -> Gradients:
    """As `elementwise.run_backward`."""
    stored = tuple(outer.nodes)
    like = outer.nodes[stored[0]]
    steps, lanes, units = shape.steps, shape.lanes, shape.units
    kinds = _Kinds(shape, like)
    ext = [as_rows(outer.ext[i], units) for i in code.ext]
    grads = [as_rows(grad[at], units) for at in code.grad]
    pre, pre_stride = packed(outer.pre)
    d_pre = None if outer.pre is None else torch.zeros_like(outer.pre, memory_format=torch.contiguous_format)
    d_ext = {i: like.new_empty((steps, lanes, units), dtype=outer.ext[i].dtype) for i in code.d_ext}
    sums = [like.new_empty((kinds.parts, lanes, units), dtype=kinds.dtype) for _ in code.d_par]
    (sent,) = code.sent
    lost = [like.new_empty((kinds.parts, lanes, units), dtype=kinds.dtype)] if outer.keep else []
    a, b, start = kinds.buffers()
    start[0] = 0.0
    tensors = (
        pre, tuple(r.tensor for r in ext), tuple(outer.par[n] for n in code.par), tuple(outer.keep),
        tuple(outer.init) if outer.keep else (), tuple(outer.nodes.values()),
        tuple(r.tensor for r in grads), d_pre, tuple(d_ext.values()), tuple(sums), tuple(lost), a, b, start,
        pre_stride, tuple(r.lane for r in ext), tuple(r.lane for r in grads),
        1 if d_pre is None else d_pre.shape[2], steps, lanes, units, *random_arguments(code, outer),
    )  # fmt: skip
    constants = {
        "MASKS": module.masks_bwd if code.keys else None, "PAST": module.past_bwd, "CELL": module.cell_bwd,
        "SLOPE": module.slope_bwd, "FORWARD": shape.forward, "FRONT": shape.front,
        "COLUMNS": tuple(shape.columns[at] for at in code.pre), "UNITS": tuple(r.unit for r in ext),
        "GRAD_UNITS": tuple(r.unit for r in grads),
        "PAST_NODE": tuple(stored.index(reads[at][0]) for at in code.past),
        "PAST_SHIFT": tuple(reads[at][1] for at in code.past),
        "NOW_NODE": tuple(stored.index(at) for at in code.now), "NOW_SHIFT": (0,) * len(code.now),
        "D_COLUMNS": tuple(shape.columns[at] for at in code.d_pre),
    }  # fmt: skip
    backward_kernel[kinds.grid](*tensors, **constants, LAST=False, **kinds.options)
    kinds.carry(a, b, start)
    backward_kernel[kinds.grid](*tensors, **constants, LAST=True, **kinds.options)
    return Gradients(
        d_pre,
        d_ext,
        {name: x.sum((0, 1)) for name, x in zip(code.d_par, sums, strict=True)},
        {sent: [start[-1].view(lanes, units)]},
        {sent: lost[0].sum((0, 1))} if lost else {},
    )


class _Kinds:
    """What the launches of one direction share."""

    def __init__(self, shape: Shape, like: Tensor):
        self.shape, self.like = shape, like
        wide = like.dtype == torch.float64
        self.dtype = torch.float64 if wide else torch.float32
        self.parts = triton.cdiv(shape.steps, BT)
        self.columns = triton.cdiv(shape.lanes * shape.units, BN)
        self.grid = (self.columns, self.parts)
        compute = tl.float64 if wide else tl.float32
        self.options: dict[str, Any] = {
            "BT": BT, "BN": BN, "COMPUTE": compute, "num_warps": 4, "enable_fp_fusion": True,
        }  # fmt: skip

    def buffers(self) -> tuple[Tensor, Tensor, Tensor]:
        """a and b of each part, and what each starts from, with one row more: [parts (+ 1), B * H]."""
        pairs = self.shape.lanes * self.shape.units
        a, b = (self.like.new_empty((self.parts, pairs), dtype=self.dtype) for _ in range(2))
        return a, b, self.like.new_empty((self.parts + 1, pairs), dtype=self.dtype)

    def carry(self, a: Tensor, b: Tensor, start: Tensor) -> None:
        """Fill `start` behind its first row."""
        carry_kernel[(self.columns,)](
            a,
            b,
            start,
            self.parts,
            self.shape.lanes,
            self.shape.units,
            BN=BN,
            num_warps=1,
            enable_fp_fusion=True,
        )

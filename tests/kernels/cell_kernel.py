"""Calls one generated function on rows of a tensor: what is given, what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.codecache import load
from kernels.codegen import HEADER, Op, function, names_of


@triton.jit
def apply_kernel(p_given, p_out, n, CELL: tl.constexpr, GIVEN: tl.constexpr, BLOCK: tl.constexpr):
    """out[i] = the i-th result of CELL on the rows of `given`, one program for every column."""
    o_n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_n = o_n < n
    given = ()
    for i in tl.static_range(GIVEN):
        given += (tl.load(p_given + i * n + o_n, mask=m_n, other=0.0),)
    out = CELL(given)
    for i in tl.static_range(len(out)):
        tl.store(p_out + i * n + o_n, out[i], mask=m_n)


def source(
    ops: Sequence[Op],
    given: Sequence[int],
    outputs: Sequence[int],
    roots: Mapping[str, int],
    forms: Mapping[str, str],
) -> str:
    """A module with one function `cell` from all of `given` to all of `outputs`."""
    names = names_of(ops, roots)
    return f"{HEADER}\n\n" + function("cell", "-", ops, {"given": given}, {"out": outputs}, names, forms)


def run(text: str, folder: Path, values: Sequence[Tensor], count: int) -> list[Tensor]:
    """The `count` results of the module `text` on values [n] each."""
    given = torch.stack(list(values))
    n = given.shape[1]
    out = torch.full((count, n), float("nan"), dtype=given.dtype)
    cell = load(text, "test", folder).cell
    apply_kernel[(triton.cdiv(n, 16),)](given, out, n, CELL=cell, GIVEN=len(values), BLOCK=16)
    return list(out)

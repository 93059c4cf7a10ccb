"""The smallest kernel that needs the grid barrier, with planted faults to choose from."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.barrier import arrive, new_counters, wait


@triton.jit
def relaxed_barrier(p_counter, target):
    tl.atomic_add(p_counter, 1, sem="relaxed", scope="gpu")
    while tl.atomic_add(p_counter, 0, sem="relaxed", scope="gpu") < target:
        pass


@triton.jit
def block_scope_barrier(p_counter, target):
    tl.atomic_add(p_counter, 1, sem="release", scope="cta")
    while tl.atomic_add(p_counter, 0, sem="acquire", scope="cta") < target:
        pass


@triton.jit
def volatile_barrier(p_counter, target):
    tl.atomic_add(p_counter, 1, sem="release", scope="gpu")
    while tl.load(p_counter, volatile=True) < target:
        pass


@triton.jit
def exchange_kernel(
    p_exchange,
    p_out,
    p_counter,
    T,
    BUFFERS: tl.constexpr,
    BARRIER: tl.constexpr,
    EXTRA: tl.constexpr,
    BP: tl.constexpr,
):
    """v[0, p] = p + 1; v[t + 1, p] = p + sum over q of v[t, q] / 4; out[p] = v[T, p]."""
    i_p = tl.program_id(0)
    programs = tl.num_programs(0)
    o_p = tl.arange(0, BP)
    value = i_p + 1.0
    for t in tl.range(T, num_stages=1):
        p_slot = p_exchange + (t % BUFFERS) * BP
        tl.store(p_slot + i_p, value)
        target = (t + 1) * programs + EXTRA
        if BARRIER == "right":
            arrive(p_counter)
            wait(p_counter, target)
        elif BARRIER == "relaxed":
            relaxed_barrier(p_counter, target)
        elif BARRIER == "block":
            block_scope_barrier(p_counter, target)
        elif BARRIER == "volatile":
            volatile_barrier(p_counter, target)
        b_all = tl.load(p_slot + o_p, mask=o_p < programs, other=0.0, cache_modifier=".cg")  # [BP]
        value = i_p + tl.sum(b_all, axis=0) / 4
    tl.store(p_out + i_p, value)


def exchange(
    programs: int,
    steps: int,
    buffers: int = 2,
    barrier: str = "right",
    extra: int = 0,
    counter: int = 0,
    device: str = "cpu",
) -> Tensor:
    """Launch `programs` (at most 8) of them; returns out [programs]."""
    buffer = torch.full((buffers, 8), float("nan"), device=device)
    out = torch.full((programs,), float("nan"), device=device)
    counters = new_counters(1, device) + counter
    exchange_kernel[(programs,)](
        buffer,
        out,
        counters,
        steps,
        BUFFERS=buffers,
        BARRIER=barrier,
        EXTRA=extra,
        BP=8,
        launch_cooperative_grid=True,
        enable_fp_fusion=True,
    )
    return out


def expected(programs: int, steps: int) -> Tensor:
    """What `exchange` computes, one program after another in float64."""
    numbers = torch.arange(programs, dtype=torch.float64)
    values = numbers + 1
    for _ in range(steps):
        values = numbers + values.sum() / 4
    return values.float()

"""A barrier over all programs of a grid that are resident at once. kernels/README.md says why it is right."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COUNTER_STRIDE = 32  # int32 elements: 128 bytes, so that no two counters share a cache line


def new_counters(count: int, device: torch.device | str) -> Tensor:
    """Zeroed barrier counters, int32 [count, COUNTER_STRIDE]: a row per group of programs, new each
    launch.
    """
    return torch.zeros(count, COUNTER_STRIDE, dtype=torch.int32, device=device)


@triton.jit
def arrive(p_counter):
    """Say that this program has written all that the others may read after the barrier."""
    # The release of one thread covers only what it has seen: first all threads must have stored. Triton 3.6
    # puts no bar.sync before a release by itself.
    tl.debug_barrier()
    tl.atomic_add(p_counter, 1, sem="release", scope="gpu")


@triton.jit
def wait(p_counter, target):
    """Return when `target` arrivals were counted; then all that was written before them can be read.

    The counter only grows: the target of the n-th barrier (n = 1, 2, ...) is n times the number of programs.
    """
    # An atomic read, because only that acquires: a volatile load does not. Its result is used, so Triton 3.6
    # keeps it.
    while tl.atomic_add(p_counter, 0, sem="acquire", scope="gpu") < target:
        pass
    # One thread has acquired: the others must not load before it.
    tl.debug_barrier()


@triton.jit
def wait_up_to(p_counter, target, polls, p_watch, barrier, step):
    """As `wait`, but for at most `polls` reads of the counter; what is left for the next wait: `polls` again,
    or 0 after one that was too long. The first of these is noted in this program's row of p_watch.
    """
    seen = tl.atomic_add(p_counter, 0, sem="acquire", scope="gpu")
    left = polls
    while (seen < target) & (left > 0):
        seen = tl.atomic_add(p_counter, 0, sem="acquire", scope="gpu")
        left -= 1
    if (seen < target) & (polls > 0):
        p_row = p_watch + tl.program_id(0) * 4
        tl.store(p_row, 1)
        tl.store(p_row + 1, barrier)
        tl.store(p_row + 2, step)
        tl.store(p_row + 3, seen)
    tl.debug_barrier()
    return tl.where(seen < target, 0, polls)

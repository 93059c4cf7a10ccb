"""Random masks of kernels: the same bits as the framework's, at every counter and for every seed."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from framework.masks import key_of
from framework.random import mask, philox
from kernels.random import drop_mask, random_bits, renewal_mask, zoneout_mask


@triton.jit(do_not_specialize=["seed", "key"])
def bits_kernel(p_counter, p_out, n, seed, key, BLOCK: tl.constexpr):
    """32 random bits of each counter."""
    o_at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    counter = tl.load(p_counter + o_at, mask=o_at < n, other=0)
    tl.store(p_out + o_at, random_bits(seed, key, counter).to(tl.int64), mask=o_at < n)


@triton.jit
def masks_kernel(p_out, n, seed, key, THRESHOLD: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr):
    """The three kinds of masks [3, n] at counters 0 to n - 1."""
    o_at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bits = random_bits(seed, key, o_at.to(tl.int64))
    tl.store(p_out + o_at, drop_mask(bits, THRESHOLD, SCALE, tl.float64), mask=o_at < n)
    tl.store(p_out + n + o_at, zoneout_mask(bits, THRESHOLD, tl.float64), mask=o_at < n)
    tl.store(p_out + 2 * n + o_at, renewal_mask(bits, THRESHOLD, tl.float64), mask=o_at < n)


def as_int32(x: int) -> int:
    return (x + 2**31) % 2**32 - 2**31


@pytest.mark.parametrize("seed", [0, 1, 1234567, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("key", [0, 1, key_of("l1/h:zoneout"), 2**32 - 1])
def test_bits(seed: int, key: int):
    near = torch.arange(50)
    edges = torch.tensor([2**k + d for k in (15, 16, 31, 32, 33, 47, 48, 62) for d in (-1, 0, 1)])
    counter = torch.cat([near, edges])
    out = torch.full_like(counter, -1)
    grid = (triton.cdiv(len(counter), 32),)
    bits_kernel[grid](counter, out, len(counter), as_int32(seed), as_int32(key), BLOCK=32)
    assert torch.equal(out, philox((key << 32) | seed, counter))
    assert len(out.unique()) > 70  # of 74: they differ


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.7, 0.9, 0.999])
def test_masks(p: float):
    steps, lanes, size = 5, 3, 7
    hit = mask(99, "l/h:mask", steps, lanes, size, p).flatten().double()
    n = hit.numel()
    out = torch.full((3, n), float("nan"), dtype=torch.float64)
    masks_kernel[(triton.cdiv(n, 64),)](
        out, n, 99, as_int32(key_of("l/h:mask")), int(p * 2**32), 1.0 / (1.0 - p), BLOCK=64
    )
    assert torch.equal(out, torch.stack([(1.0 - hit) / (1.0 - p), hit, 1.0 - hit]))


def launch_bits(seeds: list[int]) -> None:
    """For the compiler: every seed and key, and no more than one kernel."""
    counter = torch.arange(1000)
    for seed in seeds:
        bits_kernel[(8,)](counter, torch.empty_like(counter), 1000, as_int32(seed), as_int32(seed), BLOCK=128)
    device = triton.runtime.driver.active.get_current_device()
    assert len(bits_kernel.device_caches[device][0]) == 1


@pytest.mark.parametrize("chip", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_compiled(compiled, chip: str):
    kernels = compiled(
        "tests.kernels.test_random:launch_bits", chip, (), seeds=[1, 16, 0, 2**31, 2**32 - 1, 7]
    )
    assert all(kernel.stack == 0 and kernel.registers <= 64 for kernel in kernels)

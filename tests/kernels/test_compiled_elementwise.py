"""Loops without exchange as the compiler sees them: nothing spilled, nothing in the way of the loads."""

from __future__ import annotations

import pytest

CALL = "tests.kernels.elementwise_cases:chunk"
SHAPE = {"lanes": 16, "units": 512, "steps": 100, "dtype": "bfloat16"}
CHIPS = ["sm_80", "sm_90", "sm_100", "gfx942"]


def check(kernels):
    assert [k.name for k in kernels] == ["forward_kernel", "backward_kernel"]
    for kernel in kernels:
        assert kernel.grid == (128, 1, 1)  # 8192 pairs of lane and unit
        assert kernel.stack == 0 and kernel.spills_in_loops == 0
        assert kernel.registers <= 128  # of 255: eight programs of 64 threads would fit twice
        assert kernel.shared == 0
        assert kernel.loops, "there must be a loop over time"


@pytest.mark.parametrize("chip", CHIPS)
def test_masked_cell(compiled, chip):
    kernels = compiled(CALL, chip, ("p_pre", "p_nodes"), cell="sru", masked=True, **SHAPE)
    check(kernels)
    forward, backward = kernels
    # Inputs of four steps before the loop, of the next four in it; the boundary once.
    assert forward.loads["p_pre"] == {0: 4, 1: 4} and forward.loads["p_nodes"] == {0: 1}
    assert backward.loads["p_pre"] == {0: 4, 1: 4} and backward.loads["p_nodes"] == {0: 4, 1: 4}
    if chip != "gfx942":  # there pointers are a base and an offset that buffers take, checked for its range
        assert all(kernel.offsets == ["i64"] for kernel in kernels)


@pytest.mark.parametrize("chip", CHIPS)
def test_random_masks(compiled, chip):
    """Masks cost arithmetic, and no memory: of all that is loaded nothing is one."""
    kernels = compiled(CALL, chip, ("p_ext",), cell="masks", seed=7, **SHAPE)
    check(kernels)
    assert all(not any(kernel.loads["p_ext"].values()) for kernel in kernels)


def test_seed_does_not_recompile(compiled):
    compiled("tests.kernels.elementwise_cases:seeds", "sm_90")


def test_far_reads(compiled):
    """Reads further back than the ring are loaded in the loop, behind a barrier after the store."""
    kernels = compiled(CALL, "sm_90", ("p_nodes",), cell="", delay=9, **SHAPE)
    check(kernels)
    forward = kernels[0]
    assert forward.loads["p_nodes"] == {0: 1, 1: 4}
    assert forward.events.count("barrier") == 4


def test_number_of_steps_and_lanes_does_not_recompile(compiled):
    compiled("tests.kernels.elementwise_cases:sizes", "sm_90")

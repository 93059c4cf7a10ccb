"""Loops in one launch as the compiler sees them: what each has alone, in one grid of all their programs."""

from __future__ import annotations

import pytest

from tests.kernels.fake_driver import CHIPS
from tests.kernels.inspect_code import TENSOR_CORE
from tests.kernels.test_compiled_persistent import in_order

# chip, cells (the second one runs backward in time), units, dtype, with lengths or resets
CASES = [
    ("sm_90", "lstm", "lstm", 512, "bfloat16", False),
    ("sm_80", "lstm", "lstm", 64, "bfloat16", True),
    ("gfx942", "gru", "gru", 256, "bfloat16", False),
]
SLOW = [
    ("sm_90", "lstm", "lstm", 1024, "bfloat16", False),
    ("sm_90", "lstm", "lstm", 128, "bfloat16", True),
    ("sm_80", "lstm_peephole", "lstm_peephole", 256, "float16", True),
    ("sm_86", "gru", "gru", 256, "float16", False),
    ("sm_100", "lstm", "lstm", 512, "bfloat16", False),
    ("sm_90", "lstm", "gru", 512, "bfloat16", False),
    ("sm_90", "lstm_projection", "rhn", 256, "float16", True),
]


@pytest.mark.parametrize(
    ("chip", "left", "right", "units", "dtype", "masked"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_pair(compiled, chip, left, right, units, dtype, masked):
    """One launch forward, one backward (`pair` asserts it), without spills."""
    options = {"lanes": 16, "units": units, "dtype": dtype, "masked": masked}
    weights = ("p_w0_0", "p_w0_1")
    kernels = compiled("tests.kernels.joint_cases:pair", chip, weights, left=left, right=right, **options)
    assert [k.name for k in kernels] == ["joint_forward_kernel", "joint_backward_kernel"]
    limits = CHIPS[chip]
    for kernel in kernels:
        assert 1 < kernel.grid[0] <= limits.units
        assert kernel.stack == 0 and kernel.spills_in_loops == 0
        assert kernel.registers <= limits.registers
        assert kernel.shared <= limits.shared
        assert kernel.time_loop.count(*TENSOR_CORE) > 0
        assert all(set(kernel.loads[w]) == {0} for w in weights), kernel.loads  # 0: before all loops
        assert kernel.cooperative == (kernel.grid[0] > 2)
        if kernel.cooperative and chip.startswith("sm_"):
            in_order(kernel.events)


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["sm_80", "sm_90"])
def test_room_is_that_of_the_larger(compiled, chip):
    """Branches lie over each other in shared memory: a launch has room where each of its loops has."""
    options = {"lanes": 16, "units": 256, "dtype": "bfloat16", "masked": False}
    joint = compiled(
        "tests.kernels.joint_cases:pair", chip, ("p_w0_0", "p_w0_1"), left="lstm", right="gru", **options
    )
    alone = [
        compiled("tests.kernels.loop_cases:chunk", chip, ("p_w0",), runner="persistent", cell=cell, **options)
        for cell in ("lstm", "gru")
    ]
    for kernel, *each in zip(joint, *alone, strict=True):
        assert kernel.shared <= max(k.shared for k in each)
        assert kernel.grid[0] == sum(k.grid[0] for k in each)

"""Persistent loops as the compiler sees them: weights on the chip, products by tensor cores, no spills."""

from __future__ import annotations

from typing import Any

import pytest

from framework.choose import choose
from framework.machine import Machine
from framework.plan import make_plan
from kernels.launch import chip_name
from tests.gpu.cases import graph_of
from tests.kernels.fake_driver import CHIPS
from tests.kernels.inspect_code import TENSOR_CORE

SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
WEIGHTS = tuple(f"p_w{k}" for k in range(8))  # of one cell there are no more

# chip, cell, units, dtype, with lengths or resets
CASES = [
    ("sm_80", "lstm", 64, "bfloat16", True),
    ("sm_80", "gru", 64, "float32", False),
    ("sm_86", "gru_cudnn", 64, "float16", False),
    ("sm_90", "lstm", 128, "bfloat16", True),
    ("sm_90", "gru", 64, "float32", False),
    ("sm_90", "lstm_norm", 64, "bfloat16", False),
    ("sm_90", "nas", 64, "bfloat16", False),
    ("sm_90", "rhn", 128, "bfloat16", False),
    ("sm_90", "lstm_projection", 48, "float16", False),
    ("sm_100", "lstm", 128, "bfloat16", True),
    ("sm_100", "gru", 64, "float16", False),
    ("gfx942", "gru", 64, "bfloat16", False),
    ("gfx942", "mgu", 64, "float32", True),
]
# What spilled once.
ONCE = [
    *(("gfx942", cell, 64, "bfloat16", False) for cell in ("lstm_norm", "mlstm", "nas", "rhn")),
    ("gfx942", "lstm_peephole", 128, "bfloat16", False),
    ("sm_100", "lstm", 64, "float32", False),
    ("sm_90", "mlstm", 64, "float32", False),
]


def choice(cell: str, units: int, dtype: str, chip: str, runner: str = "persistent") -> list[Any]:
    """What a plan takes for each loop of a cell on a chip, when a runner is asked for."""
    there = CHIPS[chip]
    name = chip_name(there.backend, there.arch)
    on = Machine("cuda", name, SHORT[dtype], there.shared, there.units)
    return [choose(c, runner, on) for c in make_plan(graph_of(cell, units)).components]


@pytest.mark.parametrize(
    ("chip", "cell", "units", "dtype", "masked"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in ONCE)],
)
def test_loop(compiled, chip, cell, units, dtype, masked):
    """Forward and backward of what plans take."""
    assert all(c.runner == "persistent" for c in choice(cell, units, dtype, chip))
    options = {"runner": "persistent", "cell": cell, "units": units, "dtype": dtype, "masked": masked}
    kernels = compiled("tests.kernels.loop_cases:chunk", chip, WEIGHTS, lanes=16, **options)
    assert [k.name for k in kernels] == ["forward_kernel", "backward_kernel"]
    limits = CHIPS[chip]
    for kernel in kernels:
        assert kernel.stack == 0 and kernel.spills_in_loops == 0
        assert kernel.registers <= limits.registers
        assert kernel.shared <= limits.shared
        assert kernel.time_loop.count(*TENSOR_CORE) > 0
        assert any(kernel.loads[w] for w in WEIGHTS)
        assert all(set(kernel.loads[w]) <= {0} for w in WEIGHTS), kernel.loads  # 0: before all loops


# chip, runner, cell, units, dtype: over many programs.
MANY = [
    ("sm_80", "persistent", "gru", 256, "float16"),
    ("sm_90", "persistent", "lstm", 512, "bfloat16"),
    ("sm_90", "streamed", "lstm", 2048, "bfloat16"),
    ("sm_100", "persistent", "gru", 512, "bfloat16"),
    ("gfx942", "persistent", "lstm", 256, "bfloat16"),
    ("sm_90", "persistent", "lstm_norm", 256, "bfloat16"),
]
SLOW = [
    *((chip, "persistent", "lstm_norm", 256, "bfloat16") for chip in ("sm_80", "sm_100", "gfx942")),
    *(("sm_100", "persistent", cell, units, "float32")
      for cell, units in (("lstm", 128), ("lstm", 256), ("nas", 64), ("rhn", 64), ("mlstm", 64))),
    *((chip, "streamed", "gru", 8192, "bfloat16") for chip in ("sm_80", "sm_90", "sm_100")),
    *((chip, "persistent", cell, 256, "float16")
      for chip in ("sm_80", "sm_86", "sm_90", "sm_100", "gfx942")
      for cell in ("lstm", "gru", "rhn", "nas", "lstm_projection")),
    *((chip, "persistent", "lstm", 1024, "bfloat16") for chip in ("sm_90", "sm_100")),
    *((chip, "persistent", "lstm", 512, "float16") for chip in ("sm_80", "sm_90", "sm_100")),
    ("sm_90", "persistent", "lstm", 256, "float32"),
    ("sm_80", "persistent", "gru", 256, "float32"),
    ("sm_80", "streamed", "lstm", 2048, "float16"),
    ("sm_90", "streamed", "gru", 4096, "bfloat16"),
    ("sm_90", "streamed", "lstm", 2048, "float32"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("chip", "runner", "cell", "units", "dtype"),
    [*MANY, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW if case not in MANY)],
)
def test_many_programs(compiled, chip, runner, cell, units, dtype):
    """What plans take of loops whose weights are spread; or come from L2, in part or all."""
    assert all(c.runner == runner for c in choice(cell, units, dtype, chip, runner))
    options = {"runner": runner, "cell": cell, "units": units, "dtype": dtype}
    kernels = compiled("tests.kernels.loop_cases:chunk", chip, WEIGHTS, lanes=16, **options)
    assert [k.name for k in kernels] == ["forward_kernel", "backward_kernel"]
    limits = CHIPS[chip]
    for kernel in kernels:
        assert 1 < kernel.grid[0] <= limits.units and kernel.cooperative
        assert kernel.stack == 0 and kernel.spills_in_loops == 0
        assert kernel.registers <= limits.registers
        assert kernel.shared <= limits.shared
        assert kernel.time_loop.count(*TENSOR_CORE) > 0
        depths = {depth for w in WEIGHTS for depth in kernel.loads[w]}
        assert depths == {0} if runner == "persistent" else depths & {2, 3}, kernel.loads
        if chip.startswith("sm_"):
            in_order(kernel.events)


def in_order(events: list[str]) -> None:
    """All threads have stored before one releases, and none loads before one has acquired.

    The first wait, at the start of a step, stands before the first arrival.
    """
    marks = [i for i, event in enumerate(events) if event in ("release", "acquire")]
    assert {events[i] for i in marks} == {"release", "acquire"}
    for i in marks:
        if events[i] == "release":
            before = next(e for e in reversed(events[:i]) if e in ("barrier", "store", "acquire"))
            assert before == "barrier", f"{before}, then release"
        else:
            after = next(e for e in events[i + 1 :] if e in ("barrier", "load", "store", "release"))
            assert after == "barrier", f"acquire, then {after}"


def test_order_is_seen():
    """`in_order` must tell a missing bar.sync on either side."""
    right = ["store", "barrier", "release", "load", "L:", "acquire", "-> L", "barrier", "load"]
    in_order(right)
    for wrong in (
        ["store", "release", "acquire", "barrier", "load"],
        ["store", "barrier", "release", "acquire", "load"],
        ["barrier", "store", "release", "acquire", "barrier", "load"],
        ["store", "barrier", "load"],
    ):
        with pytest.raises(AssertionError):
            in_order(wrong)


def test_number_of_steps_and_lanes_does_not_recompile(compiled):
    compiled("tests.kernels.persistent_cases:sizes", "sm_90")


def test_seed_does_not_recompile(compiled):
    compiled("tests.kernels.persistent_cases:seeds", "sm_90")


def test_what_is_too_large_is_refused():
    """Not even many programs hold it: the matrices of 16,384 units take 2 GiB in bfloat16."""
    (c,) = choice("lstm", 16384, "bfloat16", "sm_90")
    assert c.runner != "persistent" and c.notes[0].startswith("persistent: "), c

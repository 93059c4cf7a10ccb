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

SPILLS = "the layout does not count what products of float32 in three parts keep in registers"

# chip, cell, units, dtype, with lengths or resets
CASES = [
    ("sm_80", "lstm", 64, "bfloat16", True),
    pytest.param("sm_80", "gru", 64, "float32", False, marks=pytest.mark.xfail(reason=SPILLS, strict=True)),
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


def choice(cell: str, units: int, dtype: str, chip: str) -> list[Any]:
    """What a plan takes for each loop of a cell on a chip, when persistent is asked for."""
    there = CHIPS[chip]
    name = chip_name(there.backend, there.arch)
    on = Machine("cuda", name, SHORT[dtype], there.shared, there.units)
    return [choose(c, "persistent", on) for c in make_plan(graph_of(cell, units)).components]


@pytest.mark.parametrize(("chip", "cell", "units", "dtype", "masked"), CASES)
def test_loop(compiled, chip, cell, units, dtype, masked):
    """Forward and backward of what plans take."""
    assert all(c.runner == "persistent" for c in choice(cell, units, dtype, chip))
    options = {"runner": "persistent", "cell": cell, "units": units, "dtype": dtype, "masked": masked}
    kernels = compiled("tests.kernels.loop_cases:chunk", chip, WEIGHTS, lanes=16, **options)
    assert [k.name for k in kernels] == ["forward_kernel", "backward_kernel"]
    limits = CHIPS[chip]
    for kernel in kernels:
        assert kernel.stack == 0 and kernel.spills_in_loops == 0
        assert kernel.registers < limits.registers
        assert kernel.shared <= limits.shared
        assert kernel.time_loop.count(*TENSOR_CORE) > 0
        assert any(kernel.loads[w] for w in WEIGHTS)
        assert all(set(kernel.loads[w]) <= {0} for w in WEIGHTS), kernel.loads  # 0: before all loops


def test_number_of_steps_and_lanes_does_not_recompile(compiled):
    compiled("tests.kernels.persistent_cases:sizes", "sm_90")


def test_seed_does_not_recompile(compiled):
    compiled("tests.kernels.persistent_cases:seeds", "sm_90")


def test_what_is_too_large_is_refused():
    """Not even many programs hold it: the matrices of 16,384 units take 2 GiB in bfloat16."""
    (c,) = choice("lstm", 16384, "bfloat16", "sm_90")
    assert c.runner != "persistent" and c.notes[0].startswith("persistent: "), c

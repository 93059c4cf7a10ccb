"""What the planner counts for a program on a chip is never less than what the compiler then takes."""

from __future__ import annotations

import pytest

from framework import persistent_fit
from framework.component import Component
from framework.machine import Machine
from framework.plan import make_plan
from kernels.launch import chip_name
from tests.gpu.cases import graph_of
from tests.kernels.fake_driver import CHIPS
from tests.kernels.test_compiled_persistent import SHORT

SOME = [("sm_90", "lstm", 512, "bfloat16"), ("sm_80", "gru", 256, "float32")]
SWEEP = [
    (chip, cell, units, dtype)
    for cell, units in (
        ("lstm", 64), ("lstm", 256), ("lstm", 1024), ("gru", 384), ("gru", 768), ("lstm_norm", 256),
        ("lstm_projection", 512), ("rhn", 256), ("nas", 256), ("mgu", 640), ("lstm_cifg", 200),
        ("rnn_tanh", 1536),
    )
    for chip in CHIPS
    for dtype in ("bfloat16", "float16", "float32")
]  # fmt: skip


def on(chip: str, dtype: str) -> Machine:
    there = CHIPS[chip]
    return Machine("cuda", chip_name(there.backend, there.arch), SHORT[dtype], there.shared, there.units)


def predicted(c: Component, machine: Machine, streamed: bool, lanes: int) -> int:
    """Bytes of shared memory of one program, by the planner's count."""
    from framework.persistent import cell_of, derivative_of
    from kernels.persistent_tuned import numbers_of

    layout = persistent_fit.layout_of(c, machine, streamed).at(lanes)
    if layout.programs == 1:
        found = persistent_fit.fit(c, machine)
        assert not isinstance(found, str)
        numbers = found.numbers
    else:
        numbers = numbers_of(cell_of(c, True), derivative_of(c), layout)
    return numbers * persistent_fit.bytes_of(machine) + persistent_fit.SPARE


def check(compiled, chip: str, cell: str, units: int, dtype: str, lanes: int) -> None:
    machine = on(chip, dtype)
    (c,) = make_plan(graph_of(cell, units)).components
    refused = persistent_fit.refuses(c, machine)
    runner = "streamed" if refused else "persistent"
    if refused and persistent_fit.refuses_streamed(c, machine):
        return
    layout = persistent_fit.layout_of(c, machine, runner == "streamed").at(lanes)
    options = {"runner": runner, "cell": cell, "units": units, "dtype": dtype, "masked": True}
    kernels = compiled("tests.kernels.loop_cases:chunk", chip, lanes=lanes, **options)
    print(runner, layout, [(k.name, k.shared, k.registers, k.stack) for k in kernels])
    for kernel in kernels:
        assert kernel.grid[0] <= machine.units or layout.programs == 1
        assert kernel.cooperative == (layout.programs > 1)
        assert kernel.shared <= CHIPS[chip].shared
        # A multiprocessor has registers for the program, or a cooperative launch is refused: 64 K of 32 bits
        # on NVIDIA's; on AMD's a SIMD has 512 for each of a wave's threads, so four SIMDs have four waves.
        if CHIPS[chip].backend == "cuda":
            assert kernel.registers * kernel.warps * 32 <= 65536
            assert kernel.shared <= predicted(c, machine, runner == "streamed", lanes)
        else:
            assert kernel.warps <= 8 and kernel.registers * kernel.warps <= 4 * 512


@pytest.mark.parametrize(("chip", "cell", "units", "dtype"), SOME)
def test_no_more_than_counted(compiled, chip, cell, units, dtype):
    check(compiled, chip, cell, units, dtype, 16)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [16, 300])
@pytest.mark.parametrize(("chip", "cell", "units", "dtype"), SWEEP)
def test_sweep(compiled, chip, cell, units, dtype, lanes):
    check(compiled, chip, cell, units, dtype, lanes)

"""What machines can do: the constants by which times are predicted. Pure data, no torch.

Times are microseconds, sizes bytes, rates per microsecond (1 GB/s is 1e3 bytes per microsecond, 1 TFLOP/s
is 1e6 FLOP).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from framework.machine import CHIPS as PLANNED
from framework.machine import LIKE, Machine


class Rate(NamedTuple):
    """FLOP per microsecond of a product of `rows` rows with a matrix of `weights` numbers."""

    rows: int
    weights: int
    flops: float


@dataclass(frozen=True)
class CpuConstants:
    """Of a CPU in float32, as `scripts/bench/ceilings.py` measures them.

    | field | meaning |
    |---|---|
    | dispatch, view | calling one op of torch; making one view of a step |
    | recorded | one op that autograd records; with its derivative |
    | call | a call of a network without work; with its backward |
    | cheap, sigmoid, tanh, rows | each number of a pointwise op in a cache, of a norm over units |
    | products, plain | rates of products as the torch runner does them, and as torch.addmm comes |
    | copy, fresh | bytes of a large copy (read and written); of memory that is written for the first time |
    | fused, gru, rnn | a step of torch's own LSTM, GRU, RNN without work; with its backward |
    """

    threads: int
    dispatch: float
    view: float
    recorded: tuple[float, float]
    call: tuple[float, float]
    cheap: float
    sigmoid: float
    tanh: float
    rows: float
    products: tuple[Rate, ...]
    plain: tuple[Rate, ...]
    copy: float
    fresh: float
    fused: tuple[float, float]
    gru: tuple[float, float]
    rnn: tuple[float, float]


@dataclass(frozen=True)
class GpuConstants:
    """Of a GPU. None of them was measured by this project: data sheets, and assumptions that say so.

    | field | meaning |
    |---|---|
    | clock | cycles in a microsecond |
    | units | multiprocessors |
    | flops | dense products by tensor cores, FLOP per microsecond of each dtype, as data sheets say |
    | reached | the part of that which large products get |
    | dram, dram_latency | memory |
    | l2, l2_unit, l2_size, l2_latency | the cache that all share: all of it, for one multiprocessor |
    | shared_unit | from shared memory into one multiprocessor's tensor cores |
    | trips | latencies of L2 that a barrier takes |
    | pointwise | gates of 16 units x 16 lanes: latency, hardly work |
    | launch | between the starts of two small kernels of one stream |
    | dispatch, view, call | an op of torch, a view, a network on the host |
    | vendor | a step of cuDNN's persistent algorithm, forward and backward |
    """

    name: str
    clock: float
    units: int
    flops: Mapping[str, float]
    dram: float
    l2: float
    l2_size: float
    l2_latency: float
    l2_unit: float
    shared_unit: float
    dram_latency: float = 0.6  # an assumption
    # An assumption: cuBLAS in bf16 gets some 600 to 750 TFLOP/s of the 989 of an H100.
    reached: float = 0.7
    # An assumption: stores reach L2 (there and back), the release, and polls that see the last arrival (one
    # and a half on average).
    trips: float = 3.5
    # An assumption: taking gates apart, functions of 16 units x 16 lanes, converting.
    pointwise: float = 0.25
    launch: float = 2.0  # an assumption
    # An assumption: without a launch a CPU takes 1 us (scripts/bench/results/ceilings.jsonl).
    dispatch: float = 5.0
    view: float = 0.5  # as on a CPU, and so is call
    call: float = 200.0
    # Published for nn.LSTM in fp16 on an H100, B = 16, H = 768, T = 1024: 2.01 ms forward, 5.19 ms with
    # backward, here without what the product of its input should take.
    vendor: tuple[float, float] = (1.8, 3.0)


def _chip(name: str, clock: float, units: int, bf16: float, tf32: float, fp32: float, fp64: float,
          **more: float) -> GpuConstants:  # fmt: skip
    """TFLOP/s as data sheets give them. One multiprocessor gets 64 bytes a cycle from L2, 128 from shared."""
    flops = {"bf16": bf16, "fp16": bf16, "tf32": tf32, "fp32": fp32, "fp64": fp64}
    return GpuConstants(
        name, clock, units, {dtype: 1e6 * x for dtype, x in flops.items()}, l2_unit=64 * clock,
        shared_unit=128 * clock, **more,  # type: ignore[arg-type]
    )  # fmt: skip


# NVIDIA's data sheets of A100, H100 and H200 SXM, B200, its white papers of GA102 and RTX Blackwell (RTX 3090
# Ti, RTX 5090), AMD's of MI300X: clocks, TFLOP/s (dense, sums in float32), memory, L2.
# L2 latency: some 260 cycles and more from the far half (an assumption); of an MI300X through its last cache.
# L2 bandwidth: an H100 delivers 5.5 TB/s; of the others 60 % of 5,120 bytes a cycle (A100 white paper), the
# H100's by clock and multiprocessors (B200), the Infinity Cache's 17.2 TB/s at 60 % (MI300X), and 60 % of 32
# bytes a cycle for each multiprocessor of the RTX cards: assumptions.
CHIPS: dict[str, GpuConstants] = {
    "A100": _chip("A100", 1410, 108, 312, 156, 19.5, 19.5, dram=2.04e6, l2=4.3e6, l2_size=40e6,
                  l2_latency=0.2),
    "H100": _chip("H100", 1750, 132, 989, 495, 67, 67, dram=3.35e6, l2=5.5e6, l2_size=50e6, l2_latency=0.18),
    "H200": _chip("H200", 1750, 132, 989, 495, 67, 67, dram=4.8e6, l2=5.5e6, l2_size=50e6, l2_latency=0.18),
    "B200": _chip("B200", 1850, 148, 2250, 1125, 75, 37, dram=8e6, l2=6.5e6, l2_size=126e6, l2_latency=0.2),
    "MI300X": _chip("MI300X", 2100, 304, 1307, 653, 163, 163, dram=5.3e6, l2=1e7, l2_size=256e6,
                    l2_latency=0.35),
    "RTX 3090 Ti": _chip("RTX 3090 Ti", 1860, 84, 80, 40, 40, 0.63, dram=1.01e6, l2=3e6, l2_size=6e6,
                         l2_latency=0.15),
    "RTX 5090": _chip("RTX 5090", 2407, 170, 210, 105, 105, 1.64, dram=1.79e6, l2=7.8e6, l2_size=96e6,
                      l2_latency=0.15),
}  # fmt: skip
USUAL = {"sm_80": "A100", "sm_90": "H200", "sm_100": "B200", "gfx9": "MI300X", "sm_86": "RTX 3090 Ti",
         "sm_120": "RTX 5090"}  # fmt: skip


def gpu_constants(machine: Machine) -> GpuConstants | None:
    """Those of a machine's GPU by its name, else of the usual model of its chip that is nearest to it in
    shared memory, then in multiprocessors; None: not known.
    """
    for name, k in CHIPS.items():
        if name in machine.name:
            return k
    alike = [chip for chip in PLANNED if LIKE.get(chip, chip) == machine.chip]
    if not alike:
        return None

    def away(chip: str) -> tuple[int, int]:
        shared, units = PLANNED[chip]
        return abs(shared - machine.shared), abs(units - machine.units)

    return CHIPS[USUAL[min(alike, key=away)]]

"""Where a runner was measured faster than the one after it: data by which `auto` takes torch's own LSTM, GRU
and RNN, and loops compiled for a CPU.
"""

from __future__ import annotations

from typing import NamedTuple

from framework.component import Component
from framework.machine import Machine
from framework.measured_rows import COMPILED


class Row(NamedTuple):
    """One comparison, forward and backward of one layer, both ways with the product of the input.

    place: a chip, or "cpu"; kind, size: of the loop (see `vanilla.py`); ratio, forward: how many times longer
    our own runner takes, forward and backward, and for a forward alone (above 1: torch's is faster).
    """

    place: str
    dtype: str
    kind: str
    size: int
    lanes: int
    ratio: float
    forward: float


# scripts/bench/fused.py on one core of an AMD EPYC, T = 128, torch 2.13: scripts/bench/results/fused.jsonl.
# No GPU has been measured.
TABLE: tuple[Row, ...] = (
    Row("cpu", "fp32", "lstm", 32, 1, 4.03, 5.31),
    Row("cpu", "fp32", "lstm", 32, 8, 3.52, 7.21),
    Row("cpu", "fp32", "lstm", 32, 32, 2.33, 3.77),
    Row("cpu", "fp32", "lstm", 128, 1, 2.42, 3.06),
    Row("cpu", "fp32", "lstm", 128, 8, 2.69, 2.87),
    Row("cpu", "fp32", "lstm", 128, 32, 1.68, 1.75),
    Row("cpu", "fp32", "lstm", 512, 1, 1.26, 1.32),
    Row("cpu", "fp32", "lstm", 512, 8, 1.63, 1.99),
    Row("cpu", "fp32", "lstm", 512, 32, 0.93, 1.09),
    Row("cpu", "fp32", "gru", 32, 1, 0.31, 1.41),
    Row("cpu", "fp32", "gru", 32, 8, 0.49, 1.2),
    Row("cpu", "fp32", "gru", 32, 32, 0.59, 1.06),
    Row("cpu", "fp32", "gru", 128, 1, 0.45, 1.17),
    Row("cpu", "fp32", "gru", 128, 8, 0.65, 0.58),
    Row("cpu", "fp32", "gru", 128, 32, 0.77, 0.99),
    Row("cpu", "fp32", "gru", 512, 1, 0.51, 0.93),
    Row("cpu", "fp32", "gru", 512, 8, 0.64, 0.87),
    Row("cpu", "fp32", "gru", 512, 32, 1.14, 0.91),
    Row("cpu", "fp32", "rnn_tanh", 32, 1, 0.59, 1.1),
    Row("cpu", "fp32", "rnn_tanh", 32, 8, 1.07, 1.02),
    Row("cpu", "fp32", "rnn_tanh", 32, 32, 0.4, 1.11),
    Row("cpu", "fp32", "rnn_tanh", 128, 1, 0.68, 1.1),
    Row("cpu", "fp32", "rnn_tanh", 128, 8, 0.8, 1.02),
    Row("cpu", "fp32", "rnn_tanh", 128, 32, 0.85, 1.54),
    Row("cpu", "fp32", "rnn_tanh", 512, 1, 0.52, 0.73),
    Row("cpu", "fp32", "rnn_tanh", 512, 8, 0.51, 0.7),
    Row("cpu", "fp32", "rnn_tanh", 512, 32, 0.59, 0.72),
    Row("cpu", "fp32", "rnn_relu", 32, 1, 0.51, 1.11),
    Row("cpu", "fp32", "rnn_relu", 32, 8, 0.21, 1.42),
    Row("cpu", "fp32", "rnn_relu", 32, 32, 0.84, 1.17),
    Row("cpu", "fp32", "rnn_relu", 128, 1, 0.64, 1.15),
    Row("cpu", "fp32", "rnn_relu", 128, 8, 0.83, 2.97),
    Row("cpu", "fp32", "rnn_relu", 128, 32, 0.71, 0.81),
    Row("cpu", "fp32", "rnn_relu", 512, 1, 0.57, 0.48),
    Row("cpu", "fp32", "rnn_relu", 512, 8, 0.68, 0.84),
    Row("cpu", "fp32", "rnn_relu", 512, 32, 0.59, 0.47),
)


def unproven(c: Component, machine: Machine) -> str:
    """Why `auto` does not take torch's own for a recognised loop there, or "" where it was faster.

    A loop is judged by all rows of the next larger size, or the largest: how many lanes there will be is not
    known.
    """
    found = c.vanilla
    if isinstance(found, str):
        return found
    place = machine.chip or machine.device
    kind = f"{found.kind} with projection" if found.project else found.kind
    rows = [r for r in TABLE if (r.place, r.dtype, r.kind) == (place, machine.dtype, kind)]
    if not rows:
        return f"it was not measured: {kind}, {machine.dtype}, {place}"
    larger = [r.size for r in rows if r.size >= found.size]
    size = min(larger) if larger else max(r.size for r in rows)
    slower = [r for r in rows if r.size == size and min(r.ratio, r.forward) <= 1.0]
    if slower:
        worst = min(slower[0].ratio, slower[0].forward)
        return f"it was slower with {size} units and {slower[0].lanes} lanes: {worst:.2f} of our speed"
    return ""


def compiled_is_faster(c: Component, machine: Machine) -> bool:
    """Whether the compiled runner was faster for loops of this kind, in every row of the next larger size (or
    the largest). Smaller loops than the smallest that was measured are not worth compiling.
    """
    if machine.device != "cpu" or not c.states:
        return False
    rows = [r for r in COMPILED if (r.dtype, r.kind) == (machine.dtype, c.kind)]
    units = max(c.cell[c.roots[node]].size for node in c.states)
    if not rows or units < min(r.size for r in rows):
        return False
    larger = [r.size for r in rows if r.size >= units]
    size = min(larger) if larger else max(r.size for r in rows)
    return all(min(ratio, forward) > 1.0 for r in rows if r.size == size for _, ratio, forward in r.at)

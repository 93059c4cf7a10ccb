"""Where a runner was measured faster than the one after it: data by which `auto` takes torch's own LSTM, GRU
and RNN, and loops compiled for a CPU.
"""

from __future__ import annotations

from typing import NamedTuple

from framework.component import Component
from framework.machine import Machine


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


class Compiled(NamedTuple):
    """One comparison of the compiled runner with the torch runner, forward and backward of one layer.

    kind, size: of the loop, the units of its largest state; ratio, forward: how many times longer the torch
    runner takes, forward and backward, and for a forward alone.
    """

    cell: str
    kind: str
    size: int
    lanes: int
    ratio: float
    forward: float


# scripts/bench/compiled.py on an AMD EPYC that others used, too: the processor's time of one thread, T = 128,
# float32, torch 2.13: scripts/bench/results/compiled.jsonl.
COMPILED: tuple[Compiled, ...] = (
    Compiled("lstm", "dense", 64, 1, 3.42, 2.11),
    Compiled("lstm", "dense", 64, 8, 2.44, 3.53),
    Compiled("lstm", "dense", 64, 32, 2.1, 2.42),
    Compiled("lstm", "dense", 128, 1, 2.68, 2.84),
    Compiled("lstm", "dense", 128, 8, 2.36, 2.66),
    Compiled("lstm", "dense", 128, 32, 1.79, 1.87),
    Compiled("lstm", "dense", 512, 1, 1.44, 1.38),
    Compiled("lstm", "dense", 512, 8, 1.82, 2.15),
    Compiled("lstm", "dense", 512, 32, 1.36, 1.69),
    Compiled("gru", "dense", 64, 1, 3.58, 2.64),
    Compiled("gru", "dense", 64, 8, 3.03, 3.19),
    Compiled("gru", "dense", 64, 32, 2.08, 2.5),
    Compiled("gru", "dense", 128, 1, 3.42, 2.39),
    Compiled("gru", "dense", 128, 8, 2.34, 2.78),
    Compiled("gru", "dense", 128, 32, 1.7, 1.93),
    Compiled("gru", "dense", 512, 1, 1.47, 1.56),
    Compiled("gru", "dense", 512, 8, 1.98, 2.45),
    Compiled("gru", "dense", 512, 32, 1.46, 1.5),
    Compiled("lstm_peephole", "dense", 64, 1, 3.87, 4.13),
    Compiled("lstm_peephole", "dense", 64, 8, 3.03, 3.86),
    Compiled("lstm_peephole", "dense", 64, 32, 2.19, 2.49),
    Compiled("lstm_peephole", "dense", 128, 1, 3.14, 3.3),
    Compiled("lstm_peephole", "dense", 128, 8, 2.43, 2.66),
    Compiled("lstm_peephole", "dense", 128, 32, 1.8, 1.87),
    Compiled("lstm_peephole", "dense", 512, 1, 1.36, 1.46),
    Compiled("lstm_peephole", "dense", 512, 8, 1.66, 1.98),
    Compiled("lstm_peephole", "dense", 512, 32, 1.38, 1.39),
    Compiled("lstm_norm", "dense", 64, 1, 10.29, 8.11),
    Compiled("lstm_norm", "dense", 64, 8, 5.27, 6.23),
    Compiled("lstm_norm", "dense", 64, 32, 3.51, 3.05),
    Compiled("lstm_norm", "dense", 128, 1, 6.88, 6.14),
    Compiled("lstm_norm", "dense", 128, 8, 3.89, 4.18),
    Compiled("lstm_norm", "dense", 128, 32, 2.86, 2.35),
    Compiled("lstm_norm", "dense", 512, 1, 2.28, 2.18),
    Compiled("lstm_norm", "dense", 512, 8, 2.51, 2.48),
    Compiled("lstm_norm", "dense", 512, 32, 1.5, 1.64),
    Compiled("rhn", "dense", 64, 1, 5.67, 5.42),
    Compiled("rhn", "dense", 64, 8, 3.52, 5.16),
    Compiled("rhn", "dense", 64, 32, 2.28, 3.05),
    Compiled("rhn", "dense", 128, 1, 3.98, 3.73),
    Compiled("rhn", "dense", 128, 8, 2.43, 3.01),
    Compiled("rhn", "dense", 128, 32, 1.84, 2.17),
    Compiled("rhn", "dense", 512, 1, 1.6, 1.63),
    Compiled("rhn", "dense", 512, 8, 2.09, 2.55),
    Compiled("rhn", "dense", 512, 32, 1.42, 1.65),
    Compiled("mgu", "dense", 64, 1, 5.16, 3.28),
    Compiled("mgu", "dense", 64, 8, 2.84, 2.53),
    Compiled("mgu", "dense", 64, 32, 2.08, 2.69),
    Compiled("mgu", "dense", 128, 1, 3.08, 2.41),
    Compiled("mgu", "dense", 128, 8, 2.43, 2.53),
    Compiled("mgu", "dense", 128, 32, 1.65, 1.93),
    Compiled("mgu", "dense", 512, 1, 1.48, 1.36),
    Compiled("mgu", "dense", 512, 8, 1.86, 2.26),
    Compiled("mgu", "dense", 512, 32, 1.47, 1.62),
    Compiled("indrnn", "elementwise", 64, 1, 1.87, 4.34),
    Compiled("indrnn", "elementwise", 64, 8, 1.66, 3.68),
    Compiled("indrnn", "elementwise", 64, 32, 1.84, 1.8),
    Compiled("indrnn", "elementwise", 128, 1, 1.51, 1.63),
    Compiled("indrnn", "elementwise", 128, 8, 1.73, 1.88),
    Compiled("indrnn", "elementwise", 128, 32, 1.49, 1.51),
    Compiled("indrnn", "elementwise", 512, 1, 1.55, 2.1),
    Compiled("indrnn", "elementwise", 512, 8, 1.17, 1.19),
    Compiled("indrnn", "elementwise", 512, 32, 1.13, 1.1),
    Compiled("sru", "elementwise", 64, 1, 2.52, 3.2),
    Compiled("sru", "elementwise", 64, 8, 1.79, 2.24),
    Compiled("sru", "elementwise", 64, 32, 1.51, 1.44),
    Compiled("sru", "elementwise", 128, 1, 2.43, 2.61),
    Compiled("sru", "elementwise", 128, 8, 1.36, 1.97),
    Compiled("sru", "elementwise", 128, 32, 1.18, 1.38),
    Compiled("sru", "elementwise", 512, 1, 1.34, 1.41),
    Compiled("sru", "elementwise", 512, 8, 1.1, 1.1),
    Compiled("sru", "elementwise", 512, 32, 1.05, 1.05),
    Compiled("mingru", "linear", 64, 1, 2.26, 2.65),
    Compiled("mingru", "linear", 64, 8, 1.59, 1.77),
    Compiled("mingru", "linear", 64, 32, 1.4, 1.24),
    Compiled("mingru", "linear", 128, 1, 1.89, 2.23),
    Compiled("mingru", "linear", 128, 8, 1.36, 2.03),
    Compiled("mingru", "linear", 128, 32, 1.13, 1.28),
    Compiled("mingru", "linear", 512, 1, 1.27, 1.4),
    Compiled("mingru", "linear", 512, 8, 1.06, 1.12),
    Compiled("mingru", "linear", 512, 32, 1.02, 1.06),
    Compiled("minlstm", "linear", 64, 1, 2.22, 3.47),
    Compiled("minlstm", "linear", 64, 8, 1.56, 2.01),
    Compiled("minlstm", "linear", 64, 32, 1.29, 1.43),
    Compiled("minlstm", "linear", 128, 1, 2.02, 2.19),
    Compiled("minlstm", "linear", 128, 8, 1.41, 1.7),
    Compiled("minlstm", "linear", 128, 32, 1.13, 1.2),
    Compiled("minlstm", "linear", 512, 1, 1.25, 1.4),
    Compiled("minlstm", "linear", 512, 8, 1.05, 1.08),
    Compiled("minlstm", "linear", 512, 32, 1.12, 1.04),
)


def compiled_is_faster(c: Component, machine: Machine) -> bool:
    """Whether the compiled runner was faster for loops of this kind, in every row of the next larger size (or
    the largest). Smaller loops than the smallest that was measured are not worth compiling.
    """
    if (machine.device, machine.dtype) != ("cpu", "fp32") or not c.states:
        return False
    rows = [r for r in COMPILED if r.kind == c.kind]
    units = max(c.cell[c.roots[node]].size for node in c.states)
    if not rows or units < min(r.size for r in rows):
        return False
    larger = [r.size for r in rows if r.size >= units]
    size = min(larger) if larger else max(r.size for r in rows)
    return all(min(r.ratio, r.forward) > 1.0 for r in rows if r.size == size)

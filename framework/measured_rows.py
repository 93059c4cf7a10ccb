"""Loops compiled for a CPU against the torch runner, as measured: data for `framework.measured`."""

from __future__ import annotations

from typing import NamedTuple


class Compiled(NamedTuple):
    """One layer by the torch runner and by the compiled one, product of the input included.

    kind, size: of the loop, the units of its largest state; at: lanes, how many times longer the torch runner
    takes forward and backward, and the same for a forward alone.
    """

    dtype: str
    cell: str
    kind: str
    size: int
    at: tuple[tuple[int, float, float], ...]


# scripts/bench/compiled.py on an AMD EPYC (znver5) that others used, too: the processor's time of one thread,
# T = 128, torch 2.13: scripts/bench/results/compiled.jsonl. In bf16 with the processor's products of pairs;
# lstm_norm is not among them: results of torch in bf16 were too far off to be taken for the same.
COMPILED: tuple[Compiled, ...] = (
    Compiled("fp32", "lstm", "dense", 64, ((1, 3.42, 2.11), (8, 2.44, 3.53), (32, 2.1, 2.42))),
    Compiled("fp32", "lstm", "dense", 128, ((1, 2.68, 2.84), (8, 2.36, 2.66), (32, 1.79, 1.87))),
    Compiled("fp32", "lstm", "dense", 512, ((1, 1.44, 1.38), (8, 1.82, 2.15), (32, 1.36, 1.69))),
    Compiled("fp32", "gru", "dense", 64, ((1, 3.58, 2.64), (8, 3.03, 3.19), (32, 2.08, 2.5))),
    Compiled("fp32", "gru", "dense", 128, ((1, 3.42, 2.39), (8, 2.34, 2.78), (32, 1.7, 1.93))),
    Compiled("fp32", "gru", "dense", 512, ((1, 1.47, 1.56), (8, 1.98, 2.45), (32, 1.46, 1.5))),
    Compiled("fp32", "lstm_peephole", "dense", 64, ((1, 3.87, 4.13), (8, 3.03, 3.86), (32, 2.19, 2.49))),
    Compiled("fp32", "lstm_peephole", "dense", 128, ((1, 3.14, 3.3), (8, 2.43, 2.66), (32, 1.8, 1.87))),
    Compiled("fp32", "lstm_peephole", "dense", 512, ((1, 1.36, 1.46), (8, 1.66, 1.98), (32, 1.38, 1.39))),
    Compiled("fp32", "lstm_norm", "dense", 64, ((1, 10.29, 8.11), (8, 5.27, 6.23), (32, 3.51, 3.05))),
    Compiled("fp32", "lstm_norm", "dense", 128, ((1, 6.88, 6.14), (8, 3.89, 4.18), (32, 2.86, 2.35))),
    Compiled("fp32", "lstm_norm", "dense", 512, ((1, 2.28, 2.18), (8, 2.51, 2.48), (32, 1.5, 1.64))),
    Compiled("fp32", "rhn", "dense", 64, ((1, 5.67, 5.42), (8, 3.52, 5.16), (32, 2.28, 3.05))),
    Compiled("fp32", "rhn", "dense", 128, ((1, 3.98, 3.73), (8, 2.43, 3.01), (32, 1.84, 2.17))),
    Compiled("fp32", "rhn", "dense", 512, ((1, 1.6, 1.63), (8, 2.09, 2.55), (32, 1.42, 1.65))),
    Compiled("fp32", "mgu", "dense", 64, ((1, 5.16, 3.28), (8, 2.84, 2.53), (32, 2.08, 2.69))),
    Compiled("fp32", "mgu", "dense", 128, ((1, 3.08, 2.41), (8, 2.43, 2.53), (32, 1.65, 1.93))),
    Compiled("fp32", "mgu", "dense", 512, ((1, 1.48, 1.36), (8, 1.86, 2.26), (32, 1.47, 1.62))),
    Compiled("fp32", "indrnn", "elementwise", 64, ((1, 1.87, 4.34), (8, 1.66, 3.68), (32, 1.84, 1.8))),
    Compiled("fp32", "indrnn", "elementwise", 128, ((1, 1.51, 1.63), (8, 1.73, 1.88), (32, 1.49, 1.51))),
    Compiled("fp32", "indrnn", "elementwise", 512, ((1, 1.55, 2.1), (8, 1.17, 1.19), (32, 1.13, 1.1))),
    Compiled("fp32", "sru", "elementwise", 64, ((1, 2.52, 3.2), (8, 1.79, 2.24), (32, 1.51, 1.44))),
    Compiled("fp32", "sru", "elementwise", 128, ((1, 2.43, 2.61), (8, 1.36, 1.97), (32, 1.18, 1.38))),
    Compiled("fp32", "sru", "elementwise", 512, ((1, 1.34, 1.41), (8, 1.1, 1.1), (32, 1.05, 1.05))),
    Compiled("fp32", "mingru", "linear", 64, ((1, 2.26, 2.65), (8, 1.59, 1.77), (32, 1.4, 1.24))),
    Compiled("fp32", "mingru", "linear", 128, ((1, 1.89, 2.23), (8, 1.36, 2.03), (32, 1.13, 1.28))),
    Compiled("fp32", "mingru", "linear", 512, ((1, 1.27, 1.4), (8, 1.06, 1.12), (32, 1.02, 1.06))),
    Compiled("fp32", "minlstm", "linear", 64, ((1, 2.22, 3.47), (8, 1.56, 2.01), (32, 1.29, 1.43))),
    Compiled("fp32", "minlstm", "linear", 128, ((1, 2.02, 2.19), (8, 1.41, 1.7), (32, 1.13, 1.2))),
    Compiled("fp32", "minlstm", "linear", 512, ((1, 1.25, 1.4), (8, 1.05, 1.08), (32, 1.12, 1.04))),
    Compiled("bf16", "lstm", "dense", 32, ((1, 3.11, 4.2), (8, 6.06, 6.81), (32, 5.61, 5.88))),
    Compiled("bf16", "lstm", "dense", 64, ((1, 8.34, 7.49), (8, 5.41, 6.1), (32, 4.07, 4.24))),
    Compiled("bf16", "lstm", "dense", 128, ((1, 6.85, 6.27), (8, 3.79, 4.42), (32, 2.03, 2.68))),
    Compiled("bf16", "lstm", "dense", 512, ((1, 3.01, 3.5), (8, 1.69, 2.28), (32, 1.4, 1.63))),
    Compiled("bf16", "gru", "dense", 32, ((1, 4.93, 4.39), (8, 9.78, 8.56), (32, 6.74, 7.67))),
    Compiled("bf16", "gru", "dense", 64, ((1, 6.81, 5.1), (8, 7.52, 7.6), (32, 4.59, 5.84))),
    Compiled("bf16", "gru", "dense", 128, ((1, 8.09, 8.1), (8, 4.98, 5.05), (32, 2.8, 3.29))),
    Compiled("bf16", "gru", "dense", 512, ((1, 4.31, 4.68), (8, 2.26, 2.84), (32, 1.7, 1.72))),
    Compiled("bf16", "lstm_peephole", "dense", 32, ((1, 6.5, 3.47), (8, 8.02, 6.22), (32, 5.41, 5.63))),
    Compiled("bf16", "lstm_peephole", "dense", 64, ((1, 9.66, 8.36), (8, 5.73, 6.11), (32, 3.94, 4.93))),
    Compiled("bf16", "lstm_peephole", "dense", 128, ((1, 5.88, 5.62), (8, 4.02, 5.02), (32, 2.39, 2.9))),
    Compiled("bf16", "lstm_peephole", "dense", 512, ((1, 3.31, 4.22), (8, 1.98, 2.45), (32, 1.5, 1.59))),
    Compiled("bf16", "rhn", "dense", 32, ((1, 6.34, 4.34), (8, 11.56, 8.66), (32, 7.64, 9.96))),
    Compiled("bf16", "rhn", "dense", 64, ((1, 12.71, 10.05), (8, 9.81, 11.78), (32, 5.4, 5.85))),
    Compiled("bf16", "rhn", "dense", 128, ((1, 11.52, 11.78), (8, 6.05, 8.02), (32, 3.33, 3.97))),
    Compiled("bf16", "rhn", "dense", 512, ((1, 4.98, 5.73), (8, 2.77, 3.66), (32, 1.87, 2.06))),
    Compiled("bf16", "mgu", "dense", 32, ((1, 4.27, 2.83), (8, 8.06, 6.59), (32, 7.45, 5.98))),
    Compiled("bf16", "mgu", "dense", 64, ((1, 4.81, 2.58), (8, 7.05, 8.17), (32, 4.85, 5.43))),
    Compiled("bf16", "mgu", "dense", 128, ((1, 7.71, 5.93), (8, 5.88, 6.86), (32, 2.8, 3.89))),
    Compiled("bf16", "mgu", "dense", 512, ((1, 5.3, 5.87), (8, 2.5, 2.99), (32, 1.64, 1.77))),
    Compiled("bf16", "indrnn", "elementwise", 32, ((1, 1.65, 1.37), (8, 1.71, 1.46), (32, 2.89, 1.94))),
    Compiled("bf16", "indrnn", "elementwise", 64, ((1, 1.67, 1.29), (8, 2.28, 1.73), (32, 2.44, 1.58))),
    Compiled("bf16", "indrnn", "elementwise", 128, ((1, 2.65, 2.72), (8, 2.21, 1.58), (32, 1.4, 1.74))),
    Compiled("bf16", "indrnn", "elementwise", 512, ((1, 1.95, 1.38), (8, 1.44, 1.37), (32, 1.37, 1.21))),
    Compiled("bf16", "sru", "elementwise", 32, ((1, 2.09, 2.83), (8, 2.25, 2.75), (32, 1.84, 1.72))),
    Compiled("bf16", "sru", "elementwise", 64, ((1, 2.35, 2.24), (8, 1.92, 2.14), (32, 1.76, 2.18))),
    Compiled("bf16", "sru", "elementwise", 128, ((1, 1.54, 1.44), (8, 1.72, 1.98), (32, 1.22, 1.65))),
    Compiled("bf16", "sru", "elementwise", 512, ((1, 1.57, 1.85), (8, 1.15, 1.29), (32, 1.03, 1.12))),
    Compiled("bf16", "mingru", "linear", 32, ((1, 2.33, 1.54), (8, 2.08, 1.32), (32, 1.71, 1.57))),
    Compiled("bf16", "mingru", "linear", 64, ((1, 1.33, 1.33), (8, 1.82, 1.53), (32, 1.41, 1.32))),
    Compiled("bf16", "mingru", "linear", 128, ((1, 1.41, 1.18), (8, 1.51, 1.49), (32, 1.36, 1.29))),
    Compiled("bf16", "mingru", "linear", 512, ((1, 1.55, 1.37), (8, 1.18, 1.15), (32, 1.21, 1.04))),
    Compiled("bf16", "minlstm", "linear", 32, ((1, 1.56, 1.49), (8, 2.05, 2.09), (32, 1.47, 1.48))),
    Compiled("bf16", "minlstm", "linear", 64, ((1, 1.81, 1.54), (8, 2.12, 1.5), (32, 1.68, 1.42))),
    Compiled("bf16", "minlstm", "linear", 128, ((1, 1.5, 1.39), (8, 1.58, 1.55), (32, 1.52, 1.61))),
    Compiled("bf16", "minlstm", "linear", 512, ((1, 1.39, 1.41), (8, 1.14, 1.28), (32, 1.21, 1.08))),
    Compiled("fp64", "lstm", "dense", 32, ((1, 3.63, 4.22), (8, 3.03, 3.92), (32, 2.06, 2.73))),
    Compiled("fp64", "lstm", "dense", 64, ((1, 3.19, 3.12), (8, 2.07, 2.48), (32, 1.45, 1.74))),
    Compiled("fp64", "lstm", "dense", 128, ((1, 2.53, 2.4), (8, 1.73, 2.13), (32, 1.38, 1.54))),
    Compiled("fp64", "lstm", "dense", 512, ((1, 1.55, 1.85), (8, 1.63, 2.05), (32, 1.3, 1.43))),
    Compiled("fp64", "gru", "dense", 32, ((1, 5.68, 6.01), (8, 3.1, 4.48), (32, 2.12, 2.39))),
    Compiled("fp64", "gru", "dense", 64, ((1, 3.09, 3.74), (8, 2.16, 3.39), (32, 1.49, 1.8))),
    Compiled("fp64", "gru", "dense", 128, ((1, 2.74, 3.14), (8, 1.82, 2.21), (32, 1.36, 1.55))),
    Compiled("fp64", "gru", "dense", 512, ((1, 1.31, 1.48), (8, 1.59, 1.91), (32, 1.35, 1.48))),
    Compiled("fp64", "lstm_peephole", "dense", 32, ((1, 5.49, 5.09), (8, 2.85, 3.8), (32, 2.0, 2.38))),
    Compiled("fp64", "lstm_peephole", "dense", 64, ((1, 3.63, 4.41), (8, 2.17, 2.41), (32, 1.61, 1.76))),
    Compiled("fp64", "lstm_peephole", "dense", 128, ((1, 2.58, 2.74), (8, 1.75, 2.17), (32, 1.45, 1.52))),
    Compiled("fp64", "lstm_peephole", "dense", 512, ((1, 1.4, 1.67), (8, 1.76, 2.11), (32, 1.33, 1.49))),
    Compiled("fp64", "lstm_norm", "dense", 32, ((1, 8.56, 9.51), (8, 5.27, 4.94), (32, 2.97, 3.28))),
    Compiled("fp64", "lstm_norm", "dense", 64, ((1, 8.57, 7.6), (8, 3.69, 3.62), (32, 2.35, 2.24))),
    Compiled("fp64", "lstm_norm", "dense", 128, ((1, 5.02, 5.99), (8, 2.68, 3.13), (32, 2.15, 1.83))),
    Compiled("fp64", "lstm_norm", "dense", 512, ((1, 2.18, 2.27), (8, 2.3, 2.23), (32, 1.51, 1.6))),
    Compiled("fp64", "rhn", "dense", 32, ((1, 6.73, 5.19), (8, 4.64, 4.88), (32, 2.72, 3.14))),
    Compiled("fp64", "rhn", "dense", 64, ((1, 4.92, 4.84), (8, 2.85, 3.49), (32, 1.96, 2.35))),
    Compiled("fp64", "rhn", "dense", 128, ((1, 3.42, 4.61), (8, 2.23, 2.99), (32, 2.09, 1.91))),
    Compiled("fp64", "rhn", "dense", 512, ((1, 1.91, 2.37), (8, 2.33, 2.25), (32, 1.45, 1.66))),
)

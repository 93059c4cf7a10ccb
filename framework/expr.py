"""The expression language: text -> tree. Parsed with Python's `ast`, never evaluated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expr:
    """One resolved term of a node's expression; `size` is the length of its value at one step and lane.

    | op | fields used |
    |---|---|
    | num | value |
    | ref | name (a node or input), shift (the value at step t + shift, so `s[t-1]` has shift -1) |
    | slice | args[0], lo, hi |
    | concat | args |
    | add sub mul div neg | args |
    | a pointwise or row function of `ops.FUNCTIONS` | args |
    | full | args[0], weights = (name,) [size, size of source]; of an index input [size, vocab] (a gather) |
    | diag | args[0], weights = (name,) [size] |
    | block | args[0], blocks, weights = (name,) [blocks, size/blocks, source/blocks] |
    | bias | weights = (name,) [size], value (what it starts from) |
    | norm | args[0], weights = (gain, bias), each [size] |
    | softmax stop | args[0] |
    | dropout | args[0], value (probability) |
    | zoneout | args = (new, old), value (probability of keeping old) |

    A value of size 1 broadcasts against any other size.
    """

    op: str
    args: tuple[Expr, ...] = ()
    size: int = 1
    name: str = ""
    shift: int = 0
    value: float = 0.0
    lo: int = 0
    hi: int = 0
    blocks: int = 0
    weights: tuple[str, ...] = ()

"""What the steps of a cell read of each other, and so what is stored of it. No torch and no triton."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kernels.codegen import Op


def stored(
    ops: Sequence[Op], roots: Mapping[str, int], states: Iterable[str], outputs: Iterable[int]
) -> tuple[int, ...]:
    """Ops whose values are stored at every step: states first, then other outputs but reads."""
    ids = [roots[name] for name in states]
    return tuple(dict.fromkeys([*ids, *(at for at in outputs if ops[at].kind != "shift")]))


def distances(ops: Iterable[Op]) -> tuple[int, ...]:
    """Distances of reads at other steps, small first."""
    return tuple(sorted({abs(op.shift) for op in ops if op.kind == "shift"}))

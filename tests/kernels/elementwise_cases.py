"""Launches of loops without exchange, for compiling: called by compile_worker.py."""

from __future__ import annotations

import torch
import triton

from framework.load import load_graph
from framework.plan import make_plan
from framework.runners.loop import Chunk
from framework.runners.triton_elementwise import ElementwiseLoop
from framework.runners.triton_scan import ScanLoop
from kernels.elementwise_kernel import backward_kernel, forward_kernel

MASKED = "zoneout(tanh(dropout(diag(l[t-1]), 0.2) + full(x)), l[t-1], 0.1)"


def loop_of(cell: str, units: int, delay: int = 1, runner: str = "elementwise") -> ElementwiseLoop:
    """The one loop of a cell; with a delay over 1: of one that reads both that far back and one step;
    "masks": of one with dropout and zoneout.
    """
    node = {"cell": cell, "size": units, "in": "x"}
    if delay > 1:
        node = {"size": units, "is": f"tanh(diag(l[t-1]) + diag(l[t-{delay}]) + full(x))"}
    if cell == "masks":
        node = {"size": units, "is": MASKED}
    if cell == "linear masks":
        node = {"size": units, "is": "zoneout(full(x) + bias, dropout(l[t-1], 0.1), 0.6)"}
    graph = load_graph({"inputs": {"x": {"size": 8}}, "nodes": {"l": node}, "outputs": ["l"]})
    (c,) = make_plan(graph).components
    return ScanLoop(c) if runner == "scan" else ElementwiseLoop(c)


def chunk(
    cell: str,
    lanes: int,
    units: int,
    steps: int,
    dtype: str,
    masked: bool = False,
    delay: int = 1,
    seed: int | None = None,
    runner: str = "elementwise",
) -> None:
    """Forward and backward of one chunk; seed: of training."""
    loop, kind = loop_of(cell, units, delay, runner), getattr(torch, dtype)
    c = loop.c

    def empty(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=kind)

    masks = {d: torch.ones(steps, lanes, 1, dtype=torch.bool) for d in loop.distances} if masked else {}
    pre = [empty(steps, lanes, c.width)] if c.targets else []
    ext = [empty(steps, lanes, units) for _ in loop.ext]
    singles = [empty(units) for _ in loop.singles]
    edges = [empty(distance, lanes, units) for distance in c.states.values()]
    init = [empty(units) for _ in c.states]
    what = Chunk(steps, lanes, masks, seed=seed)
    outer = loop.outer(what, len(ext), [*pre, *ext, *singles, *edges, *init])
    loop.forward(what, outer)
    loop.gradients(what, outer, [empty(steps, lanes, units) for _ in c.outputs])


def sizes() -> None:
    """Chunks of many sizes, divisible by 16 and not. Raises AssertionError if more than one pair of kernels
    was compiled.
    """
    before = _compiled()
    for lanes, steps in ((16, 100), (3, 7), (1, 1), (32, 16), (16, 1), (1, 64), (5, 4096)):
        chunk("sru", lanes, 48, steps, "float32", True)
    assert _compiled() == before + 2, f"{_compiled() - before} kernels were compiled"


def seeds() -> None:
    """Chunks with many seeds. Raises AssertionError as `sizes`."""
    before = _compiled()
    for seed in (0, 1, 16, 12345, 2**31 - 1):
        chunk("masks", 4, 48, 9, "float32", seed=seed)
    assert _compiled() == before + 2, f"{_compiled() - before} kernels were compiled"


def _compiled() -> int:
    device = triton.runtime.driver.active.get_current_device()
    return sum(len(kernel.device_caches[device][0]) for kernel in (forward_kernel, backward_kernel))

"""Many launches of one persistent loop, for compiling: called by compile_worker.py."""

from __future__ import annotations

import torch
import triton

from framework import Network
from framework.runners.triton_persistent import PersistentLoop
from tests.gpu.cases import graph_of
from tests.kernels.loop_cases import launch

MASKED = {
    "inputs": {"x": {"size": 8}},
    "nodes": {"l": {"size": 48, "is": "zoneout(tanh(dropout(full(l[t-1]), 0.2) + full(x)), l[t-1], 0.1)"}},
    "outputs": ["l"],
}


def sizes() -> None:
    """Chunks of many sizes, divisible by 16 and not. Raises AssertionError if more than one pair of kernels
    was compiled.
    """
    net = Network(graph_of("lstm_peephole", 48), runner="persistent")
    (c,), loop = net.plan.components, _loop(net)
    for lanes, steps in ((16, 100), (3, 7), (1, 1), (32, 16), (16, 1), (1, 64), (5, 4096), (33, 2)):
        launch(net, 0, c, loop, lanes, torch.float32, True, steps)
    assert _compiled(loop) == 2, f"{_compiled(loop)} kernels were compiled"


def seeds() -> None:
    """Chunks with many seeds. Raises AssertionError as `sizes`."""
    net = Network(MASKED, runner="persistent")
    (c,), loop = net.plan.components, _loop(net)
    for seed in (0, 1, 16, 12345, 2**31 - 1, 2**63 - 1):
        launch(net, 0, c, loop, 4, torch.float32, False, 9, seed)
    assert _compiled(loop) == 2, f"{_compiled(loop)} kernels were compiled"


def _loop(net: Network) -> PersistentLoop:
    (loop,) = net.loops
    assert isinstance(loop, PersistentLoop), loop
    return loop


def _compiled(loop: PersistentLoop) -> int:
    device = triton.runtime.driver.active.get_current_device()
    kernels = [getattr(module, code.name) for code, module in loop._code.values()]
    return sum(len(kernel.device_caches[device][0]) for kernel in kernels)

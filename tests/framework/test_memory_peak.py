"""What memory costs: predictions against a count of all tensors that are alive, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity

from framework import Network, lstm, make_plan
from framework.errors import ConfigError
from framework.load import load_graph
from framework.machine import machine
from framework.memory import kept
from framework.plan import Memory
from scripts.bench.memory import peak_bytes

T, B, F, H = 96, 32, 40, 48
MODES = [("save", None), ("recompute", None), ("save", 32), ("recompute", 48)]
CASES = [("lstm", 2, False), ("lstm", 1, True), ("gru", 1, False), ("lstm_norm", 1, False), ("rhn", 1, True)]
NEAR = 0.05

NOISY = {
    "inputs": {"x": {"size": 3}},
    "nodes": {"h": {"size": 4, "is": "zoneout(tanh(full(x) + full(h[t-1])), h[t-1], 0.3)"}},
    "outputs": ["h"],
}


def allocated(run: Callable[[], object]) -> int:
    """The peak of what the allocator gives out during `run`, beyond what there was. Unlike `peak_bytes` it
    sees scratch of libraries, and leaves autograd to add gradients in place as it does in earnest.
    """
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    result = found.profiler
    assert result is not None and result.kineto_results is not None
    events = [e for e in result.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for e in sorted(events, key=lambda e: e.start_ns()):
        now += e.nbytes()
        peak = max(peak, now)
    return peak


def measured(
    net: Network, steps: int, lanes: int, peak_of: Callable[[Callable[[], object]], int] = peak_bytes
) -> int:
    """The peak of one forward and backward, weights, inputs and gradients of outputs included."""
    size = sum(node.size for node in (net.graph.nodes[n] for n in net.graph.outputs.values()))
    x, dy = torch.randn(steps, lanes, F).to(net.like), torch.randn(steps, lanes, size).to(net.like)

    def run() -> None:
        weights = [p.detach() for p in net.parameters()]
        y, state = net(x.view_as(x))  # views: machine code takes what torch does not see
        del state
        assert isinstance(y, torch.Tensor)
        y.backward(dy.view_as(dy))
        assert weights

    run()  # sources are generated and compiled
    net.zero_grad(set_to_none=True)
    return peak_of(run)


@pytest.mark.parametrize("memory, chunk", MODES)
@pytest.mark.parametrize("cell, layers, both", CASES)
def test_predicted_peak(cell: str, layers: int, both: bool, memory: str, chunk: int | None):
    if both and chunk:
        pytest.skip("chunks only look back")
    graph = lstm(F, H, layers=layers, bidirectional=both, cell=cell).graph
    net = Network(graph, memory=memory, chunk=chunk, runner="torch")
    count, predicted = measured(net, T, B), net.peak_bytes(T, B)
    assert abs(predicted / count - 1) <= NEAR, (count, predicted)


@pytest.mark.parametrize(
    ("cell", "memory", "dtype"),
    [
        ("lstm", "save", torch.float32),
        ("lstm", "recompute", torch.float32),
        ("sru", "save", torch.float32),
        ("rhn", "recompute", torch.float32),
        ("lstm", "save", torch.bfloat16),
        ("lstm", "recompute", torch.bfloat16),
    ],
)
def test_predicted_peak_of_compiled_loops(cell: str, memory: Memory, dtype: torch.dtype):
    pytest.importorskip("llvmlite")
    net = Network(lstm(F, H, cell=cell).graph, memory=memory, runner="compiled").to(dtype)
    count, predicted = measured(net, T, B), net.peak_bytes(T, B)
    assert abs(predicted / count - 1) <= NEAR, (count, predicted)


def test_predicted_peak_of_hoisted_ops_around_a_loop():
    """Of sru most is outside: sums with coefficients, a state that is read one step back."""
    net = Network(lstm(F, H, cell="sru").graph, memory="recompute", runner="torch")
    there = sum(x.nbytes for x in (torch.empty(T, B, F + H), *net.parameters()))
    count, predicted = measured(net, T, B, allocated) + there, net.peak_bytes(T, B)
    assert abs(predicted / count - 1) <= NEAR, (count, predicted)


def test_recompute_takes_less_than_half():
    """Of an LSTM of one layer: 2 of 7 sequences are kept, and blocks of the rest."""
    graph = lstm(F, H).graph
    save, again = (measured(Network(graph, memory=m, runner="torch"), 256, B) for m in ("save", "recompute"))
    assert again < 0.5 * save


def test_chunks_do_not_grow_with_steps():
    """Four times the steps cost inputs, outputs and their gradients, and a state for each part."""
    net = Network(lstm(F, H).graph, chunk=32, runner="torch")
    short, long = measured(net, 64, B), measured(net, 256, B)
    more = 192 * B * 4 * (F + 2 * H) + 6 * B * 4 * 2 * H
    assert abs(long - short - more) <= 0.02 * long


def test_kept_numbers():
    """LSTM of 64 units: saved are the buffer (4 H), h, c and tanh(c); again computed are all but h and c."""
    graph = lstm(F, H).graph
    assert kept(make_plan(graph, runner="torch")) == 7 * H
    assert kept(make_plan(graph, runner="torch", memory="recompute")) == 2 * H


def test_masks_that_runners_draw_are_not_counted():
    """The torch runner reads the mask and one minus it (4 + 4) as sequences; kernels draw them."""
    graph = load_graph(NOISY)
    by_torch, by_kernel = (
        kept(make_plan(graph, runner=r, device=machine("cuda", "sm_90"))) for r in ("torch", "persistent")
    )
    assert by_torch - by_kernel == 8
    assert kept(make_plan(graph, memory="recompute")) == 4


def test_routines_of_others_are_not_predicted():
    net = Network(lstm(F, H).graph, runner="torch-fused")
    with pytest.raises(ConfigError, match="do not say what they keep"):
        net.peak_bytes(T, B)

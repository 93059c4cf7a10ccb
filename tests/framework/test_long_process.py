"""A process that makes one network after the other, as a notebook or a sweep does, keeps nothing of them."""

from __future__ import annotations

import gc
import importlib.util
import linecache
import traceback
from collections.abc import Sequence
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph
from framework.runners import compiled_native, custom_ops
from framework.runners.functions import compile_source
from framework.runners.loop import Chunk
from framework.runners.torch_loop import TorchLoop


def network(size: int, runner: str = "torch") -> Network:
    """A loop of so many units, with weights that are always the same."""
    torch.manual_seed(size)
    nodes = {"h": {"cell": "mgu", "size": size, "in": "x"}}
    return Network(
        load_graph({"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": ["h"]}), runner=runner
    )


def trained(net: Network) -> Tensor:
    """The outputs of a forward and backward, and a step of a stream."""
    torch.manual_seed(0)
    x = torch.randn(4, 2, 3)
    y = net(x)[0]
    y.square().sum().backward()
    net.eval().step(x[0], None)
    return y.detach()


def sources() -> set[str]:
    """Generated sources whose lines are kept for tracebacks."""
    return {name for name in linecache.cache if name.startswith("<loop ")}


def test_sources_go_with_their_network():
    gc.collect()
    before = sources()
    for size in (2, 3, 2):
        net = network(size)
        trained(net)
        assert len(sources() - before) >= 3, "a forward, a backward, a step"
        gone = [ref(loop) for loop in net.loops]
        del net
        gc.collect()
        assert sources() <= before and not any(loop() for loop in gone)


def test_a_source_shows_its_lines_as_long_as_its_function_lives():
    run: Any = compile_source("def run(x):\n    return x.none_of_its_names", "mine")
    again: Any = compile_source("def run(x):\n    return x.another", "mine")
    assert run.__code__.co_filename != again.__code__.co_filename
    del again
    with pytest.raises(AttributeError) as caught:
        run(1)
    assert "return x.none_of_its_names" in "".join(traceback.format_exception(caught.value))
    file = run.__code__.co_filename
    del run, caught
    gc.collect()
    assert file not in linecache.cache


@pytest.mark.skipif(importlib.util.find_spec("llvmlite") is None, reason="needs llvmlite")
def test_native_code_goes_with_its_last_network():
    gc.collect()
    before = set(compiled_native._functions)
    want = trained(network(5))
    one, other = network(5, "compiled"), network(5, "compiled")
    assert torch.allclose(trained(one), want, atol=1e-6)
    made = set(compiled_native._functions) - before
    assert len(made) >= 2, "a forward and a backward"
    trained(other)
    assert set(compiled_native._functions) - before == made, "equal loops share their code"
    del one
    gc.collect()
    other.zero_grad()
    assert torch.allclose(trained(other), want, atol=1e-6), "the code is there for the other one"
    del other
    gc.collect()
    assert not set(compiled_native._functions) & made


def test_an_operator_outlives_its_network_and_the_loop_does_not(monkeypatch: pytest.MonkeyPatch):
    """A compiled graph knows its loops by name alone: one is made again, from a few thousand bytes."""
    net = network(7)
    (loop,) = net.loops
    assert isinstance(loop, TorchLoop)
    calls: list[tuple[int, list[Tensor]]] = []
    plain = TorchLoop.run

    def run(self: TorchLoop, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], train: bool) -> Any:
        calls.append((n_ext, [x.clone() for x in tensors]))
        return plain(self, chunk, n_ext, tensors, train)

    with monkeypatch.context() as m, torch.no_grad():
        m.setattr(TorchLoop, "run", run)
        want = net(torch.randn(4, 2, 3))[0]
    ((n_ext, tensors),) = calls
    key = custom_ops.key_of(loop)
    assert custom_ops._loop(key) is loop and len(custom_ops._PICKLES[key]) < 10_000
    gone = ref(loop)
    del net, loop
    gc.collect()
    assert gone() is None and key not in custom_ops._loops
    (found,) = torch.ops.intrastream.loop(tensors, [], None, [], key, n_ext, 4, 2, False)
    assert torch.equal(found, want)
    assert custom_ops._loop(key) is custom_ops._loop(key), "made once"

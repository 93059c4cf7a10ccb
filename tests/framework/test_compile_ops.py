"""The operators behind torch.compile by themselves, and what a device would have to wait for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from framework import Network, load_graph
from framework.call import Call
from framework.runners import custom_ops
from framework.runners.functions import own
from framework.runners.loop import Chunk, LoopRunner

OPS = torch.ops.intrastream
GRAPH: dict[str, Any] = {
    "inputs": {"x": {"size": 5}, "k": {"vocab": 7}},
    "nodes": {
        "l": {"cell": "gru", "size": 6, "in": "x", "bidirectional": True},
        "h": {"size": 4, "is": "zoneout(tanh(full(dropout(l, 0.3)) + 0.5 * h[t-2] + full(k)), h[t-1], 0.1)",
              "init": "learned"},
        "n": {"size": 4, "is": "tanh(norm(full(h) + full(n[t-1]))) + 0.3"},
        "y": {"size": 3, "is": "full(n) + 2 * bias + 1"},
    },
    "outputs": ["y", "h"],
}  # fmt: skip


class Calls(TorchDispatchMode):
    """Remembers the arguments of our operators, and which others had to do with the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.ours: list[tuple[Any, tuple[Any, ...]]] = []
        self.on_cpu: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "intrastream":
            assert not kwargs
            self.ours.append((func, tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, args)))
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        if any(x.device.type == "cpu" for x in tensors):
            self.on_cpu.append(str(func))
        return out


def batch(device: str = "cpu", steps: int = 5, lanes: int = 3) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    return {
        "x": {
            "x": torch.randn(steps, lanes, 5, generator=g).to(device).requires_grad_(),
            "k": torch.randint(7, (steps, lanes), generator=g).to(device),
        },
        "lengths": torch.tensor([5, 2, 0]).to(device),
        "resets": (torch.rand(steps, lanes, generator=g) < 0.3).to(device),
    }


def calls_of(net: Network, masked: bool) -> list[tuple[Any, tuple[Any, ...]]]:
    """What our operators are given in a forward and a backward of the compiled network."""
    calls = Calls()

    def backend(module: torch.fx.GraphModule, _: Any) -> Any:
        def watched(*args: Any) -> Any:
            with calls:
                return module(*args)

        return watched

    torch._dynamo.reset()
    run = torch.compile(net, fullgraph=True, backend=backend)
    given = batch()
    y, _ = run(**given) if masked else run(given["x"])
    with calls:
        sum(v.square().sum() for v in y.values()).backward()
    torch._dynamo.reset()
    return calls.ours


@pytest.mark.parametrize(("masked", "parallel"), [(False, "intra"), (True, "intra"), (True, "none")], ids=str)
def test_operators_keep_the_rules_of_torch(masked: bool, parallel: Any):
    """Schemas (nothing overwritten, no shared memory), fake kernels, derivatives, unknown sizes."""
    torch.manual_seed(0)
    found = calls_of(Network(load_graph(GRAPH), parallel=parallel), masked)
    kinds = {func for func, _ in found}
    assert {OPS.loop.default, OPS.loop_backward.default} <= kinds
    assert parallel == "none" or {OPS.linear.default, OPS.linear_backward.default} <= kinds

    def learning(x: Any) -> Any:
        return x.clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x

    for func, args in found:
        if func in (OPS.loop.default, OPS.linear.default):
            args = (tree_map(learning, args[0]), *args[1:])
        torch.library.opcheck(func, args)


def test_derivatives_have_no_derivative():
    """Their gradient would be a zero without a word."""
    found = calls_of(Network(load_graph(GRAPH)), masked=False)
    for func, args in found:
        if func in (OPS.loop_backward.default, OPS.linear_backward.default):
            learning = [x.requires_grad_() if x.is_floating_point() else x for x in args[0]]
            out = func(learning, *args[1:])
            with pytest.raises(RuntimeError, match="double backward"):
                sum(x.sum() for x in out).backward()


def test_an_inner_product_of_the_operator_does_not_change_what_it_was_given():
    found = calls_of(Network(load_graph(GRAPH)), masked=False)
    for func, args in found:
        before = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, args)
        func(*args)
        for x, y in zip(tree_leaves(args), tree_leaves(before), strict=True):
            assert torch.equal(x, y) if isinstance(x, Tensor) else x == y


def test_own_memory():
    base = torch.arange(12.0).view(3, 4)
    given = [base[:2], base[1:], base[:, :2], torch.ones(4)[2:], torch.empty(0), torch.empty(0)]
    out = own(given, [given[3]])
    places = [x.untyped_storage().data_ptr() for x in out if x.numel()]
    assert len(set(places)) == 4 and given[3].untyped_storage().data_ptr() not in places
    assert all(
        x.is_contiguous() and not x.storage_offset() and torch.equal(x, y)
        for x, y in zip(out, given, strict=True)
    )


class Silent(LoopRunner):
    """A runner that does not say what it keeps."""

    run = gradients_of = None  # type: ignore[assignment]


def test_a_runner_that_cannot_be_compiled_says_so():
    with pytest.raises(Exception, match=r"Silent does not say what it keeps.*Take runner=torch"):
        Silent().keeps(Chunk(1, 1, {}))


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "lengths and resets"])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_waits_for_the_device(masked: bool, training: bool, monkeypatch: pytest.MonkeyPatch):
    """On a device without values (meta) reading one is an error; and nothing may come from the CPU but the
    seed of random masks, which is drawn there.
    """
    net = Network(load_graph(GRAPH)).to("meta").train(training)
    given = batch("meta")
    if not masked:
        given |= {"lengths": None, "resets": None}

    def host(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("torch.tensor copies from the host")

    monkeypatch.setattr(torch, "tensor", host)
    with Calls() as calls:
        y, state = Call(net, given["x"], None, given["lengths"], given["resets"]).run()
        y, _ = Call(net, given["x"], state, given["lengths"], given["resets"]).run()
        assert isinstance(y, dict)
        sum(v.sum() for v in y.values()).backward()
    assert given["x"]["x"].grad is not None and given["x"]["x"].grad.device.type == "meta"
    seed = ["aten.randint.default", "aten._local_scalar_dense.default"]
    assert calls.on_cpu == seed * 2 * training


def test_a_loop_that_nothing_traced_is_no_silent_error():
    tensor = torch.zeros(1)
    with pytest.raises(AssertionError, match="no loop of this name"):
        torch.ops.intrastream.loop([tensor], [], None, [], "of another process", 0, 1, 1, False)
    assert not {"of another process"} & {*custom_ops._loops, *custom_ops._PICKLES}

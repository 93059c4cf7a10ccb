"""torch.compile of a network: one graph, one operator a loop, the results of the network as it is."""

from __future__ import annotations

import copy
import gc
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import make_boxed_func

from framework import Network, load_graph
from framework.errors import ConfigError
from framework.runners import custom_ops

STEPS, LANES, SIZE = 7, 3, 5
OPS = torch.ops.intrastream


def cell(name: str, **more: Any) -> dict[str, Any]:
    node = {"cell": name, "size": 6, "in": "x", **more}
    return {"inputs": {"x": {"size": SIZE}}, "nodes": {"l": node, "y": {"size": 4, "is": "full(l) + bias"}},
            "outputs": ["y", "l"]}  # fmt: skip


MASKED = {
    "inputs": {"x": {"size": SIZE}},
    "nodes": {
        "d": {"size": SIZE, "is": "dropout(x, 0.3)"},
        "h": {"size": 6, "is": "zoneout(tanh(full(d) + full(h[t-1]) + bias), h[t-1], 0.3)"},
        "y": {"size": 4, "is": "full(h) + bias"},
    },
    "outputs": ["y", "h"],
}
TEXT = {
    "inputs": {"x": {"vocab": 11}},
    "nodes": {"l": {"cell": "gru", "size": 6, "in": "x"}, "y": {"size": 4, "is": "full(l) + full(x[t-1])"}},
    "outputs": ["y", "l"],
}
AHEAD = {
    "inputs": {"x": {"size": SIZE}},
    "nodes": {
        "h": {"size": 6, "is": "tanh(full(x) + full(h[t-2]) + diag(x2[t+1]))", "init": "learned"},
        "x2": {"size": 6, "is": "2 * full(x) + 1"},
        "b": {"size": 6, "is": "tanh(full(h) + diag(b[t+3]))"},
        "y": {"size": 4, "is": "softmax(full(b[t-1]) + full(h[t+1]))"},
    },
    "outputs": ["y", "b"],
}
GRAPHS = {
    "lstm": cell("lstm"),
    "gru": cell("gru"),
    "lstm_norm": cell("lstm_norm"),
    "bidirectional": cell("lstm", bidirectional=True, layers=2),
    "masks": MASKED,
    "text": TEXT,
    "ahead": AHEAD,
    "sru": cell("sru"),
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No graph of another test; and none is left."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def network(name: str, **more: Any) -> Network:
    torch.manual_seed(0)
    return Network(load_graph(GRAPHS[name]), **more)


def batch(net: Network, steps: int = STEPS, lanes: int = LANES, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    if net.graph.inputs["x"].vocab:
        return torch.randint(11, (steps, lanes), generator=g)
    return torch.randn(steps, lanes, SIZE, generator=g)


def results(run: Callable[..., Any], net: Network, x: Tensor, chunks: int = 1, **more: Any) -> dict[str, Any]:
    """Outputs, states and gradients of chunks that carry their state."""
    net.zero_grad()
    torch.manual_seed(1)
    x = x.clone().requires_grad_(x.is_floating_point())
    out: dict[str, Any] = {}
    state, loss = None, torch.zeros(())
    for k in range(chunks):
        y, state = run(x, state=state, **more)
        for name, v in y.items():
            out[f"{name} {k}"] = v
            loss = loss + (v.square() + v).sum()
    loss.backward()
    assert state is not None
    out |= {f"state {n}": state[n] for n in state.keys()}
    return out | {"grad x": x.grad} | {f"grad {n}": g for n, g in net.grads().items()}


def close(got: Tensor, want: Tensor, name: str) -> None:
    """To rounding: a product of tensors at other addresses may add up in another order; so may gradients."""
    assert got.dtype == want.dtype and got.shape == want.shape, name
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6, msg=lambda m: f"{name}: {m}")


def assert_equal(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert got.keys() == want.keys()
    for name, w in want.items():
        assert (got[name] is None) == (w is None), name
        if w is not None:
            close(got[name], w, name)


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "aot_eager") for name in GRAPHS), ("lstm", "eager"), ("masks", "eager")]
)
def test_compiled_is_equal_in_one_graph(name: str, backend: str):
    net = network(name)
    run = torch.compile(net, fullgraph=True, backend=backend)
    x = batch(net)
    assert_equal(results(run, net, x), results(net, net, x))
    assert not counters["graph_break"]


# Dynamo looks at .grad of whatever comes in; a state that carries its history has none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", ["lstm", "bidirectional", "masks", "text", "ahead"])
def test_compiled_with_lengths_resets_and_carried_state(name: str):
    net = network(name)
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = batch(net)
    resets = torch.zeros(STEPS, LANES, dtype=torch.bool)
    resets[0, 1] = resets[3, 0] = resets[4, 2] = True
    chunks = 2 if not net.plan.looks_ahead else 1
    more = {"lengths": torch.tensor([STEPS, 4, 0]), "resets": resets}
    assert_equal(results(run, net, x, chunks, **more), results(net, net, x, chunks, **more))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of inductor's own imports
@pytest.mark.parametrize("name", list(GRAPHS))
def test_compiled_by_inductor(name: str):
    """Generated C++; random masks of a training network come from its own generator, so without them here."""
    net = network(name).eval()
    run = torch.compile(net, fullgraph=True)
    x = batch(net)
    assert_equal(results(run, net, x), results(net, net, x))


def test_without_gradients():
    net = network("lstm")
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = batch(net)
    with torch.no_grad():
        y, state = run(x)
    want, after = net(x)
    for name in want:
        assert not y[name].requires_grad
        close(y[name], want[name], name)
    for n in after.keys():
        close(state[n], after[n], n)


@pytest.mark.parametrize("name", ["lstm", "bidirectional"])
def test_each_loop_is_one_node_forward_and_one_backward(name: str):
    """However many steps there are."""
    sizes = []
    for steps in (3, 40):
        nodes: dict[str, Counter[Any]] = {"forward": Counter(), "backward": Counter()}

        def count(kind: str, nodes: dict[str, Counter[Any]] = nodes) -> Callable[..., Any]:
            def compiler(module: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
                nodes[kind].update(n.target for n in module.graph.nodes if n.op == "call_function")
                return make_boxed_func(module.forward)

            return compiler

        torch._dynamo.reset()
        net = network(name)
        backend = aot_autograd(fw_compiler=count("forward"), bw_compiler=count("backward"))
        run = torch.compile(net, fullgraph=True, backend=backend)
        results(run, net, batch(net, steps))
        loops = len(net.plan.components)
        assert nodes["forward"][OPS.loop.default] == loops > 0
        assert nodes["backward"][OPS.loop_backward.default] == loops
        assert nodes["forward"][OPS.linear.default] == nodes["backward"][OPS.linear_backward.default] > 0
        sizes.append((nodes["forward"].total(), nodes["backward"].total()))
    assert sizes[0] == sizes[1]


def test_other_steps_and_lanes_compile_once_more_at_most():
    """The second size is another graph, in which both are unknown; no further ones."""
    net = network("lstm", runner="torch")  # of torch's own LSTM every size would differ by its rounding
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    for k, (steps, lanes) in enumerate([(7, 3), (9, 4), (12, 5), (30, 2), (2, 17)]):
        x = batch(net, steps, lanes, seed=k)
        assert_equal(results(run, net, x), results(net, net, x))
    assert counters["stats"]["unique_graphs"] <= 2


def test_steps_and_lanes_marked_dynamic_compile_once():
    net = network("lstm")
    run = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    for steps, lanes in [(7, 3), (9, 4), (12, 5)]:
        x = batch(net, steps, lanes)
        assert_equal(results(run, net, x), results(net, net, x))
    assert counters["stats"]["unique_graphs"] == 1


def test_a_stream_of_chunks_compiles_twice():
    """One graph for the first chunk, one for all that carry a state, as in truncated backpropagation."""
    net = network("gru")
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses: dict[str, list[float]] = {}
    for name, model in (("plain", net), ("compiled", run)):
        state, losses[name] = None, []
        torch.manual_seed(5)
        net.reset_parameters()
        for k in range(5):
            y, state = model(batch(net, seed=k), state=state)
            loss = y["y"].square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state = state.detach()
            losses[name].append(loss.item())
    assert losses["compiled"] == pytest.approx(losses["plain"], rel=1e-5)
    assert losses["plain"][-1] != losses["plain"][0]
    assert counters["stats"]["unique_graphs"] == 2


def test_new_masks_in_every_call():
    net = network("masks")
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = batch(net)
    first, second = run(x)[0]["y"], run(x)[0]["y"]
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    third = run(x)[0]["y"]
    torch.manual_seed(3)
    assert torch.equal(third, run(x)[0]["y"])


@pytest.mark.parametrize("trained", ["input", "weights", "nothing"])
def test_frozen_parts_get_no_gradient(trained: str):
    net = network("lstm")
    for p in net.parameters():
        p.requires_grad_(trained == "weights")
    found = []
    for run in (torch.compile(net, fullgraph=True, backend="aot_eager"), net):
        net.zero_grad()
        x = batch(net).requires_grad_(trained == "input")
        y = run(x)[0]["y"]
        assert y.requires_grad == (trained != "nothing")
        if y.requires_grad:
            y.square().sum().backward()
        found.append([x.grad, *net.grads().values()])
    for got, want in zip(*found, strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_network_in_its_own_dtype(dtype: torch.dtype):
    """As without compiling: what comes in is brought to float32, what comes out is float32."""
    net = network("lstm")
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = batch(net).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = run(x)
    want, after = net(x.float())
    for name in want:
        assert y[name].dtype == torch.float32
        close(y[name], want[name], name)
    for n in after.keys():
        close(state[n], after[n], n)


def test_networks_in_half_precision():
    net = network("gru").bfloat16()
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = batch(net).bfloat16()
    got, want = results(run, net, x), results(net, net, x)
    assert got["y 0"].dtype == torch.bfloat16
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_double_backward_is_refused(backend: str):
    net = network("lstm")
    run = torch.compile(net, fullgraph=True, backend=backend)
    x = batch(net).requires_grad_()
    y = run(x)[0]["y"]
    with pytest.raises(RuntimeError, match="double backward"):
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        g.square().sum().backward()


def test_what_was_compiled_outlives_its_network():
    """Operators know loops by content: an equal network may be served by the same graph."""
    net = network("lstm")
    twin = copy.deepcopy(net)
    x = batch(net)
    want = net(x)[0]["y"]
    assert [custom_ops.key_of(loop) for loop in net.loops] == [custom_ops.key_of(loop) for loop in twin.loops]
    torch.compile(net, fullgraph=True, backend="aot_eager")(x)
    del net
    gc.collect()
    close(torch.compile(twin, fullgraph=True, backend="aot_eager")(x)[0]["y"], want, "y")


def test_loops_that_differ_have_different_keys():
    nets = [network("lstm"), network("gru"), network("sru"), network("lstm", parallel="none")]
    keys = [custom_ops.key_of(loop) for net in nets for loop in net.loops]
    assert len(set(keys)) == len(keys)


def test_a_wrong_input_is_an_error_that_names_it():
    net = network("lstm")
    run = torch.compile(net, backend="eager")
    with pytest.raises(ConfigError, match=r"x\['x'\]: shape"):
        run(torch.zeros(STEPS, LANES, SIZE + 1))


def test_lengths_that_do_not_fit_are_clamped():
    """Their values are not looked at while a graph is recorded."""
    net = network("lstm")
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = batch(net)
    y, _ = run(x, lengths=torch.tensor([STEPS + 5, -3, 2]))
    want, _ = net(x, lengths=torch.tensor([STEPS, 0, 2]))
    close(y["y"], want["y"], "y")


def test_a_weight_that_no_gradient_reaches_gets_zeros():
    """An operator gives a tensor for each; uncompiled it is None."""
    nodes = {"h": {"size": 4, "is": "tanh(full(x) + stop(full(h[t-1])))"}}
    net = Network(load_graph({"inputs": {"x": {"size": SIZE}}, "nodes": nodes, "outputs": ["h"]}))
    x = batch(net)
    net(x)[0].sum().backward()
    assert net.grads()["h:full(h[t-1])"] is None
    net.zero_grad()
    torch.compile(net, fullgraph=True, backend="aot_eager")(x)[0].sum().backward()
    found = net.grads()["h:full(h[t-1])"]
    assert found is not None and not found.any()


@pytest.mark.parametrize("name", ["lstm", "gru", "bidirectional"])
def test_no_more_is_kept_for_the_backward(name: str):
    """An output and what the loop stores of it are one sequence: it is not kept twice."""
    net = network(name)
    x = batch(net, steps=50)
    run = torch.compile(net, fullgraph=True, backend="eager")
    run(x)
    assert saved_numbers(run, x) <= saved_numbers(net, x)


def saved_numbers(run: Callable[..., Any], x: Tensor) -> int:
    """Numbers in the memory that autograd holds after a forward."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() // t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y, _ = run(x)  # alive until all is counted: no address is used twice
    assert kept and y
    return sum(kept.values())


def test_a_network_does_not_import_the_compiler():
    """Two seconds for everybody who compiles nothing."""
    code = "import sys; from framework import Network; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_example_of_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (example,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "torch.compile" in b]
    quick = example.replace("fullgraph=True", 'fullgraph=True, backend="aot_eager"')
    assert quick != example
    names: dict[str, Any] = {}
    exec(quick, names)
    assert names["y"].shape == (100, 8, 39)

"""Joint kernels with one mistake each: a race, a deadlock or a wrong value shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from framework.runners.triton_persistent import PersistentLoop
from kernels import persistent_joint
from kernels.persistent_layout import Layout
from kernels.persistent_source import Kernel
from tests.interpreter import DeadlockError, RaceError, concurrent
from tests.kernels.persistent_graphs import network, prepared
from tests.kernels.test_persistent_joint import source

GRAPH = source(
    {
        "a": {"size": 4, "is": "tanh(full(a[t-1]) + full(x))"},
        "b": {"size": 3, "is": "sigmoid(full(b[t+1]) + full(x) + bias)"},
    }
)
LAYOUTS = (Layout(programs=2, lanes=2, least=2, chunk=16), Layout(programs=3, lanes=2, least=1, chunk=16))
SEEDS = range(3)


class Mutant(NamedTuple):
    """A change of the joint function of one kernel: a pattern and what stands for all it matches."""

    kernel: str
    pattern: str
    new: str


MUTANTS = {
    "one counter for both": Mutant("forward", r"p_counter=p_counter_1", "p_counter=p_counter_0"),
    "one counter for both, backward": Mutant("backward", r"p_counter=p_counter_1", "p_counter=p_counter_0"),
    "a program too many for the first": Mutant("forward", r"i_program < END0", "i_program < END0 + 1"),
    "all programs for the first": Mutant("backward", r"i_program < END0", "i_program < 5"),
    "programs of the second count from the first": Mutant(
        "forward", r"i_program=i_program - END0", "i_program=i_program"
    ),
    "tensors of the first": Mutant("forward", r"p_pre=p_pre_1", "p_pre=p_pre_0"),
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with prepared():
        yield


def outcome(seed: int, joint: bool = True) -> list[Tensor]:
    """Outputs and gradients. Raises RaceError or DeadlockError."""
    net = network(GRAPH, together=joint)
    for loop, layout in zip(net.loops, LAYOUTS, strict=True):
        assert isinstance(loop, PersistentLoop)
        loop._layout = layout
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    x = torch.randn(3, 2, 3, generator=g, dtype=torch.float64).requires_grad_()
    with concurrent(seed=seed, policy="priority" if seed % 2 else "random", max_steps=20_000):
        y, _ = net(x)
        torch.stack([v.square().sum() for v in y.values()]).sum().backward()
    grads = [g for g in (x.grad, *(p.grad for p in net.parameters())) if g is not None]
    return [*(v.detach() for v in y.values()), *grads]


@pytest.mark.parametrize("name", MUTANTS)
def test_mistake_is_seen(name: str, monkeypatch: pytest.MonkeyPatch):
    mutant, stock = MUTANTS[name], persistent_joint.joint
    changed = 0

    def broken(codes: list[Kernel]) -> Kernel:
        nonlocal changed
        code = stock(codes)
        if code.name != f"joint_{mutant.kernel}_kernel":
            return code
        text, found = re.subn(mutant.pattern, mutant.new, code.text)
        changed += found
        return Kernel(code.name, text, code.arguments, code.scalars)

    want = outcome(0, joint=False)
    monkeypatch.setattr(persistent_joint, "joint", broken)
    seen = []
    for seed in SEEDS:
        try:
            got = outcome(seed)
        except (RaceError, DeadlockError) as e:
            seen.append(type(e).__name__)
            continue
        if not all(torch.equal(a, b) for a, b in zip(got, want, strict=True)):
            seen.append("wrong value")
    assert changed == len(SEEDS), "the pattern matches nothing, or too much"
    assert seen, f"{name}: not seen with {len(SEEDS)} seeds"
    print(seen)


def test_without_a_mistake():
    want = outcome(0, joint=False)
    for seed in SEEDS:
        assert all(torch.equal(a, b) for a, b in zip(outcome(seed), want, strict=True))

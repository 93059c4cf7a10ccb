"""A barrier that nobody reaches is an error that names it, and a watchdog that has nothing to bark at changes
nothing.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph
from framework.errors import ConfigError, TrainingError
from framework.runners.triton_persistent import PersistentLoop
from kernels.codecache import load
from kernels.launch import Chip
from kernels.persistent import NoRoom, check_grid
from kernels.persistent_layout import Layout
from kernels.persistent_source import module_text
from kernels.watchdog import Stuck, new_watch, raise_if_stuck, watched
from tests.interpreter import concurrent
from tests.kernels.persistent_graphs import of_cell

SPREAD = Layout(programs=3, lanes=2, least=2, chunk=16, splits=2, groups=2)
POLLS = 300


def spread(cell: str, watchdog: int | bool) -> tuple[Network, PersistentLoop]:
    """A network whose loop is spread over three programs."""
    torch.manual_seed(0)
    net = Network(load_graph(of_cell(cell, 5)), runner="persistent")
    net.watchdog = watchdog
    (loop,) = net.loops
    assert isinstance(loop, PersistentLoop)
    loop._layout = SPREAD
    return net, loop


def outcome(net: Network) -> list[Tensor]:
    """Output and gradients on numbers that are always the same."""
    x = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y, _ = net(x)
    y.square().sum().backward()
    return [y.detach(), *(g for g in (x.grad, *(p.grad for p in net.parameters())) if g is not None)]


@pytest.mark.parametrize("policy", ["random", "priority"])
def test_nothing_changes(policy):
    """Forward and backward of a cell with two barriers a step, to the bit."""
    found = []
    for watchdog in (0, 1 << 20):
        net, loop = spread("gru", watchdog)
        with concurrent(seed=1, policy=policy, spin=bool(watchdog)):
            found.append(outcome(net))
        assert all(("p_watch" in code.arguments) == bool(watchdog) for code, _ in loop._code.values())
    assert len(found[0]) > 3 and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_off_is_the_same_source():
    """Neither an argument nor an instruction of it."""
    net, loop = spread("lstm", False)
    with concurrent(seed=2):
        outcome(net)
    for code, module in loop._code.values():
        assert "wait(p_bar" in code.text and "polls" not in module_text([code])
        assert "polls" in watched(code).text and "    wait(" not in watched(code).text
        assert not hasattr(module, "wait_up_to")


def test_one_program_waits_for_nobody():
    """There is nothing to watch."""
    net, loop = spread("lstm", True)
    loop._layout = Layout(lanes=2, least=2)
    outcome(net)
    assert all(code is watched(code) for code, _ in loop._code.values())


@pytest.mark.parametrize("policy", ["random", "priority"])
@pytest.mark.parametrize(("kernel", "step"), [("forward_kernel", 3), ("backward_kernel", 2)])
def test_a_program_that_never_arrives(kernel, step, policy):
    """One of three skips its arrivals from step 2 on: the error names kernel, barrier and step. (The forward
    waits at the start of the next step.)
    """
    net, loop = spread("lstm", POLLS)
    stock = loop.compiled

    def broken(code):
        code, module = stock(code)
        if code.name != kernel:
            return code, module
        text = module_text([code])
        assert text.count("arrive(p_bar)") == 1
        blanks = text.split("arrive(p_bar)")[0].rsplit("\n", 1)[1]
        late = f"if (i_part != 1) | (s < 2):\n{blanks}    arrive(p_bar)"
        return code, load(text.replace("arrive(p_bar)", late), "broken")

    loop.compiled = broken
    said = rf"loop l, {kernel}: program \d of 3 .*at barrier 1 of step {step}, where 8 arrivals"
    with concurrent(seed=3, policy=policy, races=False, spin=True), pytest.raises(TrainingError, match=said):
        outcome(net)


def test_what_is_told():
    """The first barrier of all, and how many gave up."""
    watch = new_watch(6, "cpu")
    raise_if_stuck(watch, 3)
    watch[1] = torch.tensor([1, 0, 9, 25])
    watch[5] = torch.tensor([1, 1, 7, 23])
    with pytest.raises(Stuck, match=r"program 2 of 3 in group 1 .* barrier 1 of step 7, where 23 .* 2 of 6"):
        raise_if_stuck(watch, 3)


def test_too_many_programs_are_refused_before_the_launch():
    """They would wait for programs that are never started."""
    chip = Chip("sm_90", units=16)  # a slice of a GPU
    check_grid(Layout(programs=8), 16, chip)
    check_grid(Layout(), 1000, chip)  # nobody waits
    with pytest.raises(
        NoRoom, match=r"17 programs wait for each other, this GPU has 16 multiprocessors.*MIG"
    ):
        check_grid(Layout(programs=17), 17, chip)


def test_a_refusal_names_the_loop(monkeypatch):
    """As every error of a runner."""
    from kernels import persistent

    net, _ = spread("lstm", False)
    monkeypatch.setattr(persistent, "current_chip", lambda device: Chip("gfx9", units=2))
    with pytest.raises(ConfigError, match=r"^loop l: 6 programs wait for each other, this GPU has 2 "):
        outcome(net)


def test_what_the_driver_says(monkeypatch):
    """Of a grid that fits by our count, and still does not."""
    from triton.runtime.errors import OutOfResources

    from kernels.persistent import refusals

    for error, said in (
        (RuntimeError("Triton Error [CUDA]: too many blocks in cooperative launch"), "the driver refuses 6 "),
        (OutOfResources(250_000, 232_448, "shared memory"), "needs 250000 of shared memory, there is 232448"),
    ):
        with pytest.raises(NoRoom, match=said), refusals("each of 3 programs", 6):
            raise error
    with pytest.raises(RuntimeError, match=r"^other$"), refusals("each of 3 programs", 6):
        raise RuntimeError("other")

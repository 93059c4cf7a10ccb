"""The barrier in PTX: what a concurrent interpreter cannot see, because there a program is one thread."""

from __future__ import annotations

import pytest

CHIPS = ["sm_80", "sm_90", "sm_100"]
CALL = "tests.kernels.exchange_kernel:exchange"


def step_of(events):
    """The events of one step of the time loop, from the store of the exchanged value on, without labels."""
    names = [
        event for event in events if event in ("barrier", "release", "acquire", "atomic", "load", "store")
    ]
    return names[names.index("store") :]


@pytest.mark.parametrize("chip", CHIPS)
def test_right_barrier(compiled, chip):
    (kernel,) = compiled(CALL, chip, ("p_exchange",), programs=4, steps=5)
    assert kernel.cooperative  # a grid that cannot be resident is refused, not hung
    step = step_of(kernel.events)
    release, acquire, load = step.index("release"), step.index("acquire"), step.index("load")
    assert "barrier" in step[:release], "all threads must have stored before one releases"
    assert release < acquire < load
    assert "barrier" in step[acquire:load], "no thread may load before one has acquired"
    # The exchanged values are loaded in the time loop, behind the wait, and nowhere else.
    assert kernel.loads["p_exchange"] == {1: 1}


@pytest.mark.parametrize("chip", CHIPS)
def test_the_wait_is_a_loop_around_the_acquire(compiled, chip):
    (kernel,) = compiled(CALL, chip, ("p_exchange",), programs=4, steps=5)
    acquire = kernel.events.index("acquire")
    back = next(i for i in range(acquire, len(kernel.events)) if kernel.events[i].startswith("-> "))
    target = kernel.events[back].removeprefix("-> ") + ":"
    assert target in kernel.events[:acquire], "the jump behind the acquire must go back before it"


def test_a_barrier_without_bar_sync_is_seen(compiled):
    """`block` has the atomics without tl.debug_barrier: this test's own measure must tell the two apart."""
    (right,) = compiled(CALL, "sm_90", (), programs=4, steps=5)
    (wrong,) = compiled(CALL, "sm_90", (), programs=4, steps=5, barrier="block")
    assert step_of(right.events).count("barrier") > step_of(wrong.events).count("barrier")


def test_amd_compiles(compiled):
    (kernel,) = compiled(CALL, "gfx942", ("p_exchange",), programs=4, steps=5)
    assert kernel.cooperative and kernel.stack == 0
    assert kernel.loads["p_exchange"] == {1: 1}

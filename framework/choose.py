"""The runner table: which runner executes a loop on which machine, and why. Pure data, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framework import compiled, measured, persistent_fit, vanilla
from framework.component import Component
from framework.cost_runners import slower
from framework.errors import ConfigError
from framework.machine import CPU, Machine
from framework.names import known


@dataclass(frozen=True, slots=True)
class Runner:
    """`refuses`: why it cannot take a component on a machine, or "" when it can. `devices`: where `auto`
    takes it (none named: everywhere); those that name any are made of Triton kernels. by_name: `auto` never
    takes it. `predicted`: whether `auto` asks the model of cost if a later runner is faster: it was not
    measured there. `unproven`: why `auto` does not take it there, which plans do not say; such a runner never
    stands in for one that was asked for by name, and hands calls that it cannot run to the next runner that
    takes the loop. `faster`: whether it was measured so; elsewhere only a name asks for it, and plans do not
    say so. `describe`: how it runs a loop that it takes.
    """

    name: str
    refuses: Callable[[Component, Machine], str]
    devices: tuple[str, ...] = ()
    by_name: bool = False
    predicted: Callable[[Component, Machine], bool] | None = None
    unproven: Callable[[Component, Machine], str] | None = None
    faster: Callable[[Component, Machine], bool] | None = None
    describe: Callable[[Component, Machine], str] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The runner of one loop; `notes` say which others were asked first and why they cannot; `how` it spreads
    the loop, on a GPU; `other`: the runner of the calls that it hands on, or "".
    """

    runner: str
    notes: tuple[str, ...] = ()
    how: str = ""
    other: str = ""


def _exchanges(c: Component, machine: Machine) -> str:
    """Why a loop is none of units that go their own way, without reading each other."""
    if c.kind not in ("elementwise", "linear"):
        return "units read each other inside the loop"
    if not c.states:
        return "nothing in it reads another step"
    sizes = sorted({op.size for op in c.cell if op.kind not in ("pre", "ext", "param", "const")})
    return f"its values have different sizes ({', '.join(map(str, sizes))})" if len(sizes) > 1 else ""


def _no_prefix(c: Component, machine: Machine) -> str:
    """Why a loop is none whose steps are h -> a * h + b, unit by unit."""
    if c.kind != "linear":
        return "its steps are not affine in the state, unit by unit"
    if reason := _exchanges(c, machine):
        return reason
    if len(c.states) > 1:
        return f"it has {len(c.states)} states"
    reads = [op.shift for op in c.cell if op.kind == "shift"]
    if len(reads) > 1 or abs(reads[0]) > 1:
        return "it reads its state further back than one step"
    return "it stops a gradient" if any(op.kind == "stop" for op in c.cell) else ""


# In the order in which `auto` asks. Adding a runner is adding a row here, and one to network.RUNNERS.
TABLE: tuple[Runner, ...] = (
    Runner("torch-fused", vanilla.refuses, unproven=measured.unproven, describe=vanilla.describe),
    Runner("elementwise", _exchanges, ("cuda",)),
    Runner("persistent", persistent_fit.refuses, ("cuda",), describe=persistent_fit.describe),
    Runner(
        "streamed",
        persistent_fit.refuses_streamed,
        ("cuda",),
        predicted=lambda c, machine: not persistent_fit.tuned(c, machine, True)[0],
        describe=persistent_fit.describe_streamed,
    ),
    Runner("scan", _no_prefix, ("cuda",), by_name=True),  # not measured yet
    Runner("compiled", compiled.refuses, faster=measured.compiled_is_faster, describe=compiled.describe),
    Runner("torch", lambda c, machine: ""),
)


def check_runner(name: str) -> None:
    """Raise ConfigError for a runner that does not exist."""
    names = ["auto", *(r.name for r in TABLE)]
    if name not in names:
        raise ConfigError("runner", f"no runner '{name}'", known("There are", name, names))


def choose(c: Component, wanted: str = "auto", machine: Machine = CPU, ours: str = "") -> Choice:
    """The runner of component `c` on a machine. Raises ConfigError for a runner that does not exist.

    One that is asked for by name comes first whatever the device. ours: what only our own runners can do.
    """
    check_runner(wanted)
    here = [r for r in TABLE if r.name == wanted or _offered(r, c, wanted, machine)]
    if wanted == "auto" and ours:
        here = [r for r in here if not r.unproven]
    order = here if wanted == "auto" else sorted(here, key=lambda r: r.name != wanted)
    notes: list[str] = []
    for r in order:
        absent = "triton is not installed" if r.devices and not machine.triton else ""
        reason = absent or r.refuses(c, machine)
        if r.unproven and ours:
            reason = f"{ours} is for our own runners"
        if not reason and wanted == "auto" and r.predicted and r.predicted(c, machine):
            reason = _slower(r, order[order.index(r) + 1 :], c, machine)
        if not reason:
            shown = machine.device == "cuda" or r.unproven or r.faster
            how = r.describe(c, machine) if r.describe and shown else ""
            other = _next(c, machine) if r.unproven else ""
            return Choice(r.name, tuple(notes), f"{how}; resets by {other}" if other else how, other)
        notes.append(f"{r.name}: {reason}")
    raise AssertionError("the torch runner takes every component")


def _offered(r: Runner, c: Component, wanted: str, machine: Machine) -> bool:
    """Whether a runner is asked although it is not named."""
    if r.by_name or (r.devices and machine.device not in r.devices):
        return False
    if r.faster and not (wanted == "auto" and r.faster(c, machine)):
        return False
    return not r.unproven or (wanted == "auto" and not (r.refuses(c, machine) or r.unproven(c, machine)))


def _slower(r: Runner, later: Sequence[Runner], c: Component, machine: Machine) -> str:
    """Why the first of the `later` runners that takes a loop is predicted to be faster than r, or ""."""
    able = (other for other in later if machine.triton or not other.devices)
    other = next(other for other in able if not other.refuses(c, machine))
    return slower(c, machine, r.name, other.name)


def _next(c: Component, machine: Machine) -> str:
    """The first of those that run every call."""
    return choose(c, machine=machine, ours="calls that it cannot run").runner

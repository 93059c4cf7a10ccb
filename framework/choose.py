"""The runner table: which runner executes a loop on which machine, and why. Pure data, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from framework import persistent_fit
from framework.component import Component
from framework.errors import ConfigError
from framework.machine import CPU, Machine
from framework.names import known


@dataclass(frozen=True, slots=True)
class Runner:
    """`refuses`: why it cannot take a component on a machine, or "" when it can. `devices`: where `auto`
    takes it (none named: everywhere); those that name any are made of Triton kernels. by_name: `auto` never
    takes it. `describe`: how it spreads a loop that it takes.
    """

    name: str
    refuses: Callable[[Component, Machine], str]
    devices: tuple[str, ...] = ()
    by_name: bool = False
    describe: Callable[[Component, Machine], str] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The runner of one loop; `notes` say which others were asked first and why they cannot; `how` it spreads
    the loop, on a GPU.
    """

    runner: str
    notes: tuple[str, ...] = ()
    how: str = ""


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
    Runner("elementwise", _exchanges, ("cuda",)),
    Runner("persistent", persistent_fit.refuses, ("cuda",), describe=persistent_fit.describe),
    Runner("streamed", persistent_fit.refuses_streamed, ("cuda",), describe=persistent_fit.describe_streamed),
    Runner("scan", _no_prefix, ("cuda",), by_name=True),  # not measured yet
    Runner("torch", lambda c, machine: ""),
)


def check_runner(name: str) -> None:
    """Raise ConfigError for a runner that does not exist."""
    names = ["auto", *(r.name for r in TABLE)]
    if name not in names:
        raise ConfigError("runner", f"no runner '{name}'", known("There are", name, names))


def choose(c: Component, wanted: str = "auto", machine: Machine = CPU) -> Choice:
    """The runner of component `c` on a machine. Raises ConfigError for a runner that does not exist.

    One that is asked for by name comes first whatever the device.
    """
    check_runner(wanted)
    ours = [r for r in TABLE if not r.by_name and (not r.devices or machine.device in r.devices)]
    here = [r for r in TABLE if r.name == wanted or r in ours]
    order = here if wanted == "auto" else sorted(here, key=lambda r: r.name != wanted)
    notes: list[str] = []
    for r in order:
        absent = "triton is not installed" if r.devices and not machine.triton else ""
        reason = absent or r.refuses(c, machine)
        if not reason:
            how = r.describe(c, machine) if r.describe and machine.device == "cuda" else ""
            return Choice(r.name, tuple(notes), how)
        notes.append(f"{r.name}: {reason}")
    raise AssertionError("the torch runner takes every component")

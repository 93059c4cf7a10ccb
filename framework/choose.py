"""The runner table: which runner executes a loop, and why. Pure data and structure; no torch, no device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from framework.component import Component
from framework.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Runner:
    """`refuses`: the reason why it cannot take a component, or "" when it can. `devices`: where `auto` takes
    it (none named: everywhere). Plans are made for "cpu" so far: `auto` takes a GPU's runner only once it has
    been measured on one.
    """

    name: str
    refuses: Callable[[Component], str]
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The runner of one loop; `notes` say which others were asked first and why they cannot."""

    runner: str
    notes: tuple[str, ...] = ()


def _exchanges(c: Component) -> str:
    """Why a loop is none of units that go their own way, without reading each other."""
    if c.kind not in ("elementwise", "linear"):
        return "units read each other inside the loop"
    if not c.states:
        return "nothing in it reads another step"
    sizes = sorted({op.size for op in c.cell if op.kind not in ("pre", "ext", "param", "const")})
    return f"its values have different sizes ({', '.join(map(str, sizes))})" if len(sizes) > 1 else ""


# In the order in which `auto` asks. Adding a runner is adding a row.
TABLE: tuple[Runner, ...] = (
    Runner("elementwise", _exchanges, ("cuda",)),
    Runner("torch", lambda c: ""),
)


def choose(c: Component, wanted: str = "auto", device: str = "cpu") -> Choice:
    """The runner of component `c` on a kind of device. Raises ConfigError for a runner that does not exist.

    One that is asked for by name comes first whatever the device.
    """
    names = [r.name for r in TABLE]
    if wanted not in ("auto", *names):
        raise ConfigError("runner", f"no runner '{wanted}'", f"There are: auto, {', '.join(names)}.")
    here = [r for r in TABLE if r.name == wanted or not r.devices or device in r.devices]
    order = here if wanted == "auto" else sorted(here, key=lambda r: r.name != wanted)
    notes: list[str] = []
    for r in order:
        reason = r.refuses(c)
        if not reason:
            return Choice(r.name, tuple(notes))
        notes.append(f"{r.name}: {reason}")
    raise AssertionError("the torch runner takes every component")

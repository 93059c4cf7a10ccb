"""The runner table: which runner executes a loop, and why. Pure data and structure; no torch, no device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from framework.component import Component
from framework.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Runner:
    """`refuses`: the reason why it cannot take a component, or "" when it can."""

    name: str
    refuses: Callable[[Component], str]


@dataclass(frozen=True, slots=True)
class Choice:
    """The runner of one loop; `notes` say which others were asked first and why they cannot."""

    runner: str
    notes: tuple[str, ...] = ()


# In the order in which `auto` asks. Adding a runner is adding a row.
TABLE: tuple[Runner, ...] = (Runner("torch", lambda c: ""),)


def choose(c: Component, wanted: str = "auto") -> Choice:
    """The runner of component `c`. Raises ConfigError for a runner that does not exist."""
    names = [r.name for r in TABLE]
    if wanted not in ("auto", *names):
        raise ConfigError("runner", f"no runner '{wanted}'", f"There are: auto, {', '.join(names)}.")
    order = TABLE if wanted == "auto" else sorted(TABLE, key=lambda r: r.name != wanted)
    notes: list[str] = []
    for r in order:
        reason = r.refuses(c)
        if not reason:
            return Choice(r.name, tuple(notes))
        notes.append(f"{r.name}: {reason}")
    raise AssertionError("the torch runner takes every component")

"""Checks of what a user may write under `data.`: one ConfigError each, before anything starts."""

from __future__ import annotations

from collections.abc import Iterable

from framework.errors import ConfigError


def at_least(option: str, value: float, least: float) -> None:
    """Raise ConfigError unless `value` is at least `least`."""
    if not value >= least:
        raise ConfigError(f"data.{option}", f"{value} is too small", f"Give {least} or more")


def one_of(option: str, value: object, choices: Iterable[object]) -> None:
    """Raise ConfigError unless `value` is among `choices`."""
    choices = list(choices)
    if value not in choices:
        raise ConfigError(
            f"data.{option}", f"{value!r} is not known", f"Choose one of {', '.join(map(str, choices))}"
        )

"""Single values of the YAML, checked: sizes, start values, flags, sources."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from framework.errors import GraphError
from framework.names import check_name

Init = float | Literal["learned"]
MOST = 2**24  # units of a node or words of a vocabulary: more is a slip of the keyboard


def read_inputs(spec: Mapping[str, Any], place: str) -> list[str]:
    """The names a cell calls its inputs; `x` when it does not say."""
    names = spec.get("inputs", ["x"])
    if not isinstance(names, (list, tuple)):
        raise GraphError(place, f"must be a list of names, not {names!r}", "Write inputs: [x, mask].")
    for i, name in enumerate(names):
        check_name(name, place, "cell input")
        if name in names[:i]:
            raise GraphError(place, f"the input {name!r} is there twice", "Rename one.")
    return list(names)


def joined(given: object, place: str) -> str:
    """An `in:` entry as one expression; a list is concatenated."""
    parts = list(given) if isinstance(given, (list, tuple)) else [given]
    texts = [part for part in parts if isinstance(part, str) and part.strip()]
    if not parts or len(texts) < len(parts):
        raise GraphError(place, f"{given!r} is no source", "Write in: l1, in: [a, b] or in: {x: l1}.")
    return texts[0] if len(texts) == 1 else f"concat({', '.join(texts)})"


def read_size(value: object, place: str) -> int:
    """A positive whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        hint = ' A param is written in quotes: "{size}".' if isinstance(value, Mapping) else ""
        raise GraphError(place, f"{value!r} is no size", f"Write a whole number from 1 to {MOST}.{hint}")
    return value


def read_layers(value: object, place: str) -> int:
    """How many layers: a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise GraphError(place, f"{value!r} is no number of layers", "Write a whole number from 1 to 10000.")
    return value


def read_flag(entry: Mapping[str, Any], key: str, at: str) -> bool:
    """true or false, false when absent."""
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise GraphError(f"{at}.{key}", f"{value!r} is neither true nor false", "Write true or false.")
    return value


def read_init(value: object, place: str) -> Init:
    """A number or `learned`. YAML 1.1 reads 1e-3 as a text, so the text of a number counts, too."""
    if value == "learned":
        return "learned"
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise GraphError(place, f"{value!r} is no start value", "Write a number or learned.")

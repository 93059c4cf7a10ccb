"""The conventions of TIMIT as data: phone sets, development and core test speakers (files beside it)."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

DROPPED = "q"  # the one phone that has no class among the 48 and the 39


@lru_cache(maxsize=1)
def phone_map() -> dict[str, tuple[str, str]]:
    """61 phones -> (phone of the 48, phone of the 39); both are "" for q."""
    table = {}
    for line in _lines("timit_phones.tsv"):
        phone, *folded = line.split("\t")
        table[phone] = (folded[0], folded[1]) if len(folded) == 2 else ("", "")
    return table


def phone_set(count: int) -> tuple[str, ...]:
    """Return the names of the 61, 48 or 39 phones, sorted; a class is the position here."""
    table = phone_map()
    if count == 61:
        return tuple(sorted(table))
    return tuple(sorted({pair[{48: 0, 39: 1}[count]] for pair in table.values()} - {""}))


def relabel(count: int, nothing: int) -> tuple[int, ...]:
    """Class among the 61 -> class among the `count`; `nothing` for q where it has none."""
    if count == 61:
        return tuple(range(61))
    index = {name: i for i, name in enumerate(phone_set(count))}
    column = {48: 0, 39: 1}[count]
    return tuple(index.get(phone_map()[name][column], nothing) for name in phone_set(61))


def fold_to_39(count: int) -> tuple[int, ...] | None:
    """Class among the `count` -> class among the 39, -1 for q; None where they are the 39 already."""
    if count == 39:
        return None
    scored = relabel(39, -1)
    small: list[int] = [-1] * count
    for source, target in enumerate(relabel(count, -1)):
        if target >= 0:
            small[target] = scored[source]
    return tuple(small)


@lru_cache(maxsize=1)
def dev_speakers() -> frozenset[str]:
    """Return the 50 development speakers in lower case."""
    return frozenset(_lines("timit_dev_speakers.txt"))


@lru_cache(maxsize=1)
def core_test_speakers() -> frozenset[str]:
    """Return the 24 core test speakers in lower case."""
    return frozenset(_lines("timit_core_test_speakers.txt"))


def _lines(name: str) -> list[str]:
    text = files("framework.data").joinpath(name).read_text(encoding="utf-8")
    return [line.rstrip("\r\n") for line in text.splitlines() if line.strip() and not line.startswith("#")]

"""Small words of texts for people."""

from __future__ import annotations


def counted(number: int, word: str) -> str:
    """A number of things: `1 file`, `2,000 files`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"

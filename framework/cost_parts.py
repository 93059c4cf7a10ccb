"""Predicted time by what it is spent on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Cost:
    """Microseconds of one time step by what they are spent on."""

    parts: dict[str, float] = field(default_factory=dict)

    def add(self, part: str, us: float) -> Cost:
        """`us` more for a part."""
        if us:
            self.parts[part] = self.parts.get(part, 0.0) + us
        return self

    def plus(self, other: Cost) -> Cost:
        """All parts of both."""
        out = Cost(dict(self.parts))
        for part, us in other.parts.items():
            out.add(part, us)
        return out

    def times(self, factor: float) -> Cost:
        """`factor` such steps."""
        return Cost({part: us * factor for part, us in self.parts.items()})

    def scaled(self, factors: Mapping[str, float]) -> Cost:
        """Each part by its factor."""
        return Cost({part: us * factors.get(part, 1.0) for part, us in self.parts.items()})

    @property
    def us(self) -> float:
        """The whole step."""
        return sum(self.parts.values())

    @property
    def bound(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda part: self.parts[part]) if self.parts else "nothing"

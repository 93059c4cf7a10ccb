"""How a persistent loop is spread over programs, lanes and warps."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Layout:
    """How the loop is spread: `programs` share a tile of `lanes` lanes, each having its part of the units.

    One program: it has all units, and what they exchange stays on the chip. Many: a product takes `chunk`
    units of its source at a time; where a program has less than 64 rows of a matrix, `splits` parts of them
    at once. It loads as many blocks of sources before the first is used as each thread can take `loaded`
    numbers of; matrices stay on the chip up to `resident` numbers. Up to `groups` tiles are computed at the
    same time. least: units of a program (tensor cores take no fewer; tests spread small loops by it).
    """

    programs: int = 1
    lanes: int = 16
    warps: int = 4
    chunk: int = 128
    splits: int = 1
    resident: int = 1 << 30
    groups: int = 1 << 30
    loaded: int = 128
    least: int = 16

    def units(self, size: int) -> int:
        """Units of a value of `size` that one program computes: a power of 2. A single one all compute."""
        if size == 1:
            return 1
        share = -(-size // self.programs)
        return max(self.least, 1 << (share - 1).bit_length())

    def backward(self) -> Layout:
        """Of the derivative: rows of a turned matrix are few, so eight warps share its reduction."""
        return replace(self, warps=8, splits=8) if self.programs > 1 else self

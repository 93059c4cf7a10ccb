"""How a persistent loop is spread over programs, lanes and warps."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Layout:
    """How the loop is spread: `programs` share a tile of `lanes` lanes, each having its part of the units.

    One program: it has all units, and what they exchange stays on the chip. Many: a product takes `chunk`
    units of its source at a time; where a program has fewer than `whole` rows of a matrix, `splits` parts of
    them at once. It loads as many blocks of sources before the first is used as each thread can take `loaded`
    numbers of; matrices stay on the chip up to `resident` numbers. Up to `groups` tiles are computed at the
    same time; `wide`: larger tiles that there is room for. least: units of a program (tensor cores take no
    fewer; tests spread small loops by it). back_: of the derivative over many programs, whose rows of a
    turned matrix are few, so more warps share its reduction (64 rows as a whole in 8 warps spilled in gru of
    8192 units). tuned: (most lanes, layout) that were measured,
    fewest first.
    """

    programs: int = 1
    lanes: int = 16
    warps: int = 4
    chunk: int = 128
    splits: int = 1
    whole: int = 64
    resident: int = 1 << 30
    groups: int = 1 << 30
    loaded: int = 128
    least: int = 16
    wide: tuple[int, ...] = ()
    back_warps: int = 8
    back_splits: int = 8
    back_whole: int = 128
    tuned: tuple[tuple[int, Layout], ...] = ()

    def units(self, size: int) -> int:
        """Units of a value of `size` that one program computes: a power of 2. A single one all compute."""
        if size == 1:
            return 1
        share = -(-size // self.programs)
        return max(self.least, 1 << (share - 1).bit_length())

    def at(self, lanes: int) -> Layout:
        """For so many lanes: the smallest tiles that can all be computed at the same time, else the largest.

        Tiles that follow one another cost a whole step each; wider ones multiply with the same matrices.
        """
        for most, layout in self.tuned:
            if lanes <= most:
                return layout
        for tile in (self.lanes, *self.wide):
            if -(-lanes // tile) <= self.groups:
                break
        # Wide blocks of sources fill as many registers with few of them under way.
        return self if tile == self.lanes else replace(self, lanes=tile, loaded=min(self.loaded, 32))

    def backward(self) -> Layout:
        """Of the derivative."""
        if self.programs == 1:
            return self
        whole = max(self.whole, self.back_whole)
        return replace(self, warps=self.back_warps, splits=self.back_splits, whole=whole)

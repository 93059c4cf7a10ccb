"""Random masks of dropout and zoneout inside a loop: their keys, and their place in an op list."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from framework.cell import Op
from framework.component import Component


def key_of(name: str) -> int:
    """The 32 bits by which the mask called `name` differs from all others."""
    return zlib.crc32(name.encode())


def with_masks(c: Component, ops: Sequence[Op], training: bool) -> tuple[Op, ...]:
    """`ops`, which begin with the component's cell, with random masks in the place of values from outside;
    training=False: with their means.
    """

    def mask(op: Op) -> Op:
        found = c.masks.get(op.lo) if op.kind == "ext" else None
        if found is None:
            return op
        return found if training else Op("const", value=mean(found))

    return tuple(mask(op) for op in ops)


def mean(mask: Op) -> float:
    """The mean of a random mask: what stands for it without training."""
    return (1.0, mask.value, 1.0 - mask.value)[mask.lo]

"""Storages that live at once in a forward and backward, and who holds them; see peak.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from framework.runners.products import copies_columns

if TYPE_CHECKING:
    from framework.network import Network


class Heap:
    """Storages with counts of who holds them."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}
        self.held: dict[int, int] = {}
        self.now = self.peak = 0

    def new(self, size: int) -> int:
        """A storage that one holds."""
        key = len(self.bytes)
        self.bytes[key], self.held[key] = size, 1
        self.now += size
        self.peak = max(self.peak, self.now)
        return key

    def hold(self, key: int) -> int:
        """One more holds it."""
        self.held[key] += 1
        return key

    def drop(self, keys: Sequence[int]) -> None:
        """One less holds each."""
        for key in keys:
            self.held[key] -= 1
            if not self.held[key]:
                self.now -= self.bytes[key]

    def spike(self, size: int) -> None:
        """Bytes that live for a moment."""
        self.peak = max(self.peak, self.now + size)


class Tensors:
    """The large tensors of a call: which storage holds the value and the gradient of an op."""

    def __init__(self, net: Network, steps: int, lanes: int, part: bool = False):
        self.part = part  # of a call: a gradient comes from the state after it
        self.net, self.plan, self.steps, self.lanes = net, net.plan, steps, lanes
        self.item = net.like.element_size()
        self.heap = Heap()
        self.at: dict[int, int] = {}  # op -> storage of its value
        self.needs: set[int] = set()  # ops that have a gradient
        self.saved: dict[int, list[int]] = {}  # step -> storages that its backward holds
        self.grads: dict[int, int] = {}  # op -> storage of its gradient
        self.sums: dict[int, int] = {}  # Linear step of a loop -> storage of the buffer, then of its gradient

    def row(self, units: int) -> int:
        """Bytes of a sequence of `units`."""
        return units * self.steps * self.lanes * self.item

    def keep(self, k: int, ops: Sequence[int]) -> None:
        """Step k holds values until its backward has run."""
        found = [self.heap.hold(self.at[op]) for op in ops if op in self.at]
        self.saved.setdefault(k, []).extend(found)

    def copies(self, n: int, k: int) -> bool:
        """Whether a product copies columns of a wider tensor first."""
        return copies_columns(self.net.like, self.steps * self.lanes, n, k)

    def give(self, op: int, size: int) -> None:
        """A gradient of its own for a value; added to another in place."""
        self.take(op, self.heap.new(size))

    def take(self, op: int, key: int) -> None:
        """A gradient for a value that is held by no one else."""
        if op not in self.grads:
            self.grads[op] = key
        elif self.heap.held[self.grads[op]] > 1:  # a sum of its own
            self.heap.spike(self.heap.bytes[key])
            self.heap.drop([self.grads[op]])
            self.grads[op] = key
        else:
            self.heap.drop([key])

    def alias(self, op: int, g: int) -> None:
        """The gradient of a value is one that is there."""
        if op in self.grads:  # not its own to add to
            old = self.grads[op]
            self.grads[op] = self.heap.new(self.heap.bytes[g])
            self.heap.drop([old])
        else:
            self.grads[op] = self.heap.hold(g)

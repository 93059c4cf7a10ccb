"""Sequences of known lengths dealt out to lanes that are to end together: a lane that is over waits.

Each lane taking the next sequence when it runs dry leaves up to a sequence's length idle in every lane. The
lengths are known, so the long ones are dealt first (Graham 1969: longest processing time), and what is left
is made even by exchanging sequences.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from framework.data.order import LENGTH_NOISE

EVEN = 0.005  # share of idle steps that is not worth another exchange
EXCHANGES = 4  # a lane, at most


def deal(lengths: Sequence[int], lanes: int, random: np.random.Generator | None = None) -> list[list[int]]:
    """Return the items of each of `lanes` lanes, in order; every item is in one of them.

    random: draws which lane an item comes to, and the order of lanes and of items; None: always the same.
    """
    size = np.asarray(lengths, dtype=np.int64)
    noise = 1.0 if random is None else random.uniform(1 - LENGTH_NOISE, 1 + LENGTH_NOISE, len(size))
    found: list[list[int]] = [[] for _ in range(lanes)]
    ends = [(0, 0, lane) for lane in range(lanes)]  # of equal ones the emptiest: none stays without
    for item in np.argsort(-size * noise, kind="stable").tolist():
        end, count, lane = ends[0]
        found[lane].append(item)
        heapq.heapreplace(ends, (end + int(size[item]), count + 1, lane))
    _even_out(size, found)
    if random is not None:
        found = [[found[lane][i] for i in random.permutation(len(found[lane]))]
                 for lane in random.permutation(lanes)]  # fmt: skip
    return found


def steps(lengths: Sequence[int], lanes: Sequence[Sequence[int]]) -> list[int]:
    """How long each lane is."""
    return [sum(lengths[item] for item in items) for items in lanes]


def idle(lengths: Sequence[int], lanes: Sequence[Sequence[int]]) -> float:
    """The share of all lanes' steps in which one waits for the longest."""
    each = steps(lengths, lanes)
    return 1 - sum(each) / (max(each) * len(each)) if any(each) else 0.0


def _even_out(size: np.ndarray, lanes: list[list[int]]) -> None:
    """Exchange an item of the longest lane for a shorter one of another, as long as that helps."""
    frames = np.array([size[items].sum() for items in lanes])
    where = np.empty(len(size), dtype=np.int64)
    for lane, items in enumerate(lanes):
        where[items] = lane
    for _ in range(EXCHANGES * len(lanes)):
        longest = int(frames.argmax())
        if frames[longest] * (1 - EVEN) * len(lanes) <= frames.sum():
            return
        own = np.array(lanes[longest])
        less = size[own][:, None] - size[None, :]  # what the longest lane loses by each exchange
        after = np.maximum(frames[longest] - less, frames[where][None, :] + less)
        after[:, where == longest] = frames[longest]
        i, theirs = np.unravel_index(int(after.argmin()), after.shape)
        if after[i, theirs] >= frames[longest]:
            return
        mine, other = int(own[i]), int(where[theirs])
        lanes[longest][int(i)] = int(theirs)
        lanes[other][lanes[other].index(int(theirs))] = mine
        where[mine], where[theirs] = other, longest
        frames[longest] -= less[i, theirs]
        frames[other] += less[i, theirs]

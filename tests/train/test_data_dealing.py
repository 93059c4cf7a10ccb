"""Lanes that end together: every sequence once, other lanes in every epoch, hardly a step idle."""

from itertools import product

import numpy as np
import pytest

from framework.data import dealing
from framework.data.dealing import deal, idle, steps


def sentences(count, seed):
    """Lengths as those of read sentences, in frames of 10 ms."""
    print("seed", seed)
    return np.random.default_rng(seed).integers(140, 551, count).tolist()


def queue(lengths, lanes):
    """What a lane gets that takes the next sequence when it is over."""
    found = [[] for _ in range(lanes)]
    for item in range(len(lengths)):
        min(found, key=lambda items: sum(lengths[i] for i in items)).append(item)
    return found


@pytest.mark.parametrize(("count", "lanes"), [(1, 1), (7, 7), (96, 8), (96, 32), (50, 3)])
def test_every_sequence_is_dealt_once_and_others_in_every_epoch(count, lanes):
    lengths = sentences(count, 5)
    dealt = [deal(lengths, lanes, np.random.default_rng(epoch)) for epoch in (0, 1, 0)]
    for each in (*dealt, deal(lengths, lanes)):
        assert len(each) == lanes and all(each)
        assert sorted(item for items in each for item in items) == list(range(count))
        assert max(steps(lengths, each)) - min(steps(lengths, each)) <= max(lengths)
    assert dealt[0] == dealt[2] and deal(lengths, lanes) == deal(lengths, lanes)
    if count > 1:
        assert dealt[0] != dealt[1]
    if count > lanes:  # not the same company in another order
        company = [{frozenset(items) for items in each} for each in dealt]
        assert company[0] != company[1]


@pytest.mark.parametrize(("count", "lanes"), [(96, 8), (96, 32), (240, 64)])
def test_lanes_end_together(count, lanes):
    lengths = sentences(count, 6)
    shares = [idle(lengths, deal(lengths, lanes, np.random.default_rng(epoch))) for epoch in range(5)]
    print(shares, idle(lengths, queue(lengths, lanes)))
    assert max(shares) < 0.01 < 0.03 < idle(lengths, queue(lengths, lanes))


def test_exchanges_only_make_it_better_and_come_near_the_best(monkeypatch):
    """Against all ways to deal seven sequences to three lanes."""
    gained = 0
    for seed in range(30):
        lengths = sentences(7, seed)
        found = max(steps(lengths, deal(lengths, 3)))
        with monkeypatch.context() as patch:
            patch.setattr(dealing, "EXCHANGES", 0)
            before = max(steps(lengths, deal(lengths, 3)))
        ends = np.array(list(product(range(3), repeat=7)))
        best = min(max(np.bincount(way, weights=lengths, minlength=3)) for way in ends)
        assert best <= found <= before and found <= 1.12 * best
        gained += found < before
    assert gained > 3


def test_what_cannot_be_even_is_left():
    """One sequence is longer than all others together; some have no frame at all."""
    lengths = [1000, 3, 3, 4, 0, 0]
    for random in (None, np.random.default_rng(0)):
        dealt = deal(lengths, 2, random)
        assert sorted(steps(lengths, dealt)) == [10, 1000]
    assert idle(lengths, [[0], [1, 2, 3]]) == pytest.approx(990 / 2000)
    assert deal([0, 0], 2) == [[0], [1]] and idle([0, 0], [[0], [1]]) == 0

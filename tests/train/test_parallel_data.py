"""Lanes shared out: every lane of every batch belongs to one process, and nothing else is loaded."""

import pytest
import torch

from framework.data import Batch, make_dataset
from framework.data.streams import streamed
from framework.data.utterances import Part, Utterances
from framework.errors import ConfigError
from framework.parallel import Group
from framework.parallel_data import Sharded, own_lanes, own_options

WORLD = 3


def utterances(loaded):
    """Seven utterances of 2 to 8 frames; `loaded` counts what is read."""

    def load(i):
        loaded.append(i)
        return torch.full((2 + i, 2), float(i)), torch.full((2 + i,), i % 3)

    names = tuple(f"u{i}" for i in range(7))
    part = Part(names, names, tuple(range(2, 9)), load, tuple((i % 3,) * (1 + i % 2) for i in range(7)))
    parts = {"train": part, "dev": part, "test": part}
    return Utterances("mine", parts, ("a", "b", "c"), torch.zeros(2), torch.ones(2), 4, 0)


def lanes(batch: Batch):
    """What each lane holds, without its padding; as text, since NaN equals nothing."""
    rows = {}
    for b, name in enumerate(batch.ids):
        n = int(batch.lengths[b])
        targets = None if batch.targets is None else tuple(t for t in batch.targets[b].tolist() if t >= 0)
        resets = None if batch.resets is None else batch.resets[:n, b].tolist()
        assert name not in rows
        rows[name] = repr((batch.x[:n, b].tolist(), batch.y[:n, b].tolist(), resets, targets))
    return rows


@pytest.mark.parametrize("kind", ["utterances", "drawn", "streams", "streams of utterances"])
def test_each_lane_belongs_to_one_process(kind):
    loaded = []
    whole = {
        "utterances": lambda: utterances(loaded),
        "drawn": lambda: make_dataset("adding", length=24, train=8, dev=4, test=4, batch_size=4),
        "streams": lambda: make_dataset("text", max_chars=9000, chunk=200, batch_size=4),
        "streams of utterances": lambda: streamed(utterances(loaded), 4, 4, 3),
    }[kind]()
    parts = [Sharded(whole, rank, WORLD) for rank in range(WORLD)]
    batches = list(whole.batches("train", 1, 1))
    loaded.clear()
    shared = [list(part.batches("train", 1, 1)) for part in parts]
    assert all(len(own) == len(batches) > 0 and part.count("train", 1) == whole.count("train", 1)
               for own, part in zip(shared, parts, strict=True))  # fmt: skip
    if kind == "utterances":
        assert len(loaded) == sum(len(batch.ids) for batch in batches)
    if kind == "streams of utterances":
        assert len(loaded) <= 7, "each by the process that has it"
    for i, batch in enumerate(batches):
        own = [share[i] for share in shared]
        assert [len(each.ids) for each in own] == [len(batch.ids[rank::WORLD]) for rank in range(WORLD)]
        assert {name: row for each in own for name, row in lanes(each).items()} == lanes(batch)
        if whole.carry:
            assert {len(each.x) for each in own} == {len(batch.x)}, "chunks end together"
        else:
            assert all(len(each.x) == int(each.lengths.max()) for each in own if each.ids)


def test_too_few_lanes_are_a_mistake():
    with pytest.raises(ConfigError, match=r"data\.batch_size: 4 lane.* for 5 workers"):
        Sharded(utterances([]), 0, 5)
    text = make_dataset("text", max_chars=9000, chunk=200, batch_size=2)
    with pytest.raises(ConfigError, match=r"data\.streams: 2 lane"):
        Sharded(text, 0, 3)


def test_data_that_share_themselves_out_get_an_equal_part():
    class Second(Group):
        rank, world = 1, 2

    given = {"name": "hub_text", "batch_size": 6}
    assert own_options(given, Second()) == given | {"rank": 1, "world": 2, "batch_size": 3}
    assert own_options(given, Group()) == given
    assert own_options({"name": "text", "batch_size": 6}, Second()) == {"name": "text", "batch_size": 6}
    with pytest.raises(ConfigError, match=r"data\.batch_size: 7 lanes .* 2 workers\. Give 8"):
        own_options(given | {"batch_size": 7}, Second())
    whole = utterances([])
    assert own_lanes(whole, Group()) is whole and isinstance(own_lanes(whole, Second()), Sharded)

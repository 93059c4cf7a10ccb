"""The order of batches: the same for the same (seed, split, epoch), resumable anywhere, every item once."""

import numpy as np
import pytest
import torch

from framework.data import SPLITS, Batch, Dataset, make_dataset
from framework.data.order import bucketed

SMALL = {
    "synth_speech": {
        "train_speakers": 3,
        "dev_speakers": 1,
        "test_speakers": 1,
        "sentences": 3,
        "batch_size": 2,
    },
    "text": {"max_chars": 20_000, "batch_size": 4, "chunk": 50},
    "adding": {"length": 30, "train": 23, "dev": 5, "test": 5, "batch_size": 5},
    "copy": {"delay": 7, "train": 23, "dev": 5, "test": 5, "batch_size": 5},
}


@pytest.fixture(scope="module", params=SMALL)
def make(request, tmp_path_factory):
    options = dict(SMALL[request.param])
    if request.param == "synth_speech":
        options["cache_dir"] = str(tmp_path_factory.getbasetemp() / "cache")
    return lambda **more: make_dataset(request.param, **(options | more))


def same(a: Batch, b: Batch) -> bool:
    resets = a.resets is b.resets or (a.resets is not None and torch.equal(a.resets, b.resets))
    y = torch.equal(a.y.nan_to_num(-7), b.y.nan_to_num(-7))
    return torch.equal(a.x, b.x) and y and torch.equal(a.lengths, b.lengths) and resets and a.ids == b.ids


def test_an_epoch_is_a_function_of_seed_split_and_epoch(make):
    one, two = make(), make()
    for split in SPLITS:
        for epoch in (0, 1):
            ours, theirs = list(one.batches(split, epoch)), list(two.batches(split, epoch))
            assert len(ours) == len(theirs) == one.count(split, epoch) > 0
            assert all(map(same, ours, theirs))


def test_start_equals_skipping(make):
    data = make()
    for split in SPLITS:
        whole = list(data.batches(split, 3))
        for start in range(len(whole) + 1):
            rest = list(data.batches(split, 3, start))
            assert len(rest) == len(whole) - start
            assert all(map(same, rest, whole[start:]))


def test_training_epochs_and_seeds_differ_and_test_epochs_do_not(make):
    data = make()
    first = list(data.batches("train", 0))
    assert not all(map(same, first, data.batches("train", 1)))
    assert not all(map(same, first, make(seed=1).batches("train", 0)))
    assert all(map(same, data.batches("test", 0), data.batches("test", 5)))


def test_batches_are_what_the_protocol_says(make):
    data = make()
    assert isinstance(data, Dataset)
    assert len(data.labels) == data.classes and data.name in data.describe()
    for split in SPLITS:
        for batch in data.batches(split, 0):
            steps, lanes = batch.y.shape
            assert batch.lengths.shape == (lanes,) and batch.lengths.dtype == torch.int64
            assert len(batch.ids) == lanes
            assert int(batch.lengths.max()) == steps and int(batch.lengths.min()) > 0
            padding = torch.arange(steps).unsqueeze(1) >= batch.lengths
            if "size" in data.input:
                assert batch.x.shape == (steps, lanes, data.input["size"]) and batch.x.dtype == torch.float32
                assert not batch.x[padding].any()
            else:
                assert batch.x.shape == (steps, lanes) and batch.x.dtype == torch.int64
                assert 0 <= int(batch.x.min()) and int(batch.x.max()) < data.input["vocab"]
            if data.kind == "classes":
                scored = batch.y[batch.y != -100]
                assert batch.y.dtype == torch.int64 and (batch.y[padding] == -100).all()
                assert scored.numel() and 0 <= int(scored.min()) and int(scored.max()) < data.classes
            else:
                assert batch.y.dtype == torch.float32 and batch.y[padding].isnan().all()
            assert (batch.resets is not None) == data.carry


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_buckets_hold_every_item_once(count):
    lengths = np.random.default_rng(count).integers(50, 500, count).tolist()
    for split in SPLITS:
        batches = bucketed(lengths, 8, 0, split, 4)
        assert sorted(i for b in batches for i in b) == list(range(count))
        assert len(batches) == -(-count // 8) and all(len(b) <= 8 for b in batches)


def test_buckets_keep_padding_small():
    lengths = np.random.default_rng(0).integers(50, 500, 800)
    batches = bucketed(lengths.tolist(), 16, 0, "train", 1)
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    assert padded < 1.2 * lengths.sum()  # in random order it would be about 1.75
    firsts = [lengths[b].mean() for b in batches]
    assert firsts != sorted(firsts), "batches come in no order of length"

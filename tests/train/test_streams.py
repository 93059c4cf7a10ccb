"""Streams: every utterance once, unbroken and in its lane; the state crosses chunks and stops at resets."""

import pytest
import torch

from framework import Network, load_graph
from framework.data import UNSCORED, Batch, make_dataset
from framework.data.streams import streamed
from framework.data.utterances import Part, Utterances
from framework.errors import ConfigError
from framework.evaluate import evaluate
from framework.task import make_task

LENGTHS = {"train": (5, 1, 9, 3, 7, 2, 6), "dev": (4, 6, 3), "test": (2, 5, 1, 3)}

pytestmark = pytest.mark.usefixtures("one_thread")


def utterances(lengths=LENGTHS):
    """Frames are (1000 * utterance + frame, 1); the class is the frame's number modulo 4."""

    def part(split):
        def load(i):
            at = torch.arange(lengths[split][i])
            y = at % 4
            return torch.stack([1000.0 * i + at, torch.ones(len(at))], 1), torch.where(at == 2, UNSCORED, y)

        ids = tuple(f"{split}{i}" for i in range(len(lengths[split])))
        return Part(ids, ids, lengths[split], load)

    parts = {split: part(split) for split in lengths}
    return Utterances("made", parts, tuple("abcd"), torch.zeros(2), torch.ones(2), 2, seed=3)


@pytest.mark.parametrize(("lanes", "chunk"), [(1, 4), (2, 5), (3, 1), (7, 100)])
def test_every_utterance_is_there_once_and_unbroken(lanes, chunk):
    data = streamed(utterances(), lanes, 1, chunk)
    batches = list(data.batches("train", 0))
    assert len(batches) == data.count("train", 0)
    seen = []
    for lane in range(lanes):
        frames = [(x, y, r) for b in batches for x, y, r in
                  zip(*(v[: b.lengths[lane], lane] for v in (b.x, b.y, b.resets)), strict=True)]  # fmt: skip
        number = -1
        for x, y, reset in frames:
            at = int(x[0])
            assert bool(reset) == (at % 1000 == 0)
            number = at if reset else number + 1
            assert at == number and int(y) == (UNSCORED if at % 1000 == 2 else at % 1000 % 4)
            seen.append(at)
    assert sorted(seen) == [1000 * i + k for i, n in enumerate(LENGTHS["train"]) for k in range(n)]
    assert all(len(b.x) == chunk for b in batches[:-1])
    for b in batches:  # past a lane's end nothing is scored
        assert all((b.y[n:, lane] == UNSCORED).all() for lane, n in enumerate(b.lengths.tolist()))
    lengths = [sum(int(b.lengths[lane]) for b in batches) for lane in range(lanes)]
    assert max(lengths) - min(lengths) <= max(LENGTHS["train"])  # lanes are about equal


def test_an_epoch_depends_on_seed_and_epoch_alone_and_can_begin_anywhere():
    data, again = streamed(utterances(), 2, 2, 3), streamed(utterances(), 2, 2, 3)
    for split in ("train", "dev"):
        whole = list(data.batches(split, 1))
        for start in range(len(whole) + 1):
            rest = list(again.batches(split, 1, start))
            assert len(rest) == len(whole) - start
            for a, b in zip(rest, whole[start:], strict=True):
                assert torch.equal(a.x, b.x) and torch.equal(a.resets, b.resets) and a.ids == b.ids
    epochs = [torch.cat([b.x for b in data.batches(split, e)]) for split in ("train", "dev") for e in (0, 1)]
    assert epochs[0].shape != epochs[1].shape or not torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[2], epochs[3])


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_metrics_are_those_of_whole_utterances(lanes):
    """Chunks, lanes and resets change nothing but the order of sums."""
    torch.manual_seed(0)
    graph = {
        "inputs": {"x": {"size": 2}},
        "nodes": {
            "l": {"cell": "gru", "size": 5, "in": "x"},
            "y": {"size": 4, "is": "full(l) + full(l[t-2])"},
        },
        "outputs": ["y"],
    }
    net = Network(load_graph(graph))
    whole = utterances()
    task = make_task("auto", whole)
    expected = evaluate(net, whole, task, "dev")
    found = evaluate(net, streamed(whole, 2, lanes, 4), task, "dev")
    assert found == pytest.approx(expected, rel=1e-6)


def test_text_has_lanes_of_its_own_for_evaluation():
    options = {"max_chars": 4000, "chunk": 20}
    data = make_dataset("text", streams=6, eval_streams=1, **options)
    widths = {split: {b.x.shape[1] for b in data.batches(split, 0)} for split in ("train", "dev", "test")}
    assert widths == {"train": {6}, "dev": {1}, "test": {1}}
    same = make_dataset("text", batch_size=6, **options)
    for a, b in zip(data.batches("train", 2), same.batches("train", 2), strict=True):
        assert torch.equal(a.x, b.x)
    whole = torch.cat([b.x for b in data.batches("dev", 0)])[:, 0]
    assert torch.equal(whole, data.ids["dev"][: len(whole)])


def test_mistakes_are_named():
    for given, place in (
        ((-1, 0, 4), "streams"),
        ((2, 0, 0), "chunk"),
        ((8, 0, 4), "streams"),
        ((0, 4, 4), "eval"),
    ):
        with pytest.raises(ConfigError, match=f"data.{place}"):
            streamed(utterances(), *given)
    assert isinstance(streamed(utterances(), 0, 0, 4), Utterances)
    with pytest.raises(ConfigError, match=r"data\.eval_streams: 0 is too small"):
        make_dataset("text", eval_streams=0)


SPEECH = ["data=synth_speech", "data.train_speakers=1", "data.dev_speakers=1", "data.test_speakers=1",
          "data.sentences=2", "data.cache_dir=cache", "logger=none", "data.streams=2"]  # fmt: skip


def test_a_model_that_looks_ahead_needs_whole_utterances(cli):
    code, _, err = cli(*SPEECH, "model=blstm")
    assert code == 2 and "model: it reads later steps" in err and "data.streams=0" in err


@pytest.mark.slow
def test_speech_is_trained_as_streams(cli):
    code, _, err = cli(*SPEECH, "model=lstm", "task=ctc")
    assert code == 2 and "ctc" in err, err
    more = (
        "model.params.size=8",
        "data.eval_streams=1",
        "data.chunk=50",
        "train.bptt=100",
        "train.max_steps=3",
    )
    code, out, err = cli(*SPEECH, "model=lstm", *more, "run_dir=r")
    assert code == 0 and "accuracy" in out, err


def test_streams_are_a_dataset_for_the_trainer():
    batch = next(streamed(utterances(), 2, 0, 4).batches("train", 0))
    assert isinstance(batch, Batch) and batch.targets is None
    whole = list(streamed(utterances(), 2, 0, 4).batches("dev", 0))
    assert all(b.resets is None for b in whole)

"""CTC against its definition, sums over all paths; alignments against all alignments."""

import itertools
import math
from functools import lru_cache

import pytest
import torch

from framework.align import Errors, align, count_errors
from framework.ctc import Ctc
from framework.data import Batch, make_dataset
from framework.data.utterances import frames_needed
from framework.decode import beam_search, best_path
from framework.errors import ConfigError, DataError
from framework.evaluate import add
from framework.task import make_task


def collapse(path, blank):
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def posteriors(log_probs, blank):
    """Probability of every sequence of labels: the sum over its paths."""
    steps, classes = log_probs.shape
    found = {}
    for path in itertools.product(range(classes), repeat=steps):
        p = math.exp(sum(float(log_probs[t, c]) for t, c in enumerate(path)))
        labels = collapse(path, blank)
        found[labels] = found.get(labels, 0.0) + p
    return found


def scores(seed, steps, lanes, classes, sharp=2.0):
    random = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(steps, lanes, classes, generator=random, dtype=torch.float64)).log_softmax(-1)


def batch_of(targets, lengths):
    rows = torch.full((len(targets), max(map(len, targets), default=0)), -100)
    for row, labels in zip(rows, targets, strict=True):
        row[: len(labels)] = torch.tensor(labels, dtype=torch.int64)
    x = torch.zeros(max(lengths), len(lengths), 1)
    return Batch(
        x, torch.full(x.shape[:2], -100), torch.tensor(lengths), None, tuple("abcdefg"[: len(lengths)]), rows
    )


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_decoding_finds_what_the_sum_over_all_paths_finds(seed, blank):
    """A beam wider than there are prefixes is exact; so is the best path, for what it is."""
    log_probs = scores(seed, 5, 3, 3, sharp=1.0)
    lengths = torch.tensor([5, 4, 1])
    beam = beam_search(log_probs, lengths, blank, 200)
    best = best_path(log_probs, lengths, blank)
    for lane, length in enumerate(lengths.tolist()):
        inside = log_probs[:length, lane]
        found = posteriors(inside, blank)
        assert tuple(beam[lane]) == max(found, key=found.__getitem__)
        assert tuple(best[lane]) == collapse(inside.argmax(-1).tolist(), blank)


def test_the_best_labels_need_not_be_those_of_the_best_path():
    """Three paths of one label together are likelier than the one path of blanks."""
    log_probs = torch.tensor([[0.4, 0.6], [0.4, 0.6]]).log().unsqueeze(1)  # label 0, blank 1
    lengths = torch.tensor([2])
    assert best_path(log_probs, lengths, 1) == [[]]  # 0.36
    assert beam_search(log_probs, lengths, 1, 10) == [[0]]  # 0.16 + 2 * 0.24
    assert beam_search(log_probs, lengths, 1, 1) != [[0]], "one prefix alone is too narrow"


def test_a_beam_of_some_prefixes_answers_nearly_the_best():
    """Prefixes that were dropped and found again count from then on: answers are seldom far from the best."""
    close = {2: 0, 8: 0}
    for seed, width in itertools.product(range(12), close):
        log_probs = scores(seed, 6, 1, 3)
        found = posteriors(log_probs[:, 0], 2)
        answer = tuple(beam_search(log_probs, torch.tensor([6]), 2, width)[0])
        close[width] += found[answer] > 0.5 * max(found.values())
    assert close[2] >= 9 and close[8] == 12, close


def test_impossible_classes_are_no_trouble():
    log_probs = torch.full((3, 1, 3), -math.inf, dtype=torch.float64)
    for t, c in enumerate((0, 2, 0)):
        log_probs[t, 0, c] = 0.0
    assert beam_search(log_probs, torch.tensor([3]), 2, 5) == [[0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_minus_the_logarithm_of_the_sum(seed):
    targets, lengths = [[0, 1], [1, 1], []], [5, 4, 3]
    y = scores(seed, 5, 3, 3)
    task = Ctc(classes=2)
    sums = task.measure(y, batch_of(targets, lengths))
    wanted = -sum(
        math.log(posteriors(y[:length, lane], 2)[tuple(labels)])
        for lane, (labels, length) in enumerate(zip(targets, lengths, strict=True))
    )
    assert float(sums["loss"]) == pytest.approx(wanted, rel=1e-5)
    assert task.count(batch_of(targets, lengths)) == 3
    assert task.metrics({k: float(v) for k, v in sums.items()})["loss"] == pytest.approx(wanted / 3, rel=1e-5)


def test_frames_past_the_end_give_no_gradient_and_change_nothing():
    y = scores(0, 6, 2, 4).requires_grad_()
    batch = batch_of([[0, 1], [2]], [6, 3])
    sums = Ctc(3).measure(y, batch)
    assert set(sums) == {"loss", "utterances"}, "training steps do not decode"
    sums["loss"].backward()
    assert y.grad is not None and bool((y.grad[3:, 1] == 0).all()) and bool((y.grad[:3, 1] != 0).any())


def test_no_lanes_add_nothing():
    y = torch.zeros(5, 0, 3, requires_grad=True)
    batch = Batch(y, y[..., 0], torch.zeros(0, dtype=torch.int64), None, (), torch.zeros(0, 2).long())
    sums = Ctc(2).measure(y, batch)
    sums["loss"].backward()
    assert float(sums["loss"].detach()) == 0 and y.grad is not None
    assert all(float(value) == 0 for value in Ctc(2).measure(y.detach(), batch).values())


def test_too_many_labels_for_the_frames_name_the_utterance():
    assert [frames_needed(labels) for labels in ([], [1], [1, 2], [1, 1], [1, 1, 1, 2])] == [0, 1, 2, 3, 6]
    y = scores(0, 5, 2, 3)
    Ctc(2).measure(y, batch_of([[0], [1, 1, 1]], [5, 5]))
    with pytest.raises(DataError, match=r"^b: its 3 labels need 5 frames or more, it has 4\."):
        Ctc(2).measure(y, batch_of([[0], [1, 1, 1]], [5, 4]))


def test_errors_are_counted_on_folded_labels():
    """61 -> 39 in small: 3 is never scored, 2 counts as 1; sums of batches are those of all."""
    task = Ctc(4, fold=(0, 1, 1, -1))
    sums = {}
    cases = [([0, 3, 2], [0, 1]), ([0, 1, 0], [1, 0, 0]), ([1, 1], []), ([0], [3, 0, 2, 0])]
    for wanted, said in cases:
        y = torch.full((9, 1, 5), -9.0)
        y[:, 0, 4] = 0.0
        for place, label in enumerate(said):
            y[2 * place, 0, label] = 5.0
        add(sums, task.measure(y, batch_of([wanted], [9])))
    found = task.metrics({k: float(v) for k, v in sums.items()})
    # references 01, 010, 11, 0 against 01, 100, nothing, 010
    assert float(sums["labels"]) == 8
    kinds = [8 * found[k] for k in ("substitutions", "deletions", "insertions")]
    assert kinds == pytest.approx([2, 2, 2])
    assert found["per"] == pytest.approx(6 / 8)


# ---- alignment


def distance(a, b):
    """Levenshtein's recursion, word by word."""

    @lru_cache(None)
    def d(i, j):
        if not i or not j:
            return i + j
        return min(d(i - 1, j - 1) + (a[i - 1] != b[j - 1]), d(i - 1, j) + 1, d(i, j - 1) + 1)

    return d(len(a), len(b))


def test_alignments_are_shortest_and_read_back():
    random = torch.Generator().manual_seed(0)
    for _ in range(200):
        n, m = torch.randint(0, 8, (2,), generator=random).tolist()
        a, b = (tuple(torch.randint(0, 3, (k,), generator=random).tolist()) for k in (n, m))
        pairs = align(a, b)
        assert tuple(x for x, _ in pairs if x is not None) == a
        assert tuple(y for _, y in pairs if y is not None) == b
        assert (None, None) not in pairs
        errors = count_errors(pairs)
        assert errors.labels == n
        assert errors.substitutions + errors.deletions + errors.insertions == distance(a, b)
        assert errors.deletions - errors.insertions == n - m


def test_kinds_of_errors():
    assert count_errors(align([1, 2, 3], [1, 3])) == Errors(3, 0, 1, 0)
    assert count_errors(align([1, 3], [1, 2, 3])) == Errors(2, 0, 0, 1)
    assert count_errors(align([1, 2, 3], [1, 4, 3])) == Errors(3, 1, 0, 0)
    assert count_errors(align([], [])) == Errors() and Errors().rate == 0
    assert (Errors(4, 1, 1, 0) + Errors(6, 0, 0, 3)).rate == 0.5


# ---- as a task


def test_the_task_wants_data_with_labels_in_a_row(tmp_path):
    speech = make_dataset(
        "synth_speech",
        train_speakers=1,
        dev_speakers=1,
        test_speakers=1,
        sentences=1,
        cache_dir=str(tmp_path),
        energy=True,
        deltas=2,
    )
    task = make_task("ctc", speech, {"beam": 7})
    assert (task.outputs, task.metric, task.better, task.beam) == (40, "per", "lower", 7)
    assert make_task("auto", speech).name == "framewise" and speech.input == {"size": 123}
    batch = next(speech.batches("train", 0))
    labels = [speech.labels[i] for i in batch.targets[0] if i >= 0]
    assert labels[0] == labels[-1] == "sil" and len(labels) > 8
    # the labels of the frames, without times, are the targets but for what no frame's centre falls on
    by_frame = [speech.labels[k] for k, _ in itertools.groupby(batch.y[:, 0].tolist()) if k >= 0]
    assert len(align(by_frame, labels)) == len(labels) and by_frame[1:4] == labels[1:4]
    copy = make_dataset("copy", delay=2, train=4, dev=4, test=4, batch_size=4)
    for name, data, options, words in (
        ("ctc", copy, {}, "'ctc' does not fit data=copy, which serves framewise, characters"),
        ("ctc", speech, {"beam": -1}, r"task\.beam: -1 is too small"),
        ("framewise", speech, {"beam": 3}, r"task\.beam: task=framewise has no such option. It has none"),
        ("ctc", speech, {"loss": "mae"}, r"task\.loss: task=ctc has no such option. It has beam"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_task(name, data, options)

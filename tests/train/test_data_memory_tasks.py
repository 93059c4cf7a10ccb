import math

import torch

from framework.data import make_dataset


def test_adding_is_the_published_problem():
    data = make_dataset("adding", length=40, train=500, batch_size=50)
    assert (data.kind, data.classes, data.input) == ("regression", 1, {"size": 2})
    answers, lengths = [], set()
    for batch in data.batches("train", 0):
        for b, n in enumerate(batch.lengths.tolist()):
            value, marker, y = batch.x[:n, b, 0], batch.x[:n, b, 1], batch.y[:n, b]
            lengths.add(n)
            assert float(value.abs().max()) <= 1
            marks = (marker == 1).nonzero().flatten().tolist()
            assert len(marks) == 2 and marks[0] < 10 and max(marks) < 20
            edges = [0, n - 1]
            assert all(marker[e] == -1 for e in edges if e not in marks)
            assert (marker[[i for i in range(n) if i not in marks and i not in edges]] == 0).all()
            assert y[:-1].isnan().all()
            expected = 0.5 + sum(float(value[m]) for m in marks if m) / 4
            assert math.isclose(float(y[-1]), expected, abs_tol=1e-6)
            answers.append(float(y[-1]))
    assert lengths == {40, 41, 42, 43, 44}
    error = sum((a - 0.5) ** 2 for a in answers) / len(answers)
    assert 0.03 < error < 0.05, "the error that describe() gives for a constant answer, 1/24"


def test_copy_asks_for_the_string_after_the_mark():
    for scored in ("recall", "all"):
        data = make_dataset("copy", delay=5, train=20, batch_size=20, scored=scored)
        assert (data.classes, data.input) == (9, {"vocab": 10})
        [batch] = data.batches("train", 0)
        assert batch.x.shape == (25, 20)
        string = batch.x[:10]
        assert (string < 8).all() and len(string.unique()) == 8
        assert (batch.x[10:14] == 8).all() and (batch.x[14] == 9).all() and (batch.x[15:] == 8).all()
        assert torch.equal(batch.y[-10:], string)
        assert (batch.y[:-10] == (8 if scored == "all" else -100)).all()

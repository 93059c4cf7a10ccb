"""Losses and metrics against plain loops over frames."""

import math

import pytest
import torch

from framework.data import Batch, make_dataset
from framework.errors import ConfigError
from framework.evaluate import add
from framework.optim import Schedule, make_optimizer
from framework.task import Characters, Framewise, Regression, better, make_task


def batch(y):
    steps, lanes = y.shape
    return Batch(torch.zeros(steps, lanes, 1), y, torch.full((lanes,), steps), None, tuple("ab"[:lanes]))


def framewise_case(seed):
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(-1, 4, (7, 2), generator=random)
    y[y < 0] = -100
    return torch.randn(7, 2, 4, generator=random, dtype=torch.float64), y


def test_framewise_counts_scored_frames_only():
    fold = (0, 1, -1, 1)  # class 2 is not scored, 3 counts as 1
    task = Framewise(fold)
    sums = {}
    loss, right, frames, folded_right, folded = 0.0, 0, 0, 0, 0
    for seed in range(3):
        logits, y = framewise_case(seed)
        add(sums, task.measure(logits, batch(y)))
        assert task.count(batch(y)) == int((y != -100).sum())
        for t in range(7):
            for b in range(2):
                label = int(y[t, b])
                if label == -100:
                    continue
                p = torch.softmax(logits[t, b].float().double(), 0)
                loss -= math.log(float(p[label]))
                answer = int(p.argmax())
                frames += 1
                right += answer == label
                if fold[label] >= 0:
                    folded += 1
                    folded_right += fold[answer] == fold[label]
    found = task.metrics({k: float(v.detach()) for k, v in sums.items()})
    assert found["loss"] == pytest.approx(loss / frames, rel=1e-5)
    assert found["accuracy"] == right / frames
    assert found["accuracy_2"] == folded_right / folded
    assert folded < frames, "the case must hold a frame that the fold leaves out"


def test_bits_per_character():
    logits, y = framewise_case(4)
    found = Characters().metrics({k: float(v) for k, v in Characters().measure(logits, batch(y)).items()})
    assert found["bits_per_character"] == pytest.approx(found["loss"] / math.log(2))
    uniform = Characters().measure(torch.zeros(7, 2, 4), batch(y))
    assert Characters().metrics({k: float(v) for k, v in uniform.items()})[
        "bits_per_character"
    ] == pytest.approx(2)


def test_regression_leaves_unscored_frames_without_a_gradient():
    y = torch.full((3, 2), math.nan)
    y[2] = torch.tensor([0.5, 0.25])
    answers = torch.tensor([[9.0, 9], [9, 9], [0.52, 1.25]]).unsqueeze(-1).requires_grad_()
    sums = Regression().measure(answers, batch(y))
    sums["loss"].backward()
    assert Regression().count(batch(y)) == 2
    found = Regression().metrics({k: float(v.detach()) for k, v in sums.items()})
    assert found["mse"] == pytest.approx((0.02**2 + 1) / 2, rel=1e-5)
    assert found["solved"] == 0.5
    assert torch.equal(answers.grad[:2], torch.zeros(2, 2, 1))
    assert answers.grad[2].flatten().tolist() == pytest.approx([0.04, 2.0], rel=1e-5)


def test_the_data_choose_the_task():
    adding = make_dataset("adding", length=24, train=4, dev=4, test=4, batch_size=4)
    copy = make_dataset("copy", delay=2, train=4, dev=4, test=4, batch_size=4)
    assert make_task("auto", adding).name == "regression"
    assert make_task("auto", copy).name == "framewise"
    assert make_task("characters", copy).name == "characters"
    with pytest.raises(ConfigError, match="does not fit"):
        make_task("regression", copy)
    with pytest.raises(ConfigError, match="does not fit"):
        make_task("ctc", copy)


def test_better_knows_the_direction_and_never_takes_nan():
    assert (
        better(Framewise(), 0.5, None) and better(Framewise(), 0.6, 0.5) and not better(Framewise(), 0.4, 0.5)
    )
    assert better(Characters(), 1.0, 2.0) and not better(Characters(), 2.0, 1.0)
    assert not better(Framewise(), math.nan, None) and not better(Characters(), math.nan, 1.0)


def test_plateau_lowers_after_its_patience_and_stops_at_the_floor():
    schedule = Schedule("plateau", lr=1.0, factor=0.5, patience=1, min_lr=0.25, better="lower")
    lowered = [schedule.evaluated(value) for value in (5, 4, 4, 4, 3, 4, 4, 4, 4, 4, 4)]
    assert lowered == [False, False, False, True, False, False, True, False, False, False, False]
    assert schedule.rate(99) == 0.25


def test_schedules_over_time():
    cosine = Schedule("cosine", lr=1.0, warmup=4, total=14, min_lr=0.1)
    assert [cosine.rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert (
        cosine.rate(4) == 1.0
        and cosine.rate(9) == pytest.approx(0.55)
        and cosine.rate(14) == pytest.approx(0.1)
    )
    assert Schedule("constant", lr=0.3).rate(1000) == 0.3


def test_a_schedule_goes_on_from_its_state():
    values = [1, 2, 2, 2, 2, 3, 3, 3, 3]
    whole = Schedule("plateau", lr=1.0, patience=1)
    for value in values:
        whole.evaluated(value)
    first, second = (Schedule("plateau", lr=1.0, patience=1) for _ in range(2))
    for value in values[:3]:
        first.evaluated(value)
    second.load(first.state())
    for value in values[3:]:
        second.evaluated(value)
    assert second.state() == whole.state() and whole.rate(0) < 1.0


def test_optimizers_by_name():
    weight = torch.nn.Parameter(torch.zeros(2))
    for name in ("adam", "adamw", "sgd", "rmsprop"):
        assert type(make_optimizer(name, [weight], lr=0.1)).__name__.lower() == name
    with pytest.raises(ConfigError, match=r"optimizer\.beta: adam has no such option"):
        make_optimizer("adam", [weight], beta=0.9)
    with pytest.raises(ConfigError, match="refuses"):
        make_optimizer("adam", [weight], lr=-1.0)

"""The loop: accumulation, clipping, streams, stopping, NaN, signals. Small networks, batches from lists."""

import math
import os
import signal
import time

import pytest
import torch

from framework import trainer as trainer_module
from framework.data import Batch
from framework.errors import TrainingError
from framework.load import load_graph
from framework.logging import JsonLog, Logs, read_log
from framework.network import Network
from framework.optim import Schedule, make_optimizer
from framework.task import make_task
from framework.trainer import Trainer


class Lists:
    """A dataset of given batches: `epochs[e]` for training epoch e (the last repeats), `dev` for the rest."""

    name, kind, tasks, carry, fold, fold_labels = "lists", "classes", ("framewise",), False, None, None
    input, classes, labels = {"size": 3}, 4, tuple("abcd")

    def __init__(self, *epochs, dev=None, carry=False):
        self.epochs, self.dev, self.carry = epochs, dev or epochs[0][:1], carry
        self.asked = []

    def batches(self, split, epoch, start=0):
        self.asked.append((split, epoch, start))
        batches = self.epochs[min(epoch, len(self.epochs) - 1)] if split == "train" else self.dev
        return iter(batches[start:])

    def count(self, split, epoch):
        return len(self.epochs[min(epoch, len(self.epochs) - 1)] if split == "train" else self.dev)

    def describe(self):
        return "lists"


def make_batch(seed, steps=6, lanes=2, resets=None):
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (steps, lanes), generator=random)
    y[torch.rand(steps, lanes, generator=random) < 0.2] = -100
    x = torch.randn(steps, lanes, 3, generator=random)
    return Batch(x, y, torch.full((lanes,), steps), resets, tuple(f"u{seed}.{b}" for b in range(lanes)))


def joined(batches):
    return Batch(
        torch.cat([b.x for b in batches], 1),
        torch.cat([b.y for b in batches], 1),
        torch.cat([b.lengths for b in batches]),
        None,
        tuple(name for b in batches for name in b.ids),
    )


GRAPH = {
    "inputs": {"x": {"size": 3}},
    "nodes": {"l": {"cell": "lstm", "size": 5, "in": "x"}, "logits": {"size": 4, "is": "full(l) + bias"}},
    "outputs": ["logits"],
}


def make_trainer(folder, dataset, lr=0.05, optimizer="sgd", schedule=None, graph=GRAPH, **options):
    torch.manual_seed(3)
    net = Network(load_graph(graph))
    task = make_task("auto", dataset)
    folder.mkdir(exist_ok=True)
    options = {"clip": 0.0, "log_steps": 1, "save_minutes": 0.0} | options
    return Trainer(
        net,
        dataset,
        task,
        make_optimizer(optimizer, net.parameters(), lr=lr),
        schedule or Schedule(lr=lr),
        folder,
        **options,
    )


def fit(trainer):
    logs = Logs(JsonLog(trainer.folder / "m.jsonl"))
    try:
        return trainer.fit(logs), read_log(trainer.folder / "m.jsonl")
    finally:
        logs.close()


def weights(trainer):
    return {name: view.clone() for name, view in trainer.net.weights().items()}


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    batches = [make_batch(seed, lanes=1 + seed % 3) for seed in range(6)]  # unequal numbers of scored frames
    apart = make_trainer(tmp_path / "a", Lists(batches), epochs=1, accumulate=3)
    whole = make_trainer(tmp_path / "b", Lists([joined(batches[:3]), joined(batches[3:])]), epochs=1)
    for trainer in (apart, whole):
        fit(trainer)
        assert trainer.at.step == 2
    for name, view in whole.net.weights().items():
        # Sums of at most 72 frames in another order: some roundings of 6e-8.
        torch.testing.assert_close(apart.net.weights()[name], view, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_clipped_as_a_whole(tmp_path):
    batches = [make_batch(0)]
    free = make_trainer(tmp_path / "a", Lists(batches), max_steps=1)
    before = weights(free)
    _, records = fit(free)
    norm = next(r["grad_norm"] for r in records if r["kind"] == "step")
    clipped = make_trainer(tmp_path / "b", Lists(batches), max_steps=1, clip=norm / 4)
    fit(clipped)
    for name, start in before.items():
        moved, less = free.net.weights()[name] - start, clipped.net.weights()[name] - start
        torch.testing.assert_close(less, moved / 4, rtol=1e-3, atol=1e-6)


def test_streams_carry_their_state_within_an_epoch_and_detach_it(tmp_path):
    def chunk(seed, first):
        resets = torch.zeros(6, 2, dtype=torch.bool)
        resets[0] = first
        return make_batch(seed, resets=resets)

    chunks = [chunk(seed, first=seed == 0) for seed in range(3)]
    trainer = make_trainer(tmp_path / "a", Lists(chunks, dev=chunks, carry=True), lr=1e-12, epochs=1)
    _, records = fit(trainer)
    losses = [r["loss"] for r in records if r["kind"] == "step"]
    assert trainer.state is None, "the state must not outlive the epoch"
    # What the network says to the whole text at once, weights unmoved (lr 1e-12).
    whole = Batch(
        torch.cat([c.x for c in chunks]),
        torch.cat([c.y for c in chunks]),
        torch.full((2,), 18),
        None,
        ("a", "b"),
    )
    with torch.no_grad():
        logits, _ = trainer.net(whole.x)
    for i, loss in enumerate(losses):
        part = torch.nn.functional.cross_entropy(
            logits[6 * i : 6 * i + 6].flatten(0, 1), chunks[i].y.flatten(), ignore_index=-100
        )
        assert loss == pytest.approx(float(part), rel=1e-4)
    dev = next(r for r in records if r["kind"] == "eval")
    whole_loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), whole.y.flatten(), ignore_index=-100)
    assert dev["loss"] == pytest.approx(float(whole_loss), rel=1e-4)


def test_limits_end_a_run(tmp_path):
    data = Lists([make_batch(s) for s in range(4)])
    why, _ = fit(make_trainer(tmp_path / "a", data, epochs=2))
    assert why == "2 epochs done"
    trainer = make_trainer(tmp_path / "b", data, epochs=0, max_steps=5)
    why, records = fit(trainer)
    assert why == "5 updates done" and trainer.at.step == 5 and (trainer.at.epoch, trainer.at.batch) == (1, 1)
    assert [r["step"] for r in records if r["kind"] == "eval"] == [4, 5], "the last state is evaluated, too"
    why, _ = fit(make_trainer(tmp_path / "c", data, epochs=0, max_minutes=1e-9))
    assert why.endswith("minutes are over")
    trainer = make_trainer(tmp_path / "d", data, epochs=0, patience=1)
    why, _ = fit(trainer)
    assert why == "no better accuracy in 1 evaluation" and trainer.limit() == "patience"


def test_a_run_that_does_not_improve_stops_early(tmp_path):
    data = Lists([make_batch(s) for s in range(2)])
    trainer = make_trainer(
        tmp_path / "a",
        data,
        lr=1e-12,
        epochs=50,
        patience=3,
        schedule=Schedule("plateau", lr=1e-12, patience=0),
    )
    why, records = fit(trainer)
    assert why == "no better accuracy in 3 evaluations"
    assert trainer.at.epoch == 4 and trainer.at.best_step == 2
    assert [r.get("lr_lowered", False) for r in records if r["kind"] == "eval"] == [False, True, True, True]


def test_evaluations_every_so_many_updates(tmp_path):
    data = Lists([make_batch(s) for s in range(4)], dev=[make_batch(9), make_batch(10)])
    trainer = make_trainer(tmp_path / "a", data, epochs=2, eval_steps=3, eval_batches=1)
    _, records = fit(trainer)
    assert [r["step"] for r in records if r["kind"] == "eval"] == [3, 6, 8]


def test_the_last_record_holds_what_is_left(tmp_path):
    data = Lists([make_batch(s) for s in range(3)])
    _, each = fit(make_trainer(tmp_path / "a", data, epochs=1, log_steps=1))
    _, records = fit(make_trainer(tmp_path / "b", data, epochs=1, log_steps=2))
    each, steps = ([r for r in found if r["kind"] == "step"] for found in (each, records))
    assert [r["step"] for r in steps] == [2, 3] and "loop_s" not in steps[1]  # times: every second
    for key in ("loss", "accuracy", "grad_norm", "lr"):
        assert steps[1][key] == each[2][key], key
    _, records = fit(make_trainer(tmp_path / "c", data, epochs=1, log_steps=50))
    (only,) = (r for r in records if r["kind"] == "step")
    scored = [int((batch.y >= 0).sum()) for batch in data.epochs[0]]
    mean = sum(n * r["loss"] for n, r in zip(scored, each, strict=True)) / sum(scored)
    assert only["step"] == 3 and only["loss"] == pytest.approx(mean, rel=1e-6)


def test_step_records_hold_what_is_promised(tmp_path):
    _, records = fit(
        make_trainer(tmp_path / "a", Lists([make_batch(s) for s in range(4)]), epochs=1, log_steps=2)
    )
    steps = [r for r in records if r["kind"] == "step"]
    assert [r["step"] for r in steps] == [2, 4]
    for record in steps:
        assert {
            "loss",
            "accuracy",
            "grad_norm",
            "lr",
            "frames_per_s",
            "step_s",
            "hoisted_s",
            "loop_s",
            "cpu_use",
            "peak_bytes",
        } <= set(record)
        assert record["frames_per_s"] > 0 and record["peak_bytes"] > 1e7 and record["cpu_use"] > 0


def test_times_of_updates_are_without_evaluations_and_their_checkpoints(tmp_path, monkeypatch):
    """One that is best is saved inside of the evaluation: it is to be left out once, not twice."""
    now, saves = [0.0], []

    class Slow(Lists):
        def batches(self, split, epoch, start=0):
            for batch in super().batches(split, epoch, start):
                now[0] += 1.0 if split == "train" else 60.0
                yield batch

    def save(path, content):
        saves.append(path.name)
        now[0] += 1000.0

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(trainer_module.checkpoint, "save", save)
    data = Slow([make_batch(s) for s in range(4)])
    _, records = fit(make_trainer(tmp_path / "a", data, epochs=1, eval_steps=1, max_steps=4))
    assert "best.pt" in saves
    assert [r["step_s"] for r in records if r["kind"] == "step"] == [1.0] * 4
    assert [r["seconds"] for r in records if r["kind"] == "eval"] == [60.0] * 4


def poisoned(at, value=math.nan):
    """Six batches, the one at `at` with a feature that is no number."""
    batches = [make_batch(s) for s in range(6)]
    batches[at].x[2, 0, 1] = value
    return Lists(batches, dev=[make_batch(9)])


def test_nan_stops_the_run_and_keeps_the_state_before_it(tmp_path):
    good = make_trainer(tmp_path / "good", poisoned(3), optimizer="adam", max_steps=3)
    fit(good)
    bad = make_trainer(tmp_path / "bad", poisoned(3), optimizer="adam", epochs=1)
    with pytest.raises(TrainingError) as error:
        fit(bad)
    text = str(error.value)
    assert text.startswith("update 4 (epoch 0): the loss is not finite")
    assert "u3.0" in text and str(bad.folder / "last.pt") in text and "resume=" in text
    from framework.checkpoint import load

    content = load(bad.folder / "last.pt")[0]
    assert content["position"]["step"] == 3 and content["position"]["batch"] == 3
    for name, view in good.net.weights().items():
        assert torch.equal(content["weights"][name], view)


def test_a_gradient_that_is_not_finite_stops_the_run_too(tmp_path):
    """An infinite feature saturates the gates: the loss is finite, its gradient is not."""
    trainer = make_trainer(tmp_path / "a", poisoned(1, math.inf), epochs=1)
    with pytest.raises(TrainingError, match=r"update 2 \(epoch 0\): the gradient is not finite"):
        fit(trainer)


def test_broken_weights_are_never_saved(tmp_path):
    """An update that makes the weights infinite: the checkpoint before it stays."""
    trainer = make_trainer(tmp_path / "a", Lists([make_batch(s) for s in range(4)]), lr=math.inf, epochs=1)
    with pytest.raises(TrainingError, match="not finite"):
        fit(trainer)
    from framework.checkpoint import load

    content = load(trainer.folder / "last.pt")[0]
    assert content["position"]["step"] == 0
    assert all(bool(value.isfinite().all()) for value in content["weights"].values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_update_and_saves(tmp_path, number):
    class Interrupting(Lists):
        def batches(self, split, epoch, start=0):
            for i, batch in enumerate(super().batches(split, epoch, start)):
                if split == "train" and i == 2:
                    os.kill(os.getpid(), number)
                yield batch

    old = signal.getsignal(number)
    trainer = make_trainer(tmp_path / "a", Interrupting([make_batch(s) for s in range(5)]), epochs=1)
    why, records = fit(trainer)
    assert why == f"interrupted by {number.name}"
    assert trainer.at.step == 3 and not [r for r in records if r["kind"] == "eval"]
    assert (trainer.folder / "last.pt").exists()
    assert signal.getsignal(number) is old


@pytest.mark.parametrize("stop", [1, 4, 7, 10])
def test_a_resumed_trainer_repeats_an_unbroken_one(tmp_path, stop):
    """Every loss and learning rate, bit for bit, from a stop inside and at the end of an epoch."""
    from framework.checkpoint import load

    def make(name, **options):
        data = Lists([make_batch(s) for s in range(4)], [make_batch(s) for s in range(10, 14)])
        schedule = Schedule("plateau", lr=0.05, patience=1)
        options = {"optimizer": "adam", "log_steps": 2, "eval_steps": 1} | options
        return make_trainer(tmp_path / name, data, schedule=schedule, **options)

    def numbers(records):
        kept = [r for r in records if r["kind"] in ("step", "eval")]
        return [(r["kind"], r["step"], r["loss"], r.get("lr"), r.get("best")) for r in kept]

    whole = make("whole", epochs=3)
    _, expected = fit(whole)
    rates = [r["lr"] for r in expected if r["kind"] == "step"]
    assert len(set(rates)) > 2, "the case must lower the learning rate"
    first = make("first", epochs=0, max_steps=stop)
    fit(first)
    content = load(first.folder / "last.pt")[0]
    second = make("second", epochs=3)
    with torch.no_grad():
        for view in second.net.weights().values():
            view.zero_()
    second.load(content, "last.pt")
    _, rest = fit(second)
    assert numbers(rest) == [each for each in numbers(expected) if each[1] > stop]
    for name, view in whole.net.weights().items():
        assert torch.equal(second.net.weights()[name], view)


def test_streams_without_any_state_are_saved_and_resumed(tmp_path):
    """A network without memory carries an empty state: a checkpoint must hold it."""
    from framework.checkpoint import load

    resets = torch.zeros(6, 2, dtype=torch.bool)
    data = Lists([make_batch(s, resets=resets) for s in range(3)], carry=True)
    graph = {"inputs": {"x": {"size": 3}}, "nodes": {"y": {"size": 4, "is": "full(x)"}}, "outputs": ["y"]}
    trainer = make_trainer(tmp_path / "a", data, graph=graph, epochs=0, max_steps=2)
    fit(trainer)
    content = load(trainer.folder / "last.pt")[0]
    assert content["state"] == {}
    again = make_trainer(tmp_path / "b", data, graph=graph, epochs=0, max_steps=3)
    again.load(content, "last.pt")
    fit(again)
    assert again.at.step == 3

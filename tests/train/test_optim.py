"""What happens to weights: decay, noise, averages, rollback, bfloat16; and a resumed run does the same."""

import dataclasses
import math
import weakref

import pytest
import torch

from framework import Network, checkpoint, load_graph
from framework.bptt import Windows, window_count
from framework.compute import Compute
from framework.errors import ConfigError, TrainingError
from framework.evaluate import evaluate
from framework.optim import Schedule, decay_groups, make_optimizer
from tests.train.test_train_loop import GRAPH, Lists, fit, make_batch, make_trainer, weights

NODES = {
    "l": {"cell": "lstm_peephole", "size": 4, "in": "x", "init": {"c": "learned"}},
    "n": {"size": 4, "is": "norm(full(l)) + block(l, 2)"},
    "y": {"size": 2, "is": "full(n) + bias"},
}

pytestmark = pytest.mark.usefixtures("one_thread")


def stream(updates=8, steps=3, lanes=2):
    """A stream of batches with a reset here and there."""
    batches = []
    for k in range(updates):
        resets = torch.zeros(steps, lanes, dtype=torch.bool)
        resets[k % steps, k % lanes] = k % 3 == 0
        batches.append(make_batch(k, steps, lanes, resets))
    data = Lists(batches, dev=batches[:2], carry=True)
    data.chunk = steps
    return data


def test_only_matrices_decay():
    net = Network({"inputs": {"x": {"size": 3}}, "nodes": NODES, "outputs": ["y"]})
    before = {name: view.clone() for name, view in net.weights().items()}
    with torch.no_grad():
        for view in before.values():
            view.add_(1.0)  # biases begin at 0, which does not decay
    checkpoint.put_weights(net, before, "test")
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer = make_optimizer("sgd", decay_groups(net), lr=0.5, momentum=0.0, weight_decay=0.2)
    optimizer.step()
    kinds = set()
    for name, view in net.weights().items():
        matrix = net.graph.weights[name].kind in ("full", "block")
        kinds.add(net.graph.weights[name].kind)
        torch.testing.assert_close(view, before[name] * (0.9 if matrix else 1.0))
    assert kinds == {"full", "block", "diag", "bias", "gain", "init"}
    make_optimizer("sgd", decay_groups(net, everything=True), lr=0.5, weight_decay=0.2).step()
    torch.testing.assert_close(net.weights()["l/i:bias"], before["l/i:bias"] * 0.9)


def kept_at(trainer, *updates):
    """Leave checkpoints after these updates, as those that a killed run leaves."""
    over = trainer.over

    def save_and_ask():
        if trainer.at.step in updates and not (trainer.folder / f"{trainer.at.step}.pt").exists():
            trainer.save(f"{trainer.at.step}.pt")
        return over()

    trainer.over = save_and_ask


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def resumed(file, dataset, **options):
    """A new trainer that goes on from a checkpoint and runs to its end."""
    trainer = make_trainer(file.with_suffix(""), dataset, **options)
    with torch.no_grad():  # what a fresh one begins with must not matter
        for p in trainer.net.parameters():
            p.fill_(0.3)
    torch.manual_seed(77)
    trainer.load(checkpoint.load(file)[0], "checkpoint")
    fit(trainer)
    return trainer


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adadelta"])
def test_every_optimizer_learns_and_resumes(tmp_path, name):
    data = Lists([make_batch(0), make_batch(1)] * 6)
    options = {"lr": {"adadelta": 1.0, "sgd": 0.3}.get(name, 0.02), "optimizer": name, "epochs": 1}
    whole = make_trainer(tmp_path, data, **options)
    kept_at(whole, 7)
    _, records = fit(whole)
    losses = [r["loss"] for r in records if r["kind"] == "step"]
    assert losses[-1] < losses[1]
    assert same(weights(resumed(tmp_path / "7.pt", data, **options)), weights(whole))


ALL = {
    "windows": {"windows": 3},
    "noise": {"weight_noise": 0.05},
    "ema": {"ema": 0.9},
    "bfloat16": {"dtype": "bfloat16"},
    "all": {"windows": 2, "weight_noise": 0.05, "ema": 0.9, "dtype": "bfloat16", "rollback": True},
}


@pytest.mark.parametrize("case", ALL)
def test_a_resumed_run_is_the_same_run(tmp_path, case):
    options = ALL[case] | {"eval_steps": 3, "optimizer": "adam", "clip": 1.0}
    graph = GRAPH | {"nodes": GRAPH["nodes"] | {"logits": {"size": 4, "is": "full(dropout(l, 0.2)) + bias"}}}

    def schedule():
        return Schedule("plateau", lr=0.05, patience=0, better="higher")

    def run(make, place):
        return make(place, stream(), schedule=schedule(), graph=graph, epochs=2, **options)

    whole = run(make_trainer, tmp_path)
    kept_at(whole, 5, 11)  # inside of the first epoch, and in the second one
    _, records = fit(whole)
    for stop in (5, 11):
        rest = run(resumed, tmp_path / f"{stop}.pt")
        assert same(weights(rest), weights(whole)), stop
        assert rest.at.step == whole.at.step == 16
        if whole.compute.average:
            assert same(rest.compute.averages(), whole.compute.averages())
    if case == "all":
        assert any(r.get("lr_lowered") for r in records if r["kind"] == "eval"), "no rollback was tried"


def test_windows_change_what_is_learned_and_memory_is_let_go(tmp_path):
    one = make_trainer(tmp_path / "a", stream(), epochs=1)
    two = make_trainer(tmp_path / "b", stream(), epochs=1, windows=2)
    for trainer in (one, two):
        fit(trainer)
    assert not same(weights(one), weights(two))
    assert two.windows is not None and not two.windows.last  # streams end with their epoch


def test_rollback_goes_back_to_the_best_weights(tmp_path):
    """Values of the metric as given: best at the second, then worse until the rate falls."""
    values = iter([0.5, 0.6, 0.4, 0.3, 0.7, 0.0])  # the last one is for the run's only step record
    schedule = Schedule("plateau", lr=0.1, patience=1, factor=0.5, better="higher")
    trainer = make_trainer(
        tmp_path, Lists([make_batch(0)]), schedule=schedule, optimizer="adam", epochs=5, rollback=True
    )
    task, metrics = trainer.task, trainer.task.metrics
    task.metrics = lambda sums: metrics(sums) | {task.metric: next(values)}
    seen, moments = [], []
    evaluated = trainer.evaluate

    def evaluate():
        before = weights(trainer)
        evaluated()
        state = checkpoint.optimizer_state(trainer.net, trainer.optimizer)["l/i:bias"]
        seen.append((before, weights(trainer)))
        moments.append(state["exp_avg"].clone())

    trainer.evaluate = evaluate
    trainer.log_steps = 100  # other step records would take values, too
    _, records = fit(trainer)
    best = seen[1][0]
    assert [same(before, after) for before, after in seen] == [True, True, True, False, True]
    assert same(seen[3][1], best) and torch.equal(moments[3], moments[1])
    assert [r.get("lr_lowered", False) for r in records if r["kind"] == "eval"] == [0, 0, 0, 1, 0]
    assert schedule.rate(5) == 0.05


def test_noise_is_in_the_gradient_and_not_in_the_weights():
    torch.manual_seed(0)
    net = Network(
        {"inputs": {"x": {"size": 30}}, "nodes": {"y": {"size": 40, "is": "full(x)"}}, "outputs": ["y"]}
    )
    compute = Compute(net, noise=0.1)
    kept = net.weights()["y:full(x)"].clone()
    compute.prepare()
    first = compute.runs.weights()["y:full(x)"].clone()
    compute.prepare()
    second = compute.runs.weights()["y:full(x)"].clone()
    # 1200 draws: the standard deviation is known to 0.1 / sqrt(2400) = 0.002.
    assert float((first - kept).std()) == pytest.approx(0.1, abs=0.01)
    assert float((first - second).std()) == pytest.approx(0.1 * math.sqrt(2), abs=0.015)
    assert torch.equal(net.weights()["y:full(x)"], kept)
    x = torch.randn(2, 3, 30)
    y, _ = compute.runs(x)
    y.square().sum().backward()
    compute.collect()
    expected = 2 * torch.einsum("tbi,tbj->ij", x @ second.T, x)
    torch.testing.assert_close(net.grads()["y:full(x)"], expected, rtol=1e-4, atol=1e-4)
    with compute.evaluated() as clean:
        assert torch.equal(clean.weights()["y:full(x)"], kept)


def test_averages_are_evaluated_and_kept(tmp_path):
    data = Lists([make_batch(k) for k in range(6)], dev=[make_batch(9)])
    trainer = make_trainer(tmp_path, data, lr=0.3, epochs=1, ema=0.5)
    seen = [weights(trainer)]
    update = trainer.update
    trainer.update = lambda batches: (update(batches), seen.append(weights(trainer)))
    _, records = fit(trainer)
    for name in seen[0]:
        mean = seen[0][name].double()
        for n, now in enumerate(seen[1:], 1):
            decay = min(0.5, (1 + n) / (10 + n))
            mean = decay * mean + (1 - decay) * now[name].double()
        found = trainer.compute.averages()[name]
        torch.testing.assert_close(found.double(), mean, rtol=1e-6, atol=1e-7)
    content = checkpoint.load(tmp_path / "best.pt")[0]
    assert same(checkpoint.evaluated_weights(content), trainer.compute.averages())
    assert same(content["weights"], seen[-1]) and same(weights(trainer), seen[-1])
    checkpoint.put_weights(trainer.net, trainer.compute.averages(), "averages")
    loss = evaluate(trainer.net, data, trainer.task, "dev")["loss"]
    assert loss == pytest.approx(next(r["loss"] for r in records if r["kind"] == "eval"), rel=1e-6)


def test_bfloat16_computes_and_float32_remembers(tmp_path):
    """Updates smaller than what bfloat16 tells apart add up."""
    data = Lists([make_batch(0)], dev=[make_batch(1)])
    half = make_trainer(tmp_path / "a", data, lr=1e-4, max_steps=30, dtype="bfloat16")
    whole = make_trainer(tmp_path / "b", data, lr=1e-4, max_steps=30)
    start = weights(half)
    for trainer in (half, whole):
        fit(trainer)
    assert half.compute.runs.like.dtype == torch.bfloat16
    moved = {name: w - start[name] for name, w in weights(half).items()}
    wanted = {name: w - start[name] for name, w in weights(whole).items()}
    assert {w.dtype for w in weights(half).values()} == {torch.float32}
    apart = sum(float((moved[n] - wanted[n]).square().sum()) for n in moved)
    size = sum(float(x.square().sum()) for x in wanted.values())
    assert apart < 0.01 * size  # gradients by bfloat16 are known to about one part in a hundred
    steps = max(float(x.abs().max()) for x in wanted.values()) / 30
    assert steps < 2.0**-9 * max(float(w.abs().max()) for w in start.values())


def test_a_run_that_meets_nan_keeps_its_windows(tmp_path):
    """What last.pt holds goes on as if the bad batch had been a good one from the start."""
    options = {"epochs": 1, "windows": 2, "weight_noise": 0.05}
    whole = make_trainer(tmp_path / "a", stream(), **options)
    fit(whole)
    bad = stream()
    batch = bad.epochs[0][4]
    bad.epochs[0][4] = dataclasses.replace(batch, x=batch.x * math.nan)
    with pytest.raises(TrainingError, match="update 5"):
        fit(make_trainer(tmp_path / "b", bad, **options))
    assert same(weights(resumed(tmp_path / "b" / "last.pt", stream(), **options)), weights(whole))


def test_what_was_walked_for_the_last_time_is_let_go():
    torch.manual_seed(0)
    net = Network(load_graph(GRAPH))
    windows, state, graphs = Windows(net, 2), None, []
    for k in range(6):
        y, state = windows.forward(make_batch(k), state)
        graphs.append(weakref.ref(windows.last[-1]))
        windows.backward(y.square().mean())
        alive = [w() is not None for w in graphs]
        assert alive == [False] * k + [True]  # one window waits for the next update


class Chunks:
    name, carry, chunk = "text", True, 16


def test_the_depth_of_bptt_is_checked():
    assert [window_count(n, Chunks(), None) for n in (0, 16, 64)] == [1, 1, 4]
    assert window_count(16, Chunks(), 8) == 1
    for steps, chunk, place, text in (
        (24, None, "train.bptt", "24 is no multiple of data.chunk=16"),
        (32, 8, "memory_chunk", "other weights"),
    ):
        with pytest.raises(ConfigError, match=place) as error:
            window_count(steps, Chunks(), chunk)
        assert text in str(error.value)
    with pytest.raises(ConfigError, match="no stream"):
        window_count(16, Lists([make_batch(0)]), None)


def test_mistakes_in_options_are_named(cli):
    for options, expected in {
        ("train.ema=1",): "train.ema: an average of decay 1",
        ("train.weight_noise=-1",): "train.weight_noise: -1",
        ("train.dtype=float16",): "train.dtype: 'float16' is not known",
        (
            "train.rollback=true",
            "train.schedule=cosine",
        ): "train.rollback: train.schedule=cosine never lowers",
        ("data=adding", "train.bptt=100"): "train.bptt: data=adding is no stream",
        ("optimizer=adadelta", "optimizer.alpha=1"): "optimizer.alpha",
        ("optimizer=sgd", "optimizer.nesterov=true", "optimizer.momentum=0"): "sgd refuses its options",
    }.items():
        code, _, err = cli(*options, "logger=none")
        assert code == 2 and expected in err and len(err.splitlines()) == 1, err

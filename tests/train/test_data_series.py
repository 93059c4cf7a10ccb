"""Streams of numbers, the generated bearing, and faults by the error of a forecast."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from framework.anomaly import roc_auc, windows
from framework.data import Batch, Dataset, make_dataset
from framework.data.bearing import CAGE, FAULTS, ORDERS, ring, strikes, vibration
from framework.data.series_streams import Series, Track, forecast
from framework.errors import ConfigError, DataError
from framework.regression import Regression
from framework.task import make_task

ROOT = Path(__file__).resolve().parents[2]


def counting(sizes, batch_size, chunk, **options):
    """Tracks whose values say where they come from: x = (step of the split, track), y = -step."""
    tracks = []
    step = 0
    for number, size in enumerate(sizes):
        steps = np.arange(step, step + size, dtype=np.float32)
        x = np.stack([steps, np.full(size, number, dtype=np.float32)], 1)
        tracks.append(Track(f"t{number}", x, -steps[:, None], steps % 3 == 0))
        step += size
    splits = {"train": tracks, "dev": tracks, "test": tracks}
    data = Series("counting", splits, ("step", "track"), ("minus",), batch_size, chunk, 0, **options)
    data.mean, data.deviation = torch.zeros(2), torch.ones(2)
    data.target_mean, data.target_deviation = torch.zeros(1), torch.ones(1)
    return data


def whole(data, split, epoch):
    parts = list(data.batches(split, epoch))
    assert len(parts) == data.count(split, epoch)
    return tuple(torch.cat([getattr(b, key) for b in parts]) for key in ("x", "y", "resets"))


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_lanes_go_on_across_chunks_and_tracks(chunk):
    data = counting([5, 1, 40, 17], 3, chunk)
    assert isinstance(data, Dataset)
    x, y, resets = whole(data, "dev", 0)
    assert x.shape == (21, 3, 2) and torch.equal(x[..., :1], -y)
    assert torch.equal(x[..., 0].T.flatten(), torch.arange(63.0)), "every step once, in order, lane by lane"
    begins = {0, 5, 6, 46} | {0, 21, 42}  # of tracks, of lanes
    assert set(x[..., 0][resets].int().tolist()) == begins
    truth = data.truth("dev")
    assert truth is not None and torch.equal(truth, x[..., 0] % 3 == 0)


def test_training_begins_late_and_the_rest_of_an_epoch_is_the_same():
    data = counting([200], 2, 16)
    begins = {int(next(data.batches("train", epoch)).x[0, 0, 0]) for epoch in range(8)}
    assert len(begins) > 3 and max(begins) < 16
    every = list(data.batches("train", 3))
    for one, other in zip(every[2:], data.batches("train", 3, start=2), strict=True):
        assert torch.equal(one.x, other.x) and torch.equal(one.resets, other.resets)


def test_ranks_share_the_lanes():
    """Two processes of two lanes see what one of four does."""
    together = whole(counting([90, 50], 4, 16), "train", 5)
    parts = [whole(counting([90, 50], 2, 16, rank=r, world=2), "train", 5) for r in range(2)]
    for one, two in zip(together, zip(*parts, strict=True), strict=True):
        assert torch.equal(one, torch.stack(two, 2).flatten(1, 2)), "lane b is that of process b % 2"


def test_too_few_steps_are_refused():
    with pytest.raises(DataError, match=r"data\.counting: its train part has 30 steps, too few for 4 lanes"):
        counting([30], 4, 32)


def test_inputs_are_normalised_far_from_zero_and_without_nan():
    random = np.random.default_rng(0)
    x = (1e6 + random.normal(0, 0.5, (5000, 1))).astype(np.float32)
    y = random.normal(3, 2, (5000, 1)).astype(np.float32)
    y[::7] = np.nan
    tracks = {split: [Track("t", x, y)] for split in ("train", "dev", "test")}
    data = Series("t", tracks, "x", "y", 2, 50, 0)
    batches = list(data.batches("dev", 0))
    for values in (torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])):
        seen = values[~values.isnan()].double()
        assert abs(float(seen.mean())) < 0.01 and abs(float(seen.std()) - 1) < 0.01
    assert data.truth("dev") is None


def test_a_forecast_is_the_value_so_many_steps_later():
    x, y = forecast(np.arange(20.0).reshape(10, 2), [1], 3)
    assert x.shape == (7, 2) and y.tolist() == [[7 + 2 * t] for t in range(7)]


# ---- the bearing


def test_the_orders_are_those_of_a_6205():
    published = {"outer race": 3.5848, "inner race": 5.4152, "rolling element": 4.7135}
    assert {name: round(order, 3) for name, order in ORDERS.items()} == {
        name: round(order, 3) for name, order in published.items()
    }
    assert ORDERS["outer race"] + ORDERS["inner race"] == pytest.approx(9) and 0.398 < CAGE < 0.399


@pytest.mark.parametrize("condition", FAULTS)
def test_strikes_come_as_often_as_the_geometry_says(condition):
    turns = np.linspace(0, 300, 400_000)
    heights = strikes(condition, turns, np.random.default_rng(0))
    assert np.count_nonzero(heights) / 300 == pytest.approx(ORDERS[condition], rel=0.01)
    if condition != "outer race":  # they come and go: once a turn of the shaft, of the cage
        order = 1.0 if condition == "inner race" else CAGE
        at = turns[heights != 0]
        beat = np.abs(np.mean(heights[heights != 0] * np.exp(-2j * np.pi * order * at)))
        assert beat > 0.15 * heights[heights != 0].mean()


@pytest.mark.parametrize("condition", ["healthy", *FAULTS])
def test_the_envelope_shows_the_fault(condition):
    """Envelope analysis (Randall & Antoni 2011): power near the resonance beats at the order of the fault."""
    rate = 4096
    found = dict.fromkeys(FAULTS, 0.0)
    for seed in range(4):
        wave = vibration(condition, 4 * rate, rate, 1.0, np.random.default_rng(seed))
        spectrum = np.fft.rfft(wave)
        hertz = np.fft.rfftfreq(len(wave), 1 / rate)
        spectrum[(hertz < 900) | (hertz > 1400)] = 0
        envelope = np.abs(np.fft.rfft(np.fft.irfft(spectrum) ** 2))
        for fault, order in ORDERS.items():
            near = np.abs(hertz - 29.95 * order) < 29.95 * order * 0.03
            far = (np.abs(hertz - 29.95 * order) < 29.95 * order * 0.3) & ~near
            found[fault] += envelope[near].max() / np.median(envelope[far]) / 4
    print({fault: round(value, 1) for fault, value in found.items()})
    if condition == "healthy":
        assert max(found.values()) < 8
    else:
        assert found[condition] > 10 and max(found, key=found.__getitem__) == condition


def test_the_ring_decays():
    response = ring(4096)
    assert response[0] == 1 and np.abs(response[-8:]).max() < 0.002


def test_a_forecast_tells_faults_and_power_does_not():
    """24 past values by least squares already find most windows with faults: it can be learned."""
    data = make_dataset("series", train_seconds=8.0, dev_seconds=4.0, test_seconds=12.0)
    taps = 24

    def windows_of(split):
        for track in data.tracks[split]:
            wave = track.x[:, 0].astype(np.float64)
            past = np.lib.stride_tricks.sliding_window_view(wave[:-1], taps)
            yield past, wave[taps:], bool(track.truth[0])

    past, now, _ = (list(part) for part in zip(*windows_of("train"), strict=True))
    weights = np.linalg.lstsq(np.concatenate(past), np.concatenate(now), rcond=None)[0]
    scores, powers, faulty = [], [], []
    for past, now, truth in windows_of("test"):
        error = (past @ weights - now) ** 2
        for begin in range(0, len(now) - 128, 128):
            scores.append(error[begin : begin + 128].mean())
            powers.append((now[begin : begin + 128] ** 2).mean())
            faulty.append(truth)
    by_error, by_power = (roc_auc(torch.tensor(s), torch.tensor(faulty)) for s in (scores, powers))
    print(f"by the error {by_error:.3f}, by the power {by_power:.3f}")
    assert by_error > 0.9 and by_error > by_power + 0.15


# ---- scores


def test_the_area_is_the_share_of_pairs_in_order():
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores = torch.randint(0, 5, (30,), generator=random).double()
        faulty = torch.rand(30, generator=random) < 0.4
        pairs = [
            (a > b) + 0.5 * (a == b)
            for a, b in itertools.product(scores[faulty].tolist(), scores[~faulty].tolist())
        ]
        assert roc_auc(scores, faulty) == pytest.approx(sum(pairs) / len(pairs))
    with pytest.raises(ConfigError, match="all healthy or all faulty"):
        roc_auc(scores, torch.ones(30, dtype=torch.bool))


def test_windows_stay_in_their_track():
    values = torch.arange(20.0).unsqueeze(1).repeat(1, 2)
    values[4, 1] = float("nan")
    starts = torch.zeros(20, 2, dtype=torch.bool)
    starts[0] = True
    starts[9, 1] = True
    means, places = windows(values, starts, 4, skip=1)
    assert places.tolist() == [[1, 0], [5, 0], [9, 0], [13, 0], [1, 1], [5, 1], [10, 1], [14, 1]]
    assert means.tolist() == [2.5, 6.5, 10.5, 14.5, 2.0, 6.5, 11.5, 15.5]


# ---- regression


def batch_of(y):
    return Batch(torch.zeros(*y.shape[:2], 1), y, torch.full(y.shape[1:2], len(y)), None, ("a",) * y.shape[1])


def test_errors_of_several_numbers_by_loss():
    random = torch.Generator().manual_seed(0)
    y, answer = torch.randn(6, 3, 2, generator=random), torch.randn(6, 3, 2, generator=random)
    y[1, 1, 0] = float("nan")
    scored = ~y.isnan()
    error = (answer - y)[scored]
    for loss in ("mse", "mae"):
        task = Regression(2, loss, shows_solved=False)
        sums = {k: float(v) for k, v in task.measure(answer, batch_of(y)).items()}
        assert task.count(batch_of(y)) == sums["frames"] == 35
        found = task.metrics(sums)
        assert found["mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)
        assert found["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-5)
        assert found["loss"] == found[loss] and task.metric == loss and "solved" not in found


def test_the_pinball_loss_is_least_at_the_quantiles():
    random = torch.Generator().manual_seed(1)
    y = torch.randn(4001, 1, 1, generator=random)
    task = Regression(1, "quantile", (0.9, 0.1, 0.5), shows_solved=False)
    assert task.outputs == 3 and task.metric == "pinball" and task.quantiles == (0.1, 0.5, 0.9)
    exact = torch.quantile(y.flatten(), torch.tensor(task.quantiles))

    def loss(answer):
        sums = task.measure(answer.expand(4001, 1, 3), batch_of(y))
        return task.metrics({k: float(v) for k, v in sums.items()})

    best = loss(exact)
    e = y.flatten()[:, None] - exact
    q = torch.tensor(task.quantiles)
    assert best["loss"] == pytest.approx(float(torch.where(e > 0, q * e, (q - 1) * e).mean()), rel=1e-4)
    assert best["covered"] == pytest.approx(0.8, abs=0.01)
    assert best["mae"] == pytest.approx(float((y.flatten() - exact[1]).abs().mean()), rel=1e-4)
    for place, shift in itertools.product(range(3), (-0.2, 0.2)):
        moved = exact.clone()
        moved[place] += shift
        assert loss(moved)["loss"] > best["loss"]
    answer = exact.repeat(4001, 1, 1).requires_grad_()
    task.measure(answer, batch_of(y))["loss"].backward()
    assert float(answer.grad.sum(0).abs().max()) < 2, "the slopes of above and below are in balance"


def test_options_of_regression_are_checked():
    data = make_dataset("series", train_seconds=4.0, dev_seconds=1.0, batch_size=4)
    assert make_task("auto", data).name == "regression" and data.classes == 1
    assert make_task("regression", data, {"loss": "quantile", "quantiles": [0.5]}).outputs == 1
    for options, words in (
        ({"loss": "huber"}, r"task\.loss: 'huber' is not known"),
        ({"loss": "quantile", "quantiles": [0.5, 1.0]}, r"task\.quantiles: \[0\.5, 1\.0\] are no quantiles"),
        ({"loss": "quantile", "quantiles": []}, r"task\.quantiles: \[\] are no"),
        ({"beam": 2}, r"task\.beam: task=regression has no such option"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_task("regression", data, options)


# ---- from the command line


def test_train_and_look_for_faults(cli, tmp_path, capfd):
    small = ["data.train_seconds=4", "data.dev_seconds=1", "data.test_seconds=6", "data.batch_size=4"]
    quantile = ["task.loss=quantile", "model.params.size=8"]
    code, out, err = cli(
        "experiment=bearing", *small, *quantile, "train.epochs=1", "logger=none", "run_dir=run"
    )
    assert code == 0, err
    assert "pinball" in out and "covered" in out
    spec = importlib.util.spec_from_file_location("anomaly_main", ROOT / "scripts" / "anomaly.py")
    anomaly = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anomaly)
    anomaly.main(["checkpoint=run", "window=64"])
    out = capfd.readouterr().out
    assert "ROC-AUC" in out and "by the signal's power" in out and "false alarms" in out
    assert (tmp_path / "run" / "anomaly_test.png").stat().st_size > 20_000
    with pytest.raises(ConfigError, match="its windows are all healthy"):
        anomaly.main(["checkpoint=run", "split=dev"])
    with pytest.raises(ConfigError, match="window: it is too small"):
        anomaly.main(["checkpoint=run", "window=0"])

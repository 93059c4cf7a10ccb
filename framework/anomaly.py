"""Faults in a series by its forecast: a network that learned health errs where there is something else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from framework.data import Split
from framework.data.series_streams import Series
from framework.errors import ConfigError
from framework.evaluate import batch_to, forward
from framework.network import Network
from framework.regression import Regression


@dataclass(frozen=True)
class Forecasts:
    """A split as its lanes: truth and answer [T, B] of the first target, mean squared error [T, B] of all.

    All in deviations of the training part. starts [T, B]: where a track begins. faulty [T, B] or None.
    """

    truth: Tensor
    answer: Tensor
    error: Tensor
    starts: Tensor
    faulty: Tensor | None


def forecasts(
    net: Network, dataset: Series, task: Regression, split: Split, *, device: str = "cpu"
) -> Forecasts:
    """Run over a split with carried state; of quantiles the middle one counts as the answer."""
    parts: list[tuple[Tensor, ...]] = []
    net.eval()
    state = None
    with torch.no_grad():
        for batch in dataset.batches(split, 0):
            y, state = forward(net, batch, state, device)
            here = batch_to(batch, device)
            answer = task.answers(y)[..., task.middle]  # [T, B, numbers]
            error = (answer - here.y).square().nanmean(-1)
            assert here.resets is not None
            parts.append(tuple(t.cpu() for t in (here.y[..., 0], answer[..., 0], error, here.resets)))
    truth, answer, error, starts = (torch.cat(part) for part in zip(*parts, strict=True))
    return Forecasts(truth, answer, error, starts, dataset.truth(split))


def windows(values: Tensor, starts: Tensor, window: int, skip: int = 0) -> tuple[Tensor, Tensor]:
    """Means of values [T, B] over windows of `window` steps that lie in one track, and where they begin.

    `skip`: steps at the beginning of each track that no window touches, while the state is still empty.
    Returns (means [N], places [N, 2] of step and lane). NaN (not scored) is left out of a mean.
    """
    means, places = [], []
    for lane in range(values.shape[1]):
        edges = [*starts[:, lane].nonzero().flatten().tolist(), len(values)]
        if edges[0] != 0:
            edges.insert(0, 0)
        for begin, end in pairwise(edges):
            for step in range(begin + skip, end - window + 1, window):
                mean = values[step : step + window, lane].nanmean()
                if not mean.isnan():
                    means.append(mean)
                    places.append((step, lane))
    return (torch.stack(means) if means else torch.zeros(0)), torch.tensor(places).reshape(-1, 2)


def roc(scores: Tensor, faulty: Tensor) -> tuple[Tensor, Tensor]:
    """The receiver operating characteristic: shares of health and of faults at or above each threshold.

    scores [N], faulty [N] bool. Returns (false alarms, hits), both from 0 to 1; equal scores are one step.
    """
    order = scores.argsort(descending=True, stable=True)
    hits, alarms = faulty[order].double().cumsum(0), (~faulty[order]).double().cumsum(0)
    last = torch.cat([scores[order][1:] != scores[order][:-1], torch.ones(1, dtype=torch.bool)])
    begin = torch.zeros(1, dtype=torch.float64)
    return (
        torch.cat([begin, alarms[last] / alarms[-1].clamp(min=1)]),
        torch.cat([begin, hits[last] / hits[-1].clamp(min=1)]),
    )


def roc_auc(scores: Tensor, faulty: Tensor) -> float:
    """Area under the curve: how often a fault scores above health, ties counted half (Fawcett 2006).

    Raises ConfigError where there is only one of them.
    """
    if bool(faulty.all()) or not bool(faulty.any()):
        raise ConfigError(
            "split", "its windows are all healthy or all faulty", "Choose a split with both: split=test."
        )
    alarms, hits = roc(scores, faulty)
    return float(torch.trapezoid(hits, alarms))


def draw(found: Forecasts, scores: Tensor, places: Tensor, window: int, path: Path, title: str) -> None:
    """Draw health and a fault with their forecasts, the scores of both, and the curve into a PNG."""
    from matplotlib.figure import Figure  # lazily: it takes a second to load

    assert found.faulty is not None
    faulty = found.faulty[places[:, 0], places[:, 1]]
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    for row, (name, which) in enumerate((("healthy", ~faulty), ("faulty", faulty))):
        # The window whose score is the median of its kind: what is usual, not what is best.
        median = scores[which].median()
        step, lane = places[which][(scores[which] - median).abs().argmin()].tolist()
        begin, end = max(0, step - window // 2), min(len(found.truth), step + window + window // 2)
        axes = figure.add_subplot(grid[row, :2])
        axes.plot(range(begin, end), found.truth[begin:end, lane], label="measured", linewidth=1)
        axes.plot(range(begin, end), found.answer[begin:end, lane], label="forecast", linewidth=1)
        axes.plot(
            range(begin, end), found.error[begin:end, lane].sqrt(), label="|error|", linewidth=0.8, alpha=0.7
        )
        axes.set_title(f"{name}, lane {lane}", fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel("target, scaled as in training", fontsize=8)
        axes.legend(fontsize=7, loc="upper right")
        axes.grid(alpha=0.3)
    axes = figure.add_subplot(grid[0, 2])
    low, high = (math.log10(max(float(end), 1e-12)) for end in (scores.min(), scores.max()))
    edges = torch.logspace(low, high, 40).tolist()
    for name, which in (("healthy", ~faulty), ("faulty", faulty)):
        axes.hist(scores[which].tolist(), bins=edges, alpha=0.6, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("score: mean squared error of a window")
    axes.set_ylabel("windows")
    axes.legend(fontsize=7)
    axes = figure.add_subplot(grid[1, 2])
    axes.plot(*roc(scores, faulty))
    axes.plot([0, 1], [0, 1], linewidth=0.6, color="gray")
    axes.set_xlabel("false alarms")
    axes.set_ylabel("faults found")
    axes.set_title(f"area {roc_auc(scores, faulty):.3f}", fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)

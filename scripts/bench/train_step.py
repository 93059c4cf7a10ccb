"""A whole update of training on data of TIMIT's shape, loading included, and how much of it is the network's.

Utterances have the number of features, classes and about the lengths of TIMIT with 123 features (Graves,
Mohamed & Hinton 2013: 40 mel filters and the energy with two differences, 61 phones; 3 s on average), of
random numbers: how long an update takes does not depend on what is said.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
import torch
from torch import nn

from framework.data.batch import UNSCORED, Batch
from framework.data.utterances import Part, Utterances
from scripts.bench import cases
from scripts.bench.bench import SEED, Bench
from scripts.bench.cases import BOTH, Case
from scripts.bench.contest import contest
from scripts.bench.rows import Row
from scripts.bench.system import System

CLASSES = 61
FRAMES = (100, 600)  # 1 to 6 s


def utterances(features: int, lanes: int, count: int, frames: tuple[int, int] = FRAMES) -> Utterances:
    """A dataset of random utterances that lie in memory, as a cached corpus does, in float32."""
    random = np.random.default_rng(SEED)
    lengths = [int(n) for n in random.integers(*frames, count)]
    x = [torch.from_numpy(random.standard_normal((n, features), dtype=np.float32)) for n in lengths]
    y = [torch.from_numpy(random.integers(0, CLASSES, n)) for n in lengths]
    names = tuple(f"u{k}" for k in range(count))
    part = Part(names, names, tuple(lengths), lambda i: (x[i], y[i]))
    labels = tuple(f"p{k}" for k in range(CLASSES))
    return Utterances(
        "random", {"train": part}, labels, torch.zeros(features), torch.ones(features), lanes, SEED
    )


class Clock:
    """Seconds of the parts of an update; `wait` for the device before each look, where parts are wanted."""

    def __init__(self, wait: Callable[[], None]):
        self.wait, self.parts = wait, dict[str, float]()
        self.last = time.perf_counter()

    def mark(self, part: str) -> None:
        """What was done since the last mark."""
        self.wait()
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0.0) + now - self.last
        self.last = now


class Learner:
    """A system with a classifier on top, its optimizer and its way through the data."""

    def __init__(self, system: System, width: int, data: Utterances, device: str, kind: torch.dtype):
        torch.manual_seed(SEED)
        self.system, self.device, self.kind = system, device, kind
        self.head = nn.Linear(width, CLASSES).to(device)
        self.weights = [*system.module.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(self.weights)
        self.batches: Iterator[Batch] = (b for e in itertools.count() for b in data.batches("train", e))
        self.frames = 0

    def update(self, clock: Clock) -> None:
        """Load a batch, run, score the frames, go back, clip, change the weights."""
        batch = next(self.batches)
        x = batch.x.to(self.device, self.kind)
        target = batch.y.to(self.device)
        self.frames = int(batch.lengths.sum())
        clock.mark("data")
        self.optimizer.zero_grad(set_to_none=True)
        y = self.system.run(x)
        clock.mark("network")
        inner = y.detach().float().requires_grad_()  # cuts the way back in two, so that parts can be told
        scores = self.head(inner).flatten(0, 1)
        loss = nn.functional.cross_entropy(scores, target.flatten(), ignore_index=UNSCORED)
        loss.backward()
        assert inner.grad is not None
        clock.mark("classifier and loss")
        y.backward(inner.grad.to(y.dtype))
        clock.mark("network")
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        clock.mark("clipping and Adam")


def once(learner: Learner, clock: Clock, wait: Callable[[], None]) -> float:
    """Seconds of one update."""
    wait()
    begun = clock.last = time.perf_counter()
    learner.update(clock)
    wait()
    return time.perf_counter() - begun


def train_step(case: Case, bench: Bench) -> list[Row]:
    """Rows of updates; figures: share of the time outside the network, of each part, frames a second.

    All systems see the same batches in the same order. Padding is computed, by all of them.
    """
    device = bench.device.kind
    made = contest(case, device, bench.version)
    width = sum(made.graph.nodes[n].size for n in made.graph.outputs.values())
    frames = (2, case.T + 1) if bench.tiny else FRAMES
    data = utterances(case.F, case.B, 3 * case.B if bench.tiny else 24 * case.B, frames)
    learners = {s.name: Learner(s, width, data, device, case.kind) for s in made.systems}
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    times: dict[str, list[float]] = {name: [] for name in learners}
    speeds: dict[str, list[float]] = {name: [] for name in learners}
    parts: dict[str, dict[str, float]] = {name: {} for name in learners}
    end = time.perf_counter() + 4 * bench.seconds
    turn = -1  # the first one warms up
    while turn < 5 or time.perf_counter() < end:
        for name, learner in learners.items():
            took = once(learner, Clock(lambda: None), wait)
            clock = Clock(wait)  # a second update, in which everything waits for the device, tells the parts
            once(learner, clock, wait)
            if turn >= 0:
                times[name].append(1e3 * took)
                speeds[name].append(learner.frames / took)
                parts[name] = {k: parts[name].get(k, 0.0) + v for k, v in clock.parts.items()}
        turn += 1
    rows = []
    for s in made.systems:
        whole = sum(parts[s.name].values())
        shares = {f"share {part}": round(x / whole, 4) for part, x in parts[s.name].items()}
        outside = round(1 - shares["share network"], 4)
        speed = round(median(speeds[s.name]))
        figures = {"share outside": outside, **shares, "frames_per_s": speed, **s.figures}
        work = cases.work(case, made.graph, BOTH)
        rows.append(bench.row(case, s, "train step", times, work, figures=figures, declined=made.declined))
    return rows

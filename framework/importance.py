"""How much each option of a sweep mattered: the part of the spread of results that it explains.

A forest of random regression trees (Breiman 2001) is fitted to option values -> metric. An option's
importance is how much worse the forest predicts the jobs that a tree was not grown on when the values of
that option are shuffled among them, over the variance of the metric. 0: it did not matter, or too few jobs
can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
TREES, LEAF, SHUFFLES = 200, 2, 4
FEWEST = 6  # jobs; below, nothing is said


@dataclass
class Node:
    """Splits at `column` <= `at`, or is a leaf with the mean `value`."""

    value: float
    column: int = -1
    at: float = 0.0
    low: Node | None = None
    high: Node | None = None


def encode(values: Sequence[Mapping[str, str]], keys: Sequence[str]) -> Array:
    """Values as numbers, [jobs, options]: numbers as they are, on a log scale where they span a factor of 10.

    Words become their places in the order of their names, which trees split like any number.
    """
    columns = []
    for key in keys:
        texts = [each[key] for each in values]
        try:
            column = np.array([float(text) for text in texts])
        except ValueError:
            names = sorted(set(texts))
            column = np.array([float(names.index(text)) for text in texts])
        else:
            if column.min() > 0 and column.max() >= 10 * column.min():
                column = np.log10(column)
        columns.append(column)
    return np.stack(columns, axis=1) if columns else np.zeros((len(values), 0))


def importance(
    values: Sequence[Mapping[str, str]], metrics: Sequence[float], keys: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """Option -> its part, 0 to about 1, the largest first; empty for fewer than `FEWEST` jobs."""
    y = np.asarray(metrics, dtype=float)
    if len(y) < FEWEST or not keys or float(y.std()) == 0:
        return {}
    x = encode(values, keys)
    random = np.random.default_rng(seed)
    worse = np.zeros(len(keys))
    seen = 0
    for _ in range(TREES):
        drawn = random.integers(0, len(y), len(y))
        left = np.setdiff1d(np.arange(len(y)), drawn)
        if len(left) < 2:
            continue
        tree = grow(x[drawn], y[drawn], random)
        error = np.square(predict(tree, x[left]) - y[left]).sum()
        for column in range(len(keys)):
            shuffled = x[left].copy()
            for _ in range(SHUFFLES):
                shuffled[:, column] = random.permutation(shuffled[:, column])
                again = np.square(predict(tree, shuffled) - y[left]).sum()
                worse[column] += (again - error) / SHUFFLES
        seen += len(left)
    # Shuffling one option moves a job by twice the variance that the option explains.
    parts = np.clip(worse / max(seen, 1) / (2 * y.var()), 0, None)
    order = np.argsort(-parts, kind="stable")
    return {keys[int(i)]: float(parts[i]) for i in order}


def grow(x: Array, y: Array, random: np.random.Generator) -> Node:
    """A tree whose leaves hold `LEAF` jobs or more; each split looks at a random half of the options."""
    node = Node(float(y.mean()))
    if len(y) < 2 * LEAF or float(y.std()) == 0:
        return node
    columns = random.permutation(x.shape[1])[: (x.shape[1] + 1) // 2]
    best = float(np.square(y - y.mean()).sum()) * (1 - 1e-9)
    for column in columns:
        order = np.argsort(x[:, column], kind="stable")
        xs, ys = x[order, column], y[order]
        sums, squares = np.cumsum(ys), np.cumsum(ys**2)
        for n in range(LEAF, len(ys) - LEAF + 1):
            if xs[n - 1] == xs[n]:
                continue
            low = squares[n - 1] - sums[n - 1] ** 2 / n
            high = squares[-1] - squares[n - 1] - (sums[-1] - sums[n - 1]) ** 2 / (len(ys) - n)
            if low + high < best:
                best, node.column, node.at = low + high, int(column), float((xs[n - 1] + xs[n]) / 2)
    if node.column >= 0:
        below = x[:, node.column] <= node.at
        node.low, node.high = grow(x[below], y[below], random), grow(x[~below], y[~below], random)
    return node


def predict(tree: Node, x: Array) -> Array:
    """What a tree says of each row."""
    found = np.empty(len(x))
    for i, row in enumerate(x):
        node = tree
        while node.low is not None and node.high is not None:
            node = node.low if row[node.column] <= node.at else node.high
        found[i] = node.value
    return found

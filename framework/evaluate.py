"""One batch through a network, and the metrics of a whole split."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Tensor

from framework.data import Batch, Dataset, Split, carries
from framework.errors import ConfigError
from framework.network import Network
from framework.parallel import ALONE, Group
from framework.state import State
from framework.task import Task


def forward(net: Network, batch: Batch, state: State | None, device: str) -> tuple[Tensor, State]:
    """The network's output for a batch, [T, B, classes], and its last state.

    Of several outputs the one called `logits` is taken.
    """
    # Where no lane is padded the network need not mask. Asked here, since on the device it would wait.
    full = int(batch.lengths.min()) == len(batch.x)
    batch = batch_to(batch, device)
    y, last = net(batch.x, state=state, lengths=None if full else batch.lengths, resets=batch.resets)
    return (y["logits"] if isinstance(y, dict) else y), last


def evaluate(
    net: Network,
    dataset: Dataset,
    task: Task,
    split: Split,
    *,
    device: str = "cpu",
    limit: int = 0,
    group: Group = ALONE,
) -> dict[str, float]:
    """The task's metrics over a split (its first `limit` batches, 0: all); streams carry their state.

    group: processes that evaluate it together, each its lanes; the metrics are those of the whole.
    """
    training = net.training
    net.eval()
    net.profile = False
    sums: dict[str, Tensor] = {}
    state = None
    with torch.no_grad():
        for batch in itertools.islice(dataset.batches(split, 0), limit or None):
            if not len(batch.lengths):
                continue  # the lanes of a small batch are all with other processes
            y, last = forward(net, batch, state, device)
            state = last if carries(dataset, split) else None
            add(sums, task.measure(y, batch_to(batch, device)))
    net.train(training)
    total = group.add_up({key: float(value) for key, value in sums.items()})
    if not total:
        raise ConfigError(f"data.{dataset.name}", f"its {split} split is empty", "Give it more data.")
    return task.metrics(total)


def add(sums: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    """Add sums of one batch, in double precision."""
    for key, value in more.items():
        value = value.detach().double()
        sums[key] = sums[key] + value if key in sums else value


def batch_to(batch: Batch, device: str) -> Batch:
    """The batch with its tensors on a device."""
    if device == "cpu":
        return batch
    moved = {
        name: value.to(device, non_blocking=True)
        for name, value in vars(batch).items()
        if isinstance(value, Tensor)
    }
    return dataclasses.replace(batch, **moved)

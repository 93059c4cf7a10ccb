"""One batch through a network, and the metrics of a whole split."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import torch
from framework.state import State
from torch import Tensor, nn

from framework.data import Batch, Dataset
from framework.errors import ConfigError
from framework.task import Task


def forward(
    net: nn.Module, batch: Batch, state: State | None, device: str, autocast: str = "none"
) -> tuple[Tensor, State]:
    """The network's output for a batch, [T, B, classes], and its last state.

    Of several outputs the one called `logits` is taken.
    """
    # Where no lane is padded the network need not mask. Asked here, since on the device it would wait.
    full = int(batch.lengths.min()) == len(batch.x)
    batch = batch_to(batch, device)
    with cast(device, autocast):
        y, state = net(batch.x, state=state, lengths=None if full else batch.lengths, resets=batch.resets)
    return (y["logits"] if isinstance(y, dict) else y), state


def evaluate(
    net: nn.Module,
    dataset: Dataset,
    task: Task,
    split: str,
    *,
    device: str = "cpu",
    autocast: str = "none",
    limit: int = 0,
) -> dict[str, float]:
    """The task's metrics over a split (its first `limit` batches, 0: all); streams carry their state."""
    training = net.training
    net.eval()
    net.profile = False
    sums: dict[str, Tensor] = {}
    state = None
    with torch.no_grad():
        for batch in itertools.islice(dataset.batches(split, 0), limit or None):
            y, last = forward(net, batch, state, device, autocast)
            state = last if dataset.carry else None
            add(sums, task.measure(y, batch_to(batch, device)))
    net.train(training)
    if not sums:
        raise ConfigError(f"data.{dataset.name}", f"its {split} split is empty", "Give it more data.")
    return task.metrics({key: float(value) for key, value in sums.items()})


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


def cast(device: str, autocast: str) -> contextlib.AbstractContextManager:
    """The autocast context for "none" or "bf16" (fp16 would need its loss scaled)."""
    if autocast == "none":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)

"""A dataset shared out among processes: of every batch each takes its lanes, so that none has a batch more.

Lane b belongs to process b % world. All see the same number of batches in an epoch, whatever the lengths: no
process waits at the end for one that has gone on. A batch with fewer lanes than processes leaves some without
(B = 0); they add nothing to sums and gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from framework.data import Batch, Dataset, Split, carries
from framework.data.make import DATASETS
from framework.data.streams import Streams
from framework.data.utterances import Utterances
from framework.errors import ConfigError
from framework.parallel import Group


class Sharded:
    """The `Dataset` of the lanes that process `rank` of `world` has. Raises ConfigError for too few lanes."""

    def __init__(self, whole: Dataset, rank: int, world: int):
        self.whole, self.rank, self.world = whole, rank, world
        self.name: str = whole.name
        self.kind: Literal["classes", "regression"] = whole.kind
        self.tasks, self.input, self.classes = whole.tasks, whole.input, whole.classes
        self.labels, self.fold, self.fold_labels = whole.labels, whole.fold, whole.fold_labels
        self.carry, self.eval_carry = whole.carry, carries(whole, "dev")
        first = next(whole.batches("train", 0), None)
        if first is not None and len(first.lengths) < world:
            option = "data.streams" if whole.carry else "data.batch_size"
            cause = f"{len(first.lengths)} lane(s) for {world} workers"
            raise ConfigError(option, cause, f"Give {world} or more, or fewer workers.")

    def batches(self, split: Split, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process's lanes of each batch; without a state to carry, cut to the longest of them."""
        if isinstance(self.whole, Utterances | Streams):  # whose features it costs time to load
            yield from self.whole.batches(split, epoch, start, slice(self.rank, None, self.world))
            return
        for batch in self.whole.batches(split, epoch, start):
            yield lanes_of(batch, self.rank, self.world, trim=not carries(self.whole, split))

    def count(self, split: Split, epoch: int) -> int:
        """Return the number of batches of an epoch: the same for all processes."""
        return self.whole.count(split, epoch)

    def describe(self) -> str:
        """One paragraph, that of the whole."""
        return self.whole.describe()


def lanes_of(batch: Batch, rank: int, world: int, trim: bool) -> Batch:
    """Lanes rank, rank + world, ... of a batch."""
    mine = slice(rank, None, world)
    lengths = batch.lengths[mine].contiguous()
    steps = int(lengths.max()) if trim and len(lengths) else len(batch.x)
    return Batch(
        batch.x[:steps, mine].contiguous(),
        batch.y[:steps, mine].contiguous(),
        lengths,
        None if batch.resets is None else batch.resets[:steps, mine].contiguous(),
        batch.ids[mine],
        None if batch.targets is None else batch.targets[mine].contiguous(),
    )


def shares_itself(name: str) -> bool:
    """Whether the dataset takes `rank` and `world`: what is larger than the memory is not read by all."""
    return name in DATASETS and {"rank", "world"} <= set(inspect.signature(DATASETS[name]).parameters)


def own_options(data: Mapping[str, Any], group: Group) -> dict[str, Any]:
    """Options of a dataset that shares itself out, for this process: its part of lanes and documents.

    Raises ConfigError when the lanes cannot be shared out evenly.
    """
    data = dict(data)
    if group.world == 1 or not shares_itself(data["name"]):
        return data
    lanes = data.get("batch_size", inspect.signature(DATASETS[data["name"]]).parameters["batch_size"].default)
    if lanes % group.world:
        cause = f"{lanes} lanes cannot be shared out evenly among {group.world} workers"
        raise ConfigError("data.batch_size", cause, f"Give {group.world * -(-lanes // group.world)}, say.")
    return data | {"rank": group.rank, "world": group.world, "batch_size": lanes // group.world}


def own_lanes(dataset: Dataset, group: Group) -> Dataset:
    """The lanes of this process; a dataset that shares itself out has done so already."""
    if group.world == 1 or shares_itself(dataset.name):
        return dataset
    return Sharded(dataset, group.rank, group.world)

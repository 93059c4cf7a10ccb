"""Several processes that train one network: each has a part of every batch's lanes, gradients are added up.

`Group` is one process alone, and what a group of them can do, so that the trainer has no second path: sums
of one are what they are. `Workers` is the group over torch.distributed: NCCL carries gradients between GPUs,
gloo everything between CPUs and all small numbers, so that no exchange of those waits for a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Its functions keep the group that is there when it is imported, as a default of arguments. torch imports it
# itself, late: the group would never go, and its threads have aborted the interpreter on its way down.
import torch.distributed.nn
from torch import Tensor

from framework.errors import ConfigError, UserError
from framework.parallel_place import Ended, Place

T = TypeVar("T")


class Group:
    """A process alone. rank: its number of `world`; `leads`: it writes the folder and talks to the user."""

    rank = 0
    world = 1
    restarted = False  # whoever started it says that it died before, and is to go on where it was

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and lines."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process, where the user said `name`."""
        return name

    def sum(self, *numbers: float) -> list[float]:
        """Each number added up over the group, in double precision; the same in all its processes."""
        return list(numbers)

    def add_up(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The same for named numbers; a process need not have all of them."""
        return dict(sums)

    def start_sum(self, values: Tensor) -> Callable[[], None]:
        """Begin to add up a tensor in place; the answer waits for the end."""
        return lambda: None

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, in the one that leads; elsewhere an empty list."""
        return [value]

    def from_leader(self, value: T) -> T:
        """The value that the leading process gave."""
        return value

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Inside, a mistake of the user found by any process ends all of them, and is told once."""
        yield

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """`together`, one process of each machine before the others: what it caches they find."""
        yield

    def close(self) -> None:
        """Leave the group."""


ALONE = Group()


class Workers(Group):
    """One of several processes. `place` says which, and where the others are; `device` what it computes on.

    Blocks until all are there. Raises ConfigError when this machine has fewer GPUs than processes. Every
    method but `device` is to be called by all of them, in the same order; `Ended` when one of them is gone.
    """

    def __init__(self, place: Place, device: str):
        self.rank, self.world, self.restarted = place.rank, place.world, place.restarted
        self.local_rank = place.local_rank
        self.gpu = own_gpu(place, torch.cuda.device_count()) if torch.device(device).type == "cuda" else None
        if self.gpu is not None:
            torch.cuda.set_device(self.gpu)
        with _lost("a worker did not come"):
            dist.init_process_group(
                "gloo" if self.gpu is None else "cpu:gloo,cuda:nccl",
                init_method=place.meeting,
                rank=place.rank,
                world_size=place.world,
            )

    def device(self, name: str) -> str:
        """A GPU of its own for each process of a machine."""
        return name if self.gpu is None else f"cuda:{self.gpu}"

    def sum(self, *numbers: float) -> list[float]:
        """See Group."""
        values = torch.tensor(numbers, dtype=torch.float64)
        with _lost():
            dist.all_reduce(values)
        return values.tolist()

    def add_up(self, sums: Mapping[str, float]) -> dict[str, float]:
        """See Group. Added in the order of the ranks."""
        parts: list[Any] = [None] * self.world
        with _lost():
            dist.all_gather_object(parts, dict(sums))
        total: dict[str, float] = {}
        for part in parts:
            for key, value in part.items():
                total[key] = total.get(key, 0.0) + value
        return total

    def start_sum(self, values: Tensor) -> Callable[[], None]:
        """See Group. On a GPU the end is awaited by its current stream, not by the processor."""
        with _lost():
            work = dist.all_reduce(values, async_op=True)
        assert work is not None

        def wait() -> None:
            with _lost():
                work.wait()

        return wait

    def gather(self, value: T) -> list[T]:
        """See Group."""
        found: list[Any] | None = [None] * self.world if self.leads else None
        with _lost():
            dist.gather_object(value, found)
        return found or []

    def from_leader(self, value: T) -> T:
        """See Group."""
        box = [value if self.leads else None]
        with _lost():
            dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]  # what the leader put in

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """See Group."""
        try:
            yield
        except UserError as error:
            self._agree(error)
            raise AssertionError("an error was not agreed on") from error
        self._agree(None)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """See Group."""
        if self.local_rank:
            self._agree(None)
        with self.together():
            yield
        if not self.local_rank:
            self._agree(None)

    def close(self) -> None:
        """See Group."""
        dist.destroy_process_group()

    def _agree(self, mine: UserError | None) -> None:
        """Raise the first error that any process has: as it is where it leads, as `Ended` elsewhere."""
        errors: list[Any] = [None] * self.world
        with _lost():
            dist.all_gather_object(errors, mine and (type(mine), mine.place, mine.cause, mine.fix))
        for rank, found in enumerate(errors):
            if found is not None:
                kind, *parts = found
                if self.leads:
                    raise kind(*parts)
                raise Ended(f"worker {rank} found a mistake")


def own_gpu(place: Place, there: int) -> int:
    """The number of a process's GPU among the `there` that it sees: its own, or the only one it was given.

    Raises ConfigError when there are fewer than processes.
    """
    if there >= place.local_world:
        return place.local_rank
    if there == 1 and place.bound:
        return 0
    cause = f"{place.local_world} workers on this machine, and torch sees {there} GPU(s)"
    raise ConfigError("train.gpus", cause, f"Give {there} or fewer.")


@contextlib.contextmanager
def _lost(what: str = "the connection to another worker is lost") -> Iterator[None]:
    """torch.distributed says by a RuntimeError that a process is gone; ours are raised elsewhere."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip().splitlines()
        raise Ended(f"{what} ({text[0] if text else type(error).__name__})") from error

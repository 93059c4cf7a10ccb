"""cuda_streams beside the current one: work that is forked from it and joined to it again.

A stream waits at its start for all that the current one has been given, and the current one waits at the end
for it, both by events: nothing looks at the device, and a CUDA graph that is captured takes all of them in
(CUDA C++ Programming Guide, "Cross-stream Dependencies and Events" of stream capture). The backward of what
ran on a stream runs there as well, autograd orders it with the rest (PyTorch, CUDA semantics, "Stream
semantics of backward passes").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def side_stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """A cuda_stream of a device, the same for a number every time."""
    return torch.cuda.Stream(device)


class Fork:
    """Work on cuda_streams of one device, by number; 0: the current one. `cuda`: torch.cuda, and `stream_of`
    its streams, for tests.

    At the end of `with Fork(...)` all is joined, also when something raised: work that has begun still reads
    its tensors, which others may overwrite once the current stream goes on, and a captured graph must not be
    left with a stream that nobody waits for.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda, stream_of: Any = side_stream):
        self.device, self.cuda, self.stream_of = device, cuda, stream_of
        self.used: list[tuple[Any, list[Tensor]]] = []

    def __enter__(self) -> Fork:
        return self

    def __exit__(self, *error: object) -> None:
        self.join()

    @contextmanager
    def on(self, number: int, taken: Iterable[Tensor], given: list[Tensor]) -> Iterator[None]:
        """The work inside, which reads `taken` and adds what it makes to `given`.

        Memory goes back to the stream it was taken from: the allocator must know who else uses it, until the
        backward is done.
        """
        if not number:
            yield
            return
        side = self.stream_of(self.device, number)
        side.wait_stream(self.cuda.current_stream(self.device))
        self.used.append((side, given))
        for x in taken:
            x.record_stream(side)
        with self.cuda.stream(side):
            yield

    def join(self) -> None:
        """What comes next on the current stream waits for all."""
        used, self.used = self.used, []
        for side, given in used:
            current = self.cuda.current_stream(self.device)
            current.wait_stream(side)
            for x in given:
                x.record_stream(current)

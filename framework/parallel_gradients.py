"""Gradients of a group of processes, added up in buckets that travel while the backward still runs.

As torch's DistributedDataParallel does it (Li et al., PyTorch Distributed, VLDB 2020, section 3.2), which
does not fit here: it wants one backward through one forward of its own per update, where BPTT(h; h') walks
back through several windows, gradients of a bfloat16 copy go to float32 weights, and a process may be without
a lane in a small batch. Its buckets change after the first update: a resumed run would round otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from framework.compute import Compute
from framework.parallel import Group

BUCKET_BYTES = 4 << 20  # a guess between latency and overlap that no GPU has measured; torch's is 25 MiB


@dataclass
class Bucket:
    """Parameters whose gradients travel together: `flat` holds them, then for each whether it has one.

    slots: number of a pair -> its place in `flat`.
    """

    pairs: list[int]
    flat: Tensor
    slots: dict[int, Tensor]
    has: dict[int, Tensor]
    waiting: set[int] = field(default_factory=set)
    events: list[torch.cuda.Event] = field(default_factory=list)
    wait: Callable[[], None] | None = None


class Gradients:
    """Makes the gradients of `compute.net` those of the whole group; of a process alone they stay.

    `overlap()` before the last backward of an update lets buckets leave as soon as they are full; only for a
    backward that reaches each parameter once. `finish()` after it. All processes fill buckets in the same
    order, that of the parameters from last to first.
    """

    def __init__(self, compute: Compute, group: Group, bucket_bytes: int = BUCKET_BYTES):
        self.compute, self.group = compute, group
        self.armed = False
        self.next = 0  # the first bucket that has not left
        self.pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.buckets: list[Bucket] = []
        if group.world == 1:
            return
        pairs = zip(compute.net.parameters(), compute.runs.parameters(), strict=True)
        self.pairs = [(p, q) for p, q in pairs if p.requires_grad][::-1]
        part: list[int] = []
        for i, (p, q) in enumerate(self.pairs):
            if part and (_bytes(self.pairs, part) + p.nbytes > bucket_bytes or p.dtype != self._dtype(part)):
                self.buckets.append(self._bucket(part))
                part = []
            part.append(i)
            q.register_post_accumulate_grad_hook(lambda _, i=i: self._ready(i))
        if part:
            self.buckets.append(self._bucket(part))
        self.of = {i: bucket for bucket in self.buckets for i in bucket.pairs}
        self._empty()

    def overlap(self) -> None:
        """The next backward is the last one of this update."""
        self.armed = bool(self.buckets)

    def finish(self) -> None:
        """Send what has not left, wait for all, and put the sums where the gradients were.

        A parameter that no process has a gradient for keeps None: the optimizer leaves it alone.
        """
        self.armed = False
        for bucket in self.buckets[self.next :]:
            for i in sorted(bucket.waiting):
                self._take(bucket, i)
        self._send()
        for bucket in self.buckets:
            assert bucket.wait is not None
            bucket.wait()
            for i in bucket.pairs:
                p, total = self.pairs[i][0], bucket.slots[i]
                if p.grad is not None:
                    p.grad.copy_(total)
                elif bucket.has[i].item() > 0:  # some other process has one
                    p.grad = total.clone()
        self._empty()

    def _ready(self, i: int) -> None:
        """The gradient of pair `i` is there, as far as this backward goes."""
        if not self.armed:
            return
        bucket = self.of[i]
        assert i in bucket.waiting, "a backward reached a parameter twice: its gradient has left already"
        self.compute.collect_one(*self.pairs[i])
        self._take(bucket, i)
        self._send()

    def _take(self, bucket: Bucket, i: int) -> None:
        grad = self.pairs[i][0].grad
        if grad is None:
            bucket.slots[i].zero_()
        else:
            bucket.slots[i].copy_(grad)
        bucket.has[i].fill_(grad is not None)
        bucket.waiting.remove(i)
        if bucket.flat.is_cuda:  # the backward of loops that run together has several cuda_streams
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(bucket.flat.device))
            bucket.events.append(event)

    def _send(self) -> None:
        """Let full buckets go, in order: collectives must be begun alike in all processes."""
        while self.next < len(self.buckets) and not (bucket := self.buckets[self.next]).waiting:
            for event in bucket.events:
                torch.cuda.current_stream(bucket.flat.device).wait_event(event)
            bucket.wait = self.group.start_sum(bucket.flat)
            self.next += 1

    def _empty(self) -> None:
        self.next = 0
        for bucket in self.buckets:
            bucket.waiting, bucket.events, bucket.wait = set(bucket.pairs), [], None

    def _dtype(self, part: list[int]) -> torch.dtype:
        return self.pairs[part[0]][0].dtype

    def _bucket(self, part: list[int]) -> Bucket:
        first = self.pairs[part[0]][0]
        sizes = [self.pairs[i][0].numel() for i in part]
        flat = torch.zeros(sum(sizes) + len(part), dtype=first.dtype, device=first.device)
        *parts, has = flat.split([*sizes, len(part)])
        slots = {i: x.view(self.pairs[i][0].shape) for i, x in zip(part, parts, strict=True)}
        return Bucket(list(part), flat, slots, dict(zip(part, has.unbind(), strict=True)))


def _bytes(pairs: list[tuple[nn.Parameter, nn.Parameter]], part: list[int]) -> int:
    return sum(pairs[i][0].nbytes for i in part)

"""BPTT(h; h'): an update runs h' new steps and sends their error back through the last h.

Williams & Peng, An efficient gradient-based algorithm for on-line training of recurrent network trajectories,
1990; streams are trained so in Hwang & Sung, Single stream parallelization of generalized LSTM-like RNNs on a
GPU, 2015. The steps before the new ones keep the values that they were computed with, by the weights of
then; derivatives are those of the weights of now. With h = h' nothing older is walked: plain truncated BPTT.

A window is what one update has run. Between windows there is no link that autograd knows: the state that
enters one is a leaf, and the gradient it collects is handed to the state that left the window before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.data import Batch, Dataset
from framework.errors import ConfigError
from framework.evaluate import forward
from framework.network import Network
from framework.state import State


def window_count(steps: int, dataset: Dataset, memory_chunk: int | None) -> int:
    """h / h' of BPTT(h; h') for h = `steps` (0: h = h'); h' is the length of the dataset's chunks.

    Raises ConfigError when h is no multiple of h', there are no streams, or what older steps were computed
    with would be lost.
    """
    if not steps:
        return 1
    chunk = getattr(dataset, "chunk", 0)
    if not dataset.carry or not chunk:
        cause = f"data={dataset.name} is no stream: there are no older steps to walk back through"
        raise ConfigError("train.bptt", cause, "Set data.streams where the data has it, or train.bptt=0.")
    if steps % chunk:
        cause = f"{steps} is no multiple of data.chunk={chunk}, the new steps of an update"
        raise ConfigError("train.bptt", cause, f"Take {chunk * -(-steps // chunk)}, say.")
    if memory_chunk is not None and steps > chunk:
        cause = "older steps would be computed again, with other weights than they had"
        raise ConfigError("memory_chunk", cause, "Leave it out: data.chunk bounds what an update runs.")
    return steps // chunk


@dataclass(frozen=True)
class Window:
    """h' steps that have run.

    entry: leaves (None: a sequence began here); exit: with the graph of gradients; weights: copies in the
    order of the network's parameters, and random: torch's generator, both as they were before the forward.
    """

    batch: Batch
    entry: State | None
    exit: State
    weights: tuple[Tensor, ...]
    random: Tensor


class Windows:
    """The last windows of a network, `depth` = h / h' of them.

    `forward` runs the next one, `backward` walks back from its loss through all of them. Memory: what `depth`
    chunks keep for their backward, and as many copies of the weights.
    """

    def __init__(self, net: Network, depth: int, device: str = "cpu"):
        self.net, self.depth, self.device = net, depth, device
        self.last: deque[Window] = deque(maxlen=depth)

    def clear(self) -> None:
        """Forget the past: the next window is the first one."""
        self.last.clear()

    def forward(self, batch: Batch, state: State | None) -> tuple[Tensor, State]:
        """The network's output for a batch, [T, B, classes], and the state after it, without a gradient."""
        random = torch.get_rng_state()
        entry = None if state is None else State({n: _leaf(h) for n, h in state.history.items()}, {})
        weights = tuple(p.detach().clone() for p in self.net.parameters())
        parameters = list(self.net.parameters())
        self.net.copies = {p.data_ptr(): w for p, w in zip(parameters, weights, strict=True)}
        owned = {p.untyped_storage().data_ptr() for p in parameters}
        try:
            with torch.autograd.graph.saved_tensors_hooks(lambda x: _hold(x, owned), _given_back):
                y, last = forward(self.net, batch, entry, self.device)
        finally:
            self.net.copies = None
        self.last.append(Window(batch, entry, last, weights, random))
        return y, last.detach()

    def backward(self, loss: Tensor) -> None:
        """Add to the weights' gradients: the loss of the newest window, through all windows."""
        full = len(self.last) == self.depth
        reached: list[tuple[Tensor, Tensor | None]] = [(loss, None)]
        for k in range(len(self.last) - 1, -1, -1):
            if reached:
                outs, grads = zip(*reached, strict=True)
                torch.autograd.backward(outs, grads, retain_graph=k > 0 or not full)
            sent = _collect(self.last[k].entry)
            exits = self.last[k - 1].exit.history if k > 0 else {}
            reached = [(exits[n], g) for n, g in sent.items() if n in exits and exits[n].requires_grad]
        if full:
            self.last.popleft()  # it was walked for the last time

    def held(self) -> list[Window]:
        """The windows so far, to be put back should the next update fail."""
        return list(self.last)

    def put_back(self, windows: Sequence[Window]) -> None:
        """For a checkpoint alone: what was walked for the last time cannot be walked again."""
        self.last = deque(windows, self.depth)

    # What a checkpoint holds --------------------------------------------------------------------------

    def state(self) -> list[dict[str, Any]]:
        """The windows that the next update walks through, as plain tensors: enough to run them again."""
        names = [name for name, _ in self.net.named_parameters()]
        return [
            {
                "x": w.batch.x.cpu(),
                "lengths": w.batch.lengths.cpu(),
                "resets": None if w.batch.resets is None else w.batch.resets.cpu(),
                "entry": None if w.entry is None else {n: h.cpu() for n, h in w.entry.tensors().items()},
                "weights": {
                    name: None if x is None else x.cpu().clone()
                    for name, x in self.net.views(dict(zip(names, w.weights, strict=True))).items()
                },
                "random": w.random,
            }
            for w in self.last
        ]

    def load(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Run saved windows again, each with the weights and random numbers that it had."""
        self.clear()
        if not saved:
            return
        views, now = self.net.weights(), {n: x.clone() for n, x in self.net.weights().items()}
        random = torch.get_rng_state()
        self.net.train()
        for w in saved:
            put(views, w["weights"])
            torch.set_rng_state(w["random"])
            entry = w["entry"]
            if entry is not None:
                like = self.net.like
                moved = {n: h.to(like if h.is_floating_point() else like.device) for n, h in entry.items()}
                entry = self.net.load_state(moved)
            # The targets are not looked at any more.
            self.forward(Batch(w["x"], w["x"], w["lengths"], w["resets"], ()), entry)
        put(views, now)
        torch.set_rng_state(random)


def put(views: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write weights into a network, by name."""
    with torch.no_grad():
        for name, view in views.items():
            view.copy_(values[name])


def _leaf(history: Tensor) -> Tensor:
    """A state that enters a window; of indices there is no gradient."""
    x = history.detach()
    return x.requires_grad_() if x.is_floating_point() else x


def _collect(entry: State | None) -> dict[str, Tensor]:
    """The gradients that the leaves of a window have got, taken from them."""
    found: dict[str, Tensor] = {}
    for name, leaf in entry.history.items() if entry is not None else ():
        if leaf.grad is not None:
            found[name], leaf.grad = leaf.grad, None
    return found


def _hold(x: Tensor, weights: set[int]) -> Tensor | tuple[Tensor, int]:
    """What autograd keeps of a tensor: weights as they will be, anything else as it is now.

    Without its history, which autograd puts back: a result that its own node keeps would else keep this node,
    and a window that is forgotten before its last backward would stay in memory for ever.
    """
    return x if x.untyped_storage().data_ptr() in weights else (x.detach(), x._version)


def _given_back(held: Tensor | tuple[Tensor, int]) -> Tensor:
    """The tensor that was kept. Autograd itself refuses all that has changed; here weights may."""
    if isinstance(held, Tensor):
        return held
    x, version = held
    assert x._version == version, "a value of an older step was overwritten before its last backward"
    return x

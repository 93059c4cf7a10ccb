"""What a chunk hands to the next one: the last values of everything that is read with a delay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from framework.errors import ConfigError


class State:
    """`state["l1/c"]` is the last value [B, H] of a node (or input) that some node reads back in time.

    `history[name]` holds its last values [delay, B, H], oldest first; `initial[name]` [H] is what the steps
    before a sequence hold, with a gradient when learned.
    """

    def __init__(self, history: Mapping[str, Tensor], initial: Mapping[str, Tensor]):
        self.history: Mapping[str, Tensor] = dict(history)
        self.initial = dict(initial)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.history:
            there = ", ".join(self.history)
            raise KeyError(f"no state '{name}': nothing reads it back in time. There are: {there}")
        return self.history[name][-1]

    def __contains__(self, name: object) -> bool:
        return name in self.history

    def __iter__(self) -> Iterator[str]:
        return iter(self.history)

    def __len__(self) -> int:
        return len(self.history)

    def __repr__(self) -> str:
        parts = (f"{name} {list(h.shape)}" for name, h in self.history.items())
        return f"State([delay, B, units]: {', '.join(parts)})" if self.history else "State(nothing)"

    def keys(self) -> list[str]:
        """Names of all that is carried."""
        return list(self.history)

    def detach(self) -> State:
        """The same values, cut off from the graph of gradients (truncated backpropagation through time)."""
        return State({n: h.detach() for n, h in self.history.items()}, self.initial)

    def reset(self, mask: Tensor) -> State:
        """Lanes where mask [B] (bool) is True start a new sequence: their state is the initial one.

        Raises ConfigError for a mask of another shape or kind.
        """
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
            raise ConfigError("state.reset", f"{kind} where a mask belongs", "Pass a bool tensor [lanes].")
        for name, h in self.history.items():
            if mask.shape != h.shape[1:2]:
                cause = f"shape {tuple(mask.shape)}, '{name}' has {h.shape[1]} lanes"
                raise ConfigError("state.reset", cause, f"Pass a bool tensor [{h.shape[1]}].")
        return State(
            {n: torch.where(_like(mask, h), self.initial[n].to(h.dtype), h) for n, h in self.history.items()},
            self.initial,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Plain tensors for a checkpoint; `Network.load_state` takes them back."""
        return {n: h.detach().clone() for n, h in self.history.items()}


def _like(mask: Tensor, history: Tensor) -> Tensor:
    """mask [B] against [delay, B] or [delay, B, H]."""
    return mask.view(1, -1, *([1] * (history.dim() - 2)))


def keep_mask(
    shift: int, steps: int, lanes: int, lengths: Tensor | None, resets: Tensor | None
) -> Tensor | None:
    """Bool [T, B, 1]: whether a read at t + shift stays inside its sequence; None: always.

    Back (shift < 0): no reset at t+shift+1..t. Ahead: none at t+1..t+shift, and t+shift inside the lane.
    """
    keep: Tensor | None = None
    if resets is not None:
        before = torch.zeros(1, lanes, dtype=torch.int64, device=resets.device)
        count = torch.cat([before, resets.to(torch.int64).cumsum(0)])  # [T+1]: resets at steps < t
        t = torch.arange(steps, device=resets.device)
        lo = (t + shift + 1 if shift < 0 else t + 1).clamp(min=0, max=steps)
        hi = (t + 1 if shift < 0 else t + shift + 1).clamp(max=steps)
        keep = (count[hi] == count[lo]).unsqueeze(-1)
    if lengths is not None and shift > 0:
        t = torch.arange(steps, device=lengths.device).unsqueeze(1)
        inside = (t + shift < lengths.unsqueeze(0)).unsqueeze(-1)
        keep = inside if keep is None else keep & inside
    return keep


def carry(
    old: Tensor, values: Tensor, initial: Tensor, lengths: Tensor | None, resets: Tensor | None
) -> Tensor:
    """The history after a chunk: old [D, B, ...], values [T, B, ...] -> the last D values of every lane.

    A lane ends at its own length. A value that a later reset separates from the end is `initial`.
    """
    depth, steps = old.shape[0], values.shape[0]
    if lengths is None and resets is None and steps >= depth:
        return values[steps - depth :].clone()  # a view would keep the whole chunk alive
    joined = torch.cat([old, values])
    if lengths is None and resets is None:
        return joined[steps:]
    lanes = old.shape[1]
    device = old.device
    end = torch.full((lanes,), steps, device=device) if lengths is None else lengths.to(device)
    at = end.unsqueeze(0) + torch.arange(depth, device=device).unsqueeze(1)  # [D, B] places in `joined`
    out = joined[at, torch.arange(lanes, device=device)]
    if resets is not None:
        before = torch.zeros(1, lanes, dtype=torch.int64, device=device)
        count = torch.cat([before, resets.to(torch.int64).cumsum(0)])
        first = (at - depth + 1).clamp(min=0)  # a reset at the slot's next step or later, before the end
        lane = torch.arange(lanes, device=device)
        lost = count[end, lane].unsqueeze(0) != count[torch.minimum(first, end), lane]
        out = torch.where(lost.view(depth, lanes, *([1] * (out.dim() - 2))), initial.to(out.dtype), out)
    return out

"""`chunk: N`: one call in parts of N steps, of which only the states between them are kept.

For the backward each part runs again from its state (Chen et al., Training deep nets with sublinear memory
cost, 2016), so that what one part needs bounds all but inputs and outputs, however many steps there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from framework.call import Call
from framework.errors import ConfigError
from framework.state import State

if TYPE_CHECKING:
    from framework.network import Network, Value

Outputs = Tensor | dict[str, Tensor]


def run_chunks(
    net: Network,
    x: Value,
    state: State | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    steps: int,
) -> tuple[Outputs, State]:
    """As `Network.forward`, `steps` steps at a time. Raises ConfigError while torch.compile records."""
    if torch.compiler.is_compiling():
        cause = "torch.compile decides itself what is kept for the backward"
        raise ConfigError("chunk", cause, "Leave chunk out, or do not compile the network.")
    whole = Call(net, x, state, lengths, resets)
    outs: list[Outputs] = []
    now = state
    for first in range(0, whole.steps, steps):
        inputs, ends, cuts = cut(whole, first, steps)

        def run(
            inputs: Mapping[str, Tensor],
            state: State | None,
            ends: Tensor | None,
            cuts: Tensor | None,
            first: int = first,
        ) -> tuple[Outputs, State]:
            return Call(net, inputs, state, ends, cuts, whole, first).run()

        if torch.is_grad_enabled():
            # Nothing random is drawn inside: masks come from the seed of the whole call.
            y, now = checkpoint(run, inputs, now, ends, cuts, use_reentrant=False, preserve_rng_state=False)
        else:
            y, now = run(inputs, now, ends, cuts)
        outs.append(y)
    assert now is not None
    return joined(outs), now


def cut(whole: Call, first: int, steps: int) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
    """Inputs, lengths and resets of a part of a call: `steps` steps from `first` on, at its end fewer."""
    part, count = slice(first, first + steps), min(steps, whole.steps - first)
    inputs = {name: v[part] for name, v in whole.inputs.items()}
    ends = None if whole.lengths is None else (whole.lengths - first).clamp(0, count)
    return inputs, ends, None if whole.resets is None else whole.resets[part]


def joined(outs: list[Outputs]) -> Outputs:
    """The outputs of parts one after another."""
    named = [y for y in outs if isinstance(y, dict)]
    if named:
        return {name: torch.cat([y[name] for y in named]) for name in named[0]}
    return torch.cat([y for y in outs if isinstance(y, Tensor)])

"""One step of a stream: `Network.step`, from source that is written once for a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from framework.call_inputs import check_indices, check_kind, check_tensor
from framework.errors import ConfigError
from framework.plain import PlainPlan
from framework.state import State

if TYPE_CHECKING:
    from framework.network import Network


class Stepper:
    """Runs single steps of the networks of one plan. Raises ConfigError where a node reads later steps."""

    def __init__(self, net: Network):
        self.plain = PlainPlan(net.plan, whole=False)
        self.random = any(op.kind == "random" for op in net.plan.ops)
        self.inputs = [(n, spec.size, spec.vocab) for n, spec in net.graph.inputs.items()]
        # Of each history all but the lanes.
        self.shapes = {n: (depth, *self._units(net, n)) for n, depth in net.plan.history.items()}

    def _units(self, net: Network, name: str) -> tuple[int, ...]:
        spec = net.graph.inputs.get(name)
        if spec is None:
            return (net.graph.nodes[name].size,)
        return () if spec.vocab is not None else (spec.size,)

    def __call__(
        self, net: Network, x: Tensor | Mapping[str, Tensor], state: State | None
    ) -> tuple[Tensor | dict[str, Tensor], State]:
        """See `Network.step`."""
        if net.training and self.random:
            raise ConfigError(
                "step", "the network is training, and has dropout or zoneout", "Call net.eval() first."
            )
        inputs, lanes = self._checked(net, x)
        if state is None:
            state = net.initial_state(lanes)
        else:
            self._check_state(state, lanes)
        device = net.like.device.type
        weights = cast(Mapping[str, Tensor], net._parameters)  # no copy for each step
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                outputs, after = self.plain.run(weights, inputs, state.history, net.like)
        else:
            outputs, after = self.plain.run(weights, inputs, state.history, net.like)
        y = outputs if len(outputs) > 1 else next(iter(outputs.values()))
        return y, State(after, state.initial)

    def _checked(self, net: Network, x: Tensor | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
        """Inputs by name in the network's dtype, and the number of lanes."""
        given = x if isinstance(x, Mapping) else {self.inputs[0][0]: x}
        if len(given) != len(self.inputs) or any(n not in given for n, _, _ in self.inputs):
            names = ", ".join(n for n, _, _ in self.inputs)
            cause = f"the network's inputs are {names}, given are {', '.join(given)}"
            raise ConfigError("x", cause, "Pass a dict with one tensor for each input.")
        out: dict[str, Tensor] = {}
        lanes = -1
        for name, size, vocab in self.inputs:
            v = given[name]
            check_tensor(name, v)
            fits = v.dim() == 1 if vocab is not None else v.dim() == 2 and v.shape[1] == size
            if not fits or not v.shape[0]:
                want = "[B]" if vocab is not None else f"[B, {size}]"
                cause = f"shape {tuple(v.shape)} does not fit one step of the input, {want}"
                raise ConfigError(f"x['{name}']", cause, "A step has lanes only; whole chunks go to net(x).")
            if lanes not in (-1, v.shape[0]):
                cause = f"{v.shape[0]} lanes, another input has {lanes}"
                raise ConfigError(f"x['{name}']", cause, "All inputs have the same lanes.")
            lanes = v.shape[0]
            if vocab is None:
                out[name] = v if v.dtype == net.like.dtype else v.to(net.like.dtype)
            else:
                check_kind(name, v, vocab)
                check_indices(name, v, vocab)
                out[name] = v.long()
        return out, lanes

    def _check_state(self, state: State, lanes: int) -> None:
        if not isinstance(state, State):
            cause = f"a {type(state).__name__}, not what a network returns"
            raise ConfigError("state", cause, "Pass the state of the step before, or None.")
        for name, (depth, *units) in self.shapes.items():
            held = state.history.get(name)
            if held is None or held.shape != (depth, lanes, *units):
                found = "nothing" if held is None else tuple(held.shape)
                cause = f"'{name}' holds {found}, this step needs {(depth, lanes, *units)}"
                hint = "Pass the state that this network returned for the same lanes, or None."
                raise ConfigError("state", cause, hint)

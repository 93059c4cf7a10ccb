"""Network: a planned graph as a torch.nn.Module."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.cell import Op
from framework.component import Component
from framework.errors import ConfigError
from framework.graph import Graph
from framework.load import load_graph
from framework.plan import Loop, Map, Parallel, Plan, make_plan
from framework.random import mask as random_mask
from framework.runners import hoisted
from framework.runners.torch_loop import Chunk, TorchLoop
from framework.state import State, carry, keep_mask
from framework.steps import Linear, Pack

Value = Tensor | Mapping[str, Tensor]


class Network(nn.Module):
    """Run a graph: `y, state = net(x, state=None, lengths=None, resets=None)`.

    x, y: a tensor [T, B, features] (indices [T, B]), or a dict by name when there are several. `lengths` [B]:
    frames at or past it are padding (output 0, no gradient). `resets` [T, B] bool: a new sequence starts.
    `state`: what the last call returned, or None. Raises GraphError for a graph without meaning and
    ConfigError for inputs that do not fit it.

    `profile = True` fills `timing` with seconds of the last forward and backward: hoisted, loop.
    """

    def __init__(
        self,
        graph: Graph | Mapping[str, Any] | str | Path,
        runner: str = "auto",
        parallel: Parallel = "intra",
    ):
        super().__init__()
        self.graph = graph if isinstance(graph, Graph) else load_graph(graph)
        self.plan: Plan = make_plan(self.graph, parallel, runner)
        self.profile = False
        self.timing = {"hoisted": 0.0, "loop": 0.0}
        self.seed = 0  # of the masks of dropout and zoneout in the last forward
        # dtype and device of everything: a graph may have no weights at all
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)
        self._packs: dict[str, Pack] = dict(self.plan.packs)
        for pack in self._packs.values():
            self.register_parameter(pack.name, nn.Parameter(torch.empty(pack.shape)))
        self._pack_of = {name: pack.name for pack in self._packs.values() for name, _, _ in pack.members}
        self._loops = [TorchLoop(c, stepwise=parallel == "none") for c in self.plan.components]
        self._run_packs = [self._packs_of_runs(c) for c in self.plan.components]
        self._uses = self._last_uses(self.plan)
        self.reset_parameters()

    def _packs_of_runs(self, c: Component) -> list[str]:
        by_members = {pack.members: pack.name for pack in self._packs.values()}
        return [by_members[run.weights] for run in c.runs]

    # Weights ------------------------------------------------------------------------------------------

    def reset_parameters(self) -> None:
        """Fresh random weights from torch's generator, in the order of the graph whatever the plan.

        Matrices and diagonals: uniform within 1/sqrt(fan in) (of a gather or diagonal: within 1/sqrt(size));
        biases, gains and initial values start where the graph says.
        """
        with torch.no_grad():
            for name, view in self.weights().items():
                w = self.graph.weights[name]
                if w.kind in ("bias", "gain", "init"):
                    view.fill_(w.value)
                else:
                    fan = w.shape[0] if w.kind == "diag" or w.fan_in <= 1 else w.fan_in
                    view.copy_(torch.empty(w.shape).uniform_(-1.0, 1.0) / math.sqrt(fan))

    def _views(self, tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        out: dict[str, Tensor | None] = {}
        places = {name: (p, lo, hi) for p in self._packs.values() for name, lo, hi in p.members}
        for name in self.graph.weights:
            if name not in places:
                continue  # of a node that no output needs
            pack, lo, hi = places[name]
            x = tensors[pack.name]
            if x is None:
                out[name] = None
            elif pack.kind == "gather":
                out[name] = x[:, lo:hi].t()
            else:
                out[name] = x if pack.kind == "block" else x[lo:hi]
        return out

    def weights(self) -> dict[str, Tensor]:
        """Canonical name -> view of the weight; writing into it changes the network."""
        views = self._views({n: p.detach() for n, p in self.named_parameters()})
        return {n: x for n, x in views.items() if x is not None}

    def grads(self) -> dict[str, Tensor | None]:
        """Canonical name -> gradient (a view), or None; names and shapes as in `weights`."""
        return self._views({n: p.grad for n, p in self.named_parameters()})

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """state_dict holds canonical names, so that it does not depend on how a plan packs weights."""
        for name, x in self.weights().items():
            destination[prefix + name] = x

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        _, _, missing, unexpected, errors = args
        for name, x in self.weights().items():
            value = state_dict.get(prefix + name)
            if value is None:
                missing.append(prefix + name)
            elif value.shape != x.shape:
                errors.append(f"{prefix + name}: shape {tuple(value.shape)}, the model has {tuple(x.shape)}")
            else:
                x.copy_(value)
        known = {prefix + name for name in self.weights()}
        unexpected.extend(n for n in state_dict if n.startswith(prefix) and n not in known)

    # Running ------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Value,
        state: State | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor | dict[str, Tensor], State]:
        """See the class."""
        device = self.like.device
        with torch.autocast(device.type, enabled=False):
            call = _Call(self, x, state, lengths, resets)
            return call.run()

    def load_state(self, tensors: Mapping[str, Tensor]) -> State:
        """The state that `State.tensors()` gave, for this network. Raises ConfigError when names differ."""
        lanes = next(iter(tensors.values())).shape[1] if tensors else 1
        fresh = self.initial_state(lanes)
        if set(tensors) != set(fresh.keys()):
            raise ConfigError("state", f"it holds {sorted(tensors)}, the network carries {sorted(fresh.keys())}",
                              "Was it saved by another model?")  # fmt: skip
        return State(tensors, fresh.initial)

    def initial_state(self, lanes: int) -> State:
        """What a sequence starts from, for B = lanes."""
        initial: dict[str, Tensor] = {}
        history: dict[str, Tensor] = {}
        like = self.like
        for name, depth in self.plan.history.items():
            spec = self.graph.inputs.get(name)
            if spec is not None and spec.vocab is not None:
                value = initial[name] = torch.full((), -1, dtype=torch.int64, device=like.device)
                history[name] = value.expand(depth, lanes)
            else:
                value = initial[name] = self.initial(name)
                history[name] = value.expand(depth, lanes, -1)
        return State(history, initial)

    def initial(self, name: str) -> Tensor:
        """Value [size] of a node or input before its first step; carries a gradient when learned."""
        like = self.like
        if name in self.graph.inputs:
            return like.new_zeros(self.graph.inputs[name].size)
        node = self.graph.nodes[name]
        if node.init == "learned":
            return self.pack_view(f"{name}:init")
        return like.new_full((node.size,), float(node.init))

    def pack_view(self, name: str) -> Tensor:
        """The parameter of a weight that stands alone in its pack."""
        return self.get_parameter(self._pack_of[name])

    @staticmethod
    def _last_uses(plan: Plan) -> list[list[int]]:
        """For every step the ops whose values no later step reads: they can be let go."""
        last: dict[int, int] = {}
        for k, step in enumerate(plan.steps):
            for a in _reads(plan, step):
                last[a] = k
        keep = {plan.roots[n] for n in (*plan.graph.outputs.values(), *plan.history)}
        out: list[list[int]] = [[] for _ in plan.steps]
        for a, k in last.items():
            if a not in keep:
                out[k].append(a)
        return out


def _reads(plan: Plan, step: Linear | Map | Loop) -> Sequence[int]:
    if isinstance(step, Linear):
        return [a.source for a in step.addends if a.source >= 0]
    if isinstance(step, Loop):
        return plan.components[step.component].ext
    op = plan.ops[step.op]
    return [plan.roots[op.name]] if op.kind == "shift" else op.args


class _Call:
    """One forward of a network: the values of its steps as they come."""

    def __init__(
        self, net: Network, x: Value, state: State | None, lengths: Tensor | None, resets: Tensor | None
    ):
        self.net, self.plan = net, net.plan
        self.like = net.like
        self.inputs = self._inputs(x)
        first = next(iter(self.inputs.values()))
        self.steps, self.lanes = first.shape[0], first.shape[1]
        self._check(lengths, resets)
        self.lengths = None if lengths is None else lengths.to(self.like.device)
        self.resets = None if resets is None else resets.to(self.like.device, torch.bool)
        self.padding = self._padding()
        self.state = net.initial_state(self.lanes)
        if state is not None:
            self._check_state(state)
            self.state = State(state.history, self.state.initial)
        self.masks: dict[int, Tensor | None] = {}
        self.values: dict[int, Tensor] = {}
        self.buffers: dict[int, Tensor] = {}
        self.clock: dict[str, float] | None = None
        if net.profile:
            self.clock = net.timing = {"hoisted": 0.0, "loop": 0.0}
        if net.training and any(op.kind == "random" for op in self.plan.ops):
            net.seed = int(torch.randint(2**31 - 1, ()))

    def _inputs(self, x: Value) -> dict[str, Tensor]:
        specs = self.net.graph.inputs
        given = dict(x) if isinstance(x, Mapping) else {next(iter(specs)): x}
        if set(given) != set(specs):
            raise ConfigError("x", f"the network's inputs are {', '.join(specs)}, given are {', '.join(given)}",
                              "Pass a dict with one tensor for each input.")  # fmt: skip
        out: dict[str, Tensor] = {}
        shape: tuple[int, ...] = ()
        for name, spec in specs.items():
            v = given[name]
            want = "[T, B]" if spec.vocab is not None else f"[T, B, {spec.size}]"
            fits = v.dim() == 2 if spec.vocab is not None else v.dim() == 3 and v.shape[-1] == spec.size
            if not fits:
                raise ConfigError(f"x['{name}']", f"shape {tuple(v.shape)} does not fit the input {want}",
                                  "The layout is time first: [steps, lanes, features].")  # fmt: skip
            if shape and v.shape[:2] != shape:
                raise ConfigError(f"x['{name}']", f"{tuple(v.shape[:2])} steps and lanes, another input {shape}")
            if spec.vocab is not None and v.is_floating_point():
                raise ConfigError(f"x['{name}']", f"{v.dtype} where the graph says indices",
                                  f"Pass integers below {spec.vocab}.")  # fmt: skip
            shape = tuple(v.shape[:2])
            out[name] = v.long() if spec.vocab is not None else v.to(self.like.dtype)
        if not shape[0]:
            raise ConfigError("x", "no steps: T is 0", "Pass at least one step.")
        return out

    def _check(self, lengths: Tensor | None, resets: Tensor | None) -> None:
        if lengths is not None and lengths.shape != (self.lanes,):
            raise ConfigError("lengths", f"shape {tuple(lengths.shape)}, there are {self.lanes} lanes",
                              f"Pass one length for each lane: [{self.lanes}].")  # fmt: skip
        if resets is not None and resets.shape != (self.steps, self.lanes):
            raise ConfigError("resets", f"shape {tuple(resets.shape)}, x has {self.steps} steps and {self.lanes} lanes",
                              f"Pass a bool tensor [{self.steps}, {self.lanes}].")  # fmt: skip

    def _check_state(self, state: State) -> None:
        for name, fresh in self.state.history.items():
            if name not in state.history or state.history[name].shape != fresh.shape:
                found = tuple(state.history[name].shape[1:]) if name in state.history else "nothing"
                raise ConfigError("state", f"'{name}' holds {found}, this call needs {tuple(fresh.shape[1:])}",
                                  "Pass the state that this network returned for the same lanes, or None.")  # fmt: skip

    def _padding(self) -> Tensor | None:
        """Bool [T, B, 1]: frames at or past their lane's length.

        They are filled with the lane's own frames over again (an empty lane: with those of the longest), so that
        nothing in them spreads. Zeros would not do: log, 1 / x or a norm may have no slope at 0, and a
        gradient of 0 times an infinite slope is a NaN in the weights' gradients.
        """
        lengths = self.lengths
        if lengths is None:
            return None
        steps = torch.arange(self.steps, device=self.like.device).unsqueeze(1)
        padding = (steps >= lengths.unsqueeze(0)).unsqueeze(-1)
        lanes = torch.arange(self.lanes, device=self.like.device)
        lane = torch.where(lengths > 0, lanes, lengths.argmax())
        frame = steps % lengths[lane].clamp(min=1)
        nothing = lengths.max() < 1
        for name, v in self.inputs.items():
            filling = v.detach()[frame, lane].masked_fill(nothing, 0)
            self.inputs[name] = torch.where(padding if v.dim() == 3 else padding.squeeze(-1), filling, v)
        return padding

    def run(self) -> tuple[Tensor | dict[str, Tensor], State]:
        start = time.perf_counter()
        for name, v in self.inputs.items():
            self.values[self.plan.roots[name]] = v
        for k, step in enumerate(self.plan.steps):
            if isinstance(step, Linear):
                self._linear(k, step)
            elif isinstance(step, Loop):
                self._loop(step)
            else:
                self._map(step.op)
            for a in self.net._uses[k]:
                self.values.pop(a, None)
        state = self._state()
        outputs: dict[str, Tensor] = {}
        for shown, node in self.net.graph.outputs.items():
            y = self.values[self.plan.roots[node]]
            if self.padding is not None:
                y = y.masked_fill(self.padding, 0.0)
            outputs[shown] = y
        if self.clock is not None:
            self.clock["hoisted"] += time.perf_counter() - start - self.clock["loop"]
        return (outputs if len(outputs) > 1 else next(iter(outputs.values()))), state

    def _state(self) -> State:
        history: dict[str, Tensor] = {}
        for name, old in self.state.history.items():
            now = self.values[self.plan.roots[name]]
            history[name] = carry(old, now, self.state.initial[name], self.lengths, self.resets)
        return State(history, self.state.initial)

    # Steps --------------------------------------------------------------------------------------------

    def value(self, at: int) -> Tensor:
        """The value of an op of the program: [T, B, size], or [size] for weights and numbers."""
        op = self.plan.ops[at]
        if op.kind == "param":
            return self.net.pack_view(op.name)
        if op.kind == "const":
            return self.like.new_full((1,), op.value)
        return self.values[at]

    def _linear(self, k: int, step: Linear) -> None:
        tensors: list[Tensor] = []
        for a in step.addends:
            if a.kind != "bias":
                tensors.append(self._full(self.value(a.source)))
            if a.kind != "value":
                tensors.append(self.net.get_parameter(a.pack))
        if not tensors:
            width = sum(hi - lo for lo, hi in [(0, step.width)])
            buffer = self.like.new_zeros(self.steps, self.lanes, width)
            for lo, hi, const in step.const:
                buffer[..., lo:hi] += const
        else:
            buffer = hoisted.linear(step, tensors, self.steps, self.lanes, self.clock)
        if step.loop:
            self.buffers[k] = buffer
            return
        columns = sorted(step.columns.items(), key=lambda item: item[1])
        parts = torch.split(buffer, [hi - lo for _, (lo, hi) in columns], -1) if len(columns) > 1 else [buffer]
        for (at, _), part in zip(columns, parts, strict=True):
            self.values[at] = part

    def _full(self, x: Tensor) -> Tensor:
        """A weight or number as a sequence."""
        return x if x.dim() >= 2 else x.expand(self.steps, self.lanes, -1)

    def _map(self, at: int) -> None:
        op = self.plan.ops[at]
        if op.kind in ("input", "index"):
            return
        if op.kind == "shift":
            self.values[at] = self._shift(op)
            return
        if op.kind == "random":
            self.values[at] = self._random(op)
            return
        pack = self.net.pack_view(op.name) if op.kind == "block" else None
        args = [self.value(a) for a in op.args]
        if op.kind == "concat":
            args = [self._full(a) for a in args]
        self.values[at] = self._full(hoisted.apply(op, args, pack))

    def _shift(self, op: Op) -> Tensor:
        """The values of a node (or input) at t + shift; initial ones where that leaves the sequence."""
        x, initial = self.values[self.plan.roots[op.name]], self._initial(op.name)
        if op.shift < 0:
            old = self.state.history[op.name]
            out = torch.cat([old[old.shape[0] + op.shift :], x])[: self.steps]
        else:
            edge = initial.expand(min(op.shift, self.steps), *x.shape[1:])
            out = torch.cat([x[op.shift :], edge])
        keep = self.mask(op.shift)
        if keep is None:
            return out
        return torch.where(keep if x.dim() == 3 else keep.squeeze(-1), out, initial)

    def _initial(self, name: str) -> Tensor:
        if name in self.state.initial:
            return self.state.initial[name]
        spec = self.net.graph.inputs.get(name)
        if spec is not None and spec.vocab is not None:
            return torch.full((), -1, dtype=torch.int64, device=self.like.device)
        return self.net.initial(name)

    def mask(self, shift: int) -> Tensor | None:
        """Where a read at t + shift stays inside its sequence; None: everywhere."""
        if shift not in self.masks:
            self.masks[shift] = keep_mask(shift, self.steps, self.lanes, self.lengths, self.resets)
        return self.masks[shift]

    def _random(self, op: Op) -> Tensor:
        """dropout: 0 or 1/(1-p); zoneout: 1 where the old value stays. Without training: their mean."""
        if not self.net.training:
            mean = 1.0 if op.lo == 0 else op.value
            return self.like.new_full((1,), mean).expand(self.steps, self.lanes, op.size)
        hit = random_mask(
            self.net.seed, op.name, self.steps, self.lanes, op.size, op.value, self.like.device
        ).to(self.like.dtype)
        if op.lo == 1:
            return hit
        return (1.0 - hit) / (1.0 - op.value) if op.value < 1.0 else hit * 0.0

    def _loop(self, step: Loop) -> None:
        c, loop = self.plan.components[step.component], self.net._loops[step.component]
        masks = {}
        for op in c.cell:
            if op.kind == "shift" and (keep := self.mask(op.shift)) is not None:
                masks[abs(op.shift)] = keep
        start = time.perf_counter()
        boundary, init = [], []
        for node, distance in c.states.items():
            init.append(self._initial(node))
            if c.direction > 0:
                boundary.append(self.state.history[node][-distance:])
            else:
                boundary.append(init[-1].expand(distance, self.lanes, -1))
        out = loop(
            Chunk(self.steps, self.lanes, masks, self.clock),
            self.buffers.pop(step.pre, None),
            [self._full(self.value(a)) for a in c.ext],
            [self.net.get_parameter(p) for p in self.net._run_packs[step.component]],
            [self.net.pack_view(n) for n in loop.singles],
            boundary,
            init,
        )
        for (at, _), v in zip(c.outputs, out, strict=True):
            self.values[at] = v
        if self.clock is not None:
            self.clock["loop"] += time.perf_counter() - start

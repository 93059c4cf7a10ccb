"""Network: a planned graph as a torch.nn.Module."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework import compiled
from framework.call import Call
from framework.chunks import run_chunks
from framework.component import Component
from framework.errors import ConfigError
from framework.graph import Graph
from framework.load import load_graph
from framework.order import last_uses, order, unread_maps
from framework.overlap import run_overlapped
from framework.plan import Memory, Parallel, Plan, make_plan
from framework.runners.compiled_loop import CompiledLoop
from framework.runners.fused import FusedLoop
from framework.runners.joint import JointLoop
from framework.runners.loop import LoopRunner
from framework.runners.place import machine_of
from framework.runners.rebuild import RebuildLoop
from framework.runners.torch_loop import TorchLoop
from framework.runners.triton_elementwise import ElementwiseLoop
from framework.runners.triton_persistent import PersistentLoop
from framework.runners.triton_scan import ScanLoop
from framework.state import State
from framework.step import Stepper
from framework.steps import Loop, Pack

Value = Tensor | Mapping[str, Tensor]

# The class behind each name of the runner table (choose.TABLE).
RUNNERS: Mapping[str, Callable[[Component, Plan], LoopRunner]] = {
    "torch-fused": lambda c, plan: FusedLoop(c, plan, RUNNERS[other_runner(c, plan)](c, plan)),
    "elementwise": lambda c, plan: ElementwiseLoop(c),
    "persistent": lambda c, plan: PersistentLoop(c, plan.machine, False, plan.products.by),
    "streamed": lambda c, plan: PersistentLoop(c, plan.machine, True, plan.products.by),
    "scan": lambda c, plan: ScanLoop(c),
    "compiled": lambda c, plan: CompiledLoop(c, plan.products.by, plan.machine.dtype in compiled.NARROW),
    "torch": lambda c, plan: TorchLoop(c, plan.parallel == "none", plan.products.by),
}


def loop_of(c: Component, runner: str, plan: Plan) -> LoopRunner | RebuildLoop:
    """What executes component `c` of a plan."""

    def make(c: Component) -> LoopRunner:
        return RUNNERS[runner](c, plan)

    loop = make(c)
    if plan.memory == "recompute" and loop.rebuilds:
        return RebuildLoop(c, make, plan.products.by)
    if (plan.chunk or plan.overlap) and loop.own_masks:  # kernels count the steps of their masks from 0
        return make(replace(c, masks={}))
    return loop


def other_runner(c: Component, plan: Plan) -> str:
    """The runner of the calls that the one of component `c` hands on."""
    chosen = zip(plan.components, plan.choices, strict=True)
    return next(choice.other for other, choice in chosen if other.name == c.name)


class Network(nn.Module):
    """Run a graph: `y, state = net(x, state=None, lengths=None, resets=None)`.

    x, y: a tensor [T, B, features] (indices [T, B]), or a dict by name when there are several. `lengths` [B]:
    frames at or past it are padding (output 0, no gradient). `resets` [T, B] bool: a new sequence starts.
    `state`: what the last call returned, or None. Raises GraphError for a graph without meaning and
    ConfigError for inputs that do not fit it.

    `profile = True` fills `timing` with seconds of the last forward and backward: hoisted, loop (on a GPU: of
    launching them). `watchdog = True` turns a hang of kernels whose programs wait for each other into a
    TrainingError, for tests: the host then waits for each launch. `state_dict` holds weights by canonical
    names; parameters have names of their own (w0, w1, ...), which is what `torch.func.functional_call` takes.
    When the network is moved to another device or dtype, the runners of its loops are chosen again for it,
    and `plan` shows them.
    """

    def __init__(
        self,
        graph: Graph | Mapping[str, Any] | str | Path,
        runner: str = "auto",
        parallel: Parallel = "intra",
        products: str = "auto",
        memory: Memory = "save",
        chunk: int | None = None,
        together: bool = True,
        overlap: int | None = None,
    ):
        super().__init__()
        self.graph = graph if isinstance(graph, Graph) else load_graph(graph)
        self.plan: Plan = make_plan(
            self.graph, parallel, runner, products=products, memory=memory, chunk=chunk, together=together,
            overlap=overlap,
        )  # fmt: skip
        self.profile = False
        self.watchdog: bool | int = False
        self.timing = {"hoisted": 0.0, "loop": 0.0}
        self.seed = 0  # of the masks of dropout and zoneout in the last forward
        # Set around a call whose backward comes after the weights have changed: see `framework.bptt`.
        self.copies: dict[int, Tensor] | None = None
        # dtype and device of everything: a graph may have no weights at all
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)
        self._packs: dict[str, Pack] = dict(self.plan.packs)
        for pack in self._packs.values():
            self.register_parameter(pack.name, nn.Parameter(torch.empty(pack.shape)))
        self._pack_of = {name: pack.name for pack in self._packs.values() for name, _, _ in pack.members}
        self.run_packs = [self._packs_of_runs(c) for c in self.plan.components]
        self.loops: list[LoopRunner | RebuildLoop] = []
        self._place()
        self.reset_parameters()

    def extra_repr(self) -> str:
        """For print(net): what goes in and out, and how many weights there are."""
        lead = ["T", "B"]
        ins = (f"{n} {[*lead, s.size] if s.vocab is None else lead}" for n, s in self.graph.inputs.items())
        outs = (f"{n} {[*lead, self.graph.nodes[node].size]}" for n, node in self.graph.outputs.items())
        count = sum(p.numel() for p in self.parameters())
        return f"{', '.join(ins)} -> {', '.join(outs)}; {count:,} weights".replace("'", "")

    def _place(self) -> None:
        """Choose what executes the plan where the network is now."""
        here = machine_of(self.like)
        if here == self.plan.machine and self.loops:
            return
        self.plan = self.plan.on(here)
        chosen = zip(self.plan.components, self.plan.choices, strict=True)
        self.loops = [loop_of(c, choice.runner, self.plan) for c, choice in chosen]
        self.loop_after = {s.pre: self.loops[s.component] for s in self.plan.steps if isinstance(s, Loop)}
        loops = [(s.pre, self.loops[s.component]) for s in self.plan.steps if isinstance(s, Loop)]
        self.fused = {pre: loop for pre, loop in loops if isinstance(loop, FusedLoop)}
        self.unread_maps = unread_maps(self.plan, self.loops)
        self.order = order(self.plan)
        self.last_uses = last_uses(self.plan, self.order)
        self._joint: dict[tuple[int, ...], JointLoop] = {}
        self._stepper: Stepper | None = None

    def joint(self, launch: tuple[int, ...]) -> JointLoop:
        """The loops of one launch (steps of the plan)."""
        if launch not in self._joint:
            found = (step for k in launch if isinstance(step := self.plan.steps[k], Loop))
            members = [self.loops[step.component] for step in found]
            persistent = [x for x in members if isinstance(x, PersistentLoop)]
            assert len(persistent) == len(launch), self.plan
            self._joint[launch] = JointLoop(persistent, self.plan.machine)
        return self._joint[launch]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Network:
        """Every move of a module (to, cuda, half, to_empty) goes through here."""
        super()._apply(fn, recurse)
        self._place()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was pickled on one device may be loaded on another."""
        super().__setstate__(state)
        self._place()

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

    def views(self, tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        """Canonical name -> its part of `tensors`, which are given by parameter, in their shapes."""
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
        views = self.views({n: p.detach() for n, p in self.named_parameters()})
        return {n: x for n, x in views.items() if x is not None}

    def grads(self) -> dict[str, Tensor | None]:
        """Canonical name -> gradient (a view), or None; names and shapes as in `weights`."""
        return self.views({n: p.grad for n, p in self.named_parameters()})

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
        with torch.autocast(device.type, enabled=False), _current(device):
            if self.plan.chunk is not None:
                assert self.copies is None, "parts would be computed again with other weights"
                return run_chunks(self, x, state, lengths, resets, self.plan.chunk)
            if self.plan.overlap is not None:
                return run_overlapped(self, x, state, lengths, resets, self.plan.overlap)
            return Call(self, x, state, lengths, resets).run()

    def step(self, x: Value, state: State | None = None) -> tuple[Tensor | dict[str, Tensor], State]:
        """One step of a stream: `y, state = net.step(x, state)`, x and y [B, features] (indices [B]).

        The same as `net(x.unsqueeze(0), state)` in plain torch, with nothing prepared but in the first call;
        steps and chunks may take turns with one state. For inference without delay call it inside of
        `torch.inference_mode()`. Raises ConfigError where a node reads later steps, for inputs that do not
        fit, and for a network with dropout that is training.
        """
        if self._stepper is None:
            self._stepper = Stepper(self)
        return self._stepper(self, x, state)

    def peak_bytes(self, steps: int, lanes: int) -> int:
        """Predicted bytes of all tensors at the peak of a forward and backward; see `framework.peak`."""
        from framework.peak import peak_bytes

        return peak_bytes(self, steps, lanes)

    def load_state(self, tensors: Mapping[str, Tensor]) -> State:
        """The state that `State.tensors()` gave, for this network.

        Raises ConfigError when names or shapes are those of another one.
        """
        lanes = next((x.shape[1] for x in tensors.values() if x.dim() > 1), 1)
        fresh = self.initial_state(lanes)
        if set(tensors) != set(fresh.keys()):
            cause = f"it holds {sorted(tensors)}, the network carries {sorted(fresh.keys())}"
            raise ConfigError("state", cause, "Was it saved by another model?")
        for name, like in fresh.history.items():
            if tensors[name].shape != like.shape:
                cause = f"'{name}' is {list(tensors[name].shape)}, the network carries {list(like.shape)}"
                raise ConfigError("state", cause, "Was it saved by another model?")
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
            value = self.pack_view(f"{name}:init")
            # A value of the sequence, not a weight to multiply by: it has to stay what it is now.
            return value if self.copies is None else value.clone()
        return like.new_full((node.size,), float(node.init))

    def parameter(self, name: str) -> Tensor:
        """A parameter by its own name, or the tensor that `functional_call` has put there."""
        return getattr(self, name)

    def pack_view(self, name: str) -> Tensor:
        """The parameter of a weight that stands alone in its pack."""
        return self.parameter(self._pack_of[name])


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes the device of a network the current one: Triton launches there, on its current stream."""
    elsewhere = device.type == "cuda" and not torch.compiler.is_compiling()
    if elsewhere and device.index not in (None, torch.cuda.current_device()):
        return torch.cuda.device(device)
    return nullcontext()

"""The planner: Graph -> Plan. Pure functions over frozen data; no torch.

Finds the loops by strongly connected components, first of nodes (direction, errors), then of single ops
(what of a node really is in its loop), and puts everything else outside, for all steps at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from framework import vanilla
from framework.cell import Builder, Op, Program, lower
from framework.choose import Choice, check_runner, choose
from framework.component import MATRICES, Component, edges_of, make_component
from framework.direction import Timing, reads, timing
from framework.errors import ConfigError
from framework.graph import Graph
from framework.machine import CPU, Machine
from framework.machine import machine as named_machine
from framework.names import known
from framework.pause import no_garbage_collection
from framework.products import BY_TORCH, Products, choose_products
from framework.scc import components, topological
from framework.steps import Linear, Loop, Map, Pack, Step, make_steps
from framework.together import Together, check_overlap, start_together, start_wave

__all__ = ["Linear", "Loop", "Map", "Pack", "Plan", "Step", "make_plan"]

Parallel = Literal["intra", "none"]
PARALLEL = ("intra", "none")
Memory = Literal["save", "recompute"]
MEMORY = ("save", "recompute")


@dataclass(frozen=True)
class Plan:
    """What to do, in order. `ops`: the whole program; `steps` name its ops; `packs`: the parameters."""

    graph: Graph
    parallel: Parallel
    ops: tuple[Op, ...]
    roots: Mapping[str, int]
    owner: tuple[str, ...]
    components: tuple[Component, ...]
    steps: tuple[Step, ...]
    packs: Mapping[str, Pack]
    history: Mapping[str, int] = field(default_factory=dict)  # node or input -> steps of it a chunk hands on
    groups: tuple[tuple[int, ...], ...] = ()  # steps that may run at the same time
    runner: str = "auto"  # which one was asked for
    machine: Machine = CPU  # where it is to run
    choices: tuple[Choice, ...] = ()  # the runner of each component there
    asked: str = "auto"  # who was asked for to multiply outside the loops
    products: Products = BY_TORCH  # who does
    memory: Memory = "save"  # what loops keep for the backward: all it reads, or the sequences of their nodes
    chunk: int | None = (
        None  # steps that run at once, with a state between them from which they can run again
    )
    apart: bool = False  # whether all loops are to run one by one
    together: tuple[Together, ...] = ()  # those that do not
    overlap: int | None = None  # parts of a chunk in which loops behind each other overlap
    wave: Together | None = None  # how those of different parts start together

    def __str__(self) -> str:
        from framework.plan_text import plan_text

        with no_garbage_collection():
            return plan_text(self)

    def on(self, machine: Machine) -> Plan:
        """The same plan for another machine: only what executes its steps is chosen again."""
        if self.parallel == "none":
            asked = self.runner not in ("auto", "torch")
            notes = (f"{self.runner}: parallel=none is for the torch runner",) if asked else ()
            choices = (Choice("torch", notes),) * len(self.components)
        else:
            ours = "memory=recompute" if self.memory == "recompute" else ""
            ours = "products=triton" if self.asked == "triton" else ours
            choices = tuple(choose(c, self.runner, machine, ours) for c in self.components)
        products = choose_products(machine, self.asked)
        plan = replace(self, machine=machine, choices=choices, products=products, together=(), wave=None)
        if self.overlap is not None:
            return replace(plan, wave=start_wave(plan))
        return replace(plan, together=start_together(plan))

    def activation_bytes(self, steps: int, lanes: int, itemsize: int | None = None) -> int:
        """Predicted bytes kept for the backward of one chunk. `itemsize`: of a number (the machine's)."""
        from framework.memory import kept

        return kept(self) * steps * lanes * (itemsize or self.machine.itemsize)

    @cached_property
    def looks_ahead(self) -> bool:
        """Whether some node reads later steps: then chunks cannot be joined."""
        return any(op.kind == "shift" and op.shift > 0 for op in self.ops)


def make_plan(
    graph: Graph,
    parallel: Parallel = "intra",
    runner: str = "auto",
    device: str | Machine = "cpu",
    products: str = "auto",
    memory: Memory = "save",
    chunk: int | None = None,
    together: bool = True,
    overlap: int | None = None,
) -> Plan:
    """Plan `graph`. parallel="none" leaves every product in a loop, step by step (for comparison).

    `runner` forces one for every loop ("auto": the best that takes it). `device`: what the plan is for,
    "cpu", "cuda" or a Machine; it need not be here. `products`: who multiplies outside the loops, "triton",
    "torch", or "auto" (torch on a CPU, what the launch table says on a GPU). `memory`: "save" keeps what the
    backward of a loop reads, "recompute" the sequences of its nodes; `chunk`: so many steps run at once, and
    again for the backward (None: all). `together`: whether loops that do not read each other start at the
    same time on a GPU, where it has room; `overlap`: a call runs in so many parts, and a loop in one of them
    beside those that read it in the part before. Raises GraphError for a loop without delay or a component
    that runs both ways in time, ConfigError for a name that does not exist.
    """
    if parallel not in PARALLEL:
        raise ConfigError("parallel", f"'{parallel}' is not known", known("There are", parallel, PARALLEL))
    check_runner(runner)
    if memory not in MEMORY:
        raise ConfigError("memory", f"'{memory}' is not known", known("There are", memory, MEMORY))
    if memory == "recompute" and parallel == "none":
        raise ConfigError("memory", "parallel=none computes nothing for many steps at once",
                          "Take memory=save, or parallel=intra.")  # fmt: skip
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise ConfigError(
            "chunk", f"{chunk!r} is no number of steps", "Take a whole number from 1 on, or null."
        )
    machine = device if isinstance(device, Machine) else named_machine(device)
    with no_garbage_collection():
        plan = replace(_make_plan(graph, parallel, runner), asked=products, memory=memory, chunk=chunk)
        plan = replace(plan, apart=not together, overlap=overlap)
        if overlap is not None:
            check_overlap(plan)
        if chunk is not None and plan.looks_ahead:
            raise ConfigError("chunk", "a node reads later steps, which lie in the next chunk",
                              "Leave chunk out, or take memory=recompute.")  # fmt: skip
        return plan.on(machine)


def _make_plan(graph: Graph, parallel: Parallel, runner: str) -> Plan:
    edges = {n: reads(node.expr) for n, node in graph.nodes.items()}
    alive = _alive(graph, edges)
    names = [n for n in graph.nodes if n in alive]
    groups, timings = _components(graph, names, edges)
    order: list[str] = []
    for group in groups:
        if len(group) == 1:
            order += group
            continue
        place = {n: i for i, n in enumerate(group)}
        local = [[place[w] for w, s in edges[n] if s == 0 and w in place] for n in group]
        order += [group[i] for i in topological(range(len(group)), local)]
    program = lower(graph, order)
    return _Planner(graph, parallel, program, groups, timings).run(runner)


def _alive(graph: Graph, edges: Mapping[str, Sequence[tuple[str, int]]]) -> set[str]:
    """Nodes that some output needs; the others are dropped."""
    alive: set[str] = set()
    todo = list(graph.outputs.values())
    while todo:
        n = todo.pop()
        if n in alive or n not in edges:
            continue
        alive.add(n)
        todo.extend(w for w, _ in edges[n])
    return alive


def _components(
    graph: Graph, names: Sequence[str], edges: Mapping[str, Sequence[tuple[str, int]]]
) -> tuple[list[list[str]], list[Timing | None]]:
    """Components of the live nodes, what they read first, and the timing of the cyclic ones."""
    place = {n: i for i, n in enumerate(names)}
    found = components([[place[w] for w, _ in edges[n] if w in place] for n in names])
    groups = [[names[i] for i in group] for group in found]
    where = {n: graph.nodes[n].where or f"nodes.{n}" for n in names}
    timings: list[Timing | None] = []
    for group in groups:
        cyclic = len(group) > 1 or any(w == group[0] for w, _ in edges[group[0]])
        timings.append(timing(group, edges, where) if cyclic else None)
    return groups, timings


class _Planner:
    """Builds one plan; lives only during make_plan."""

    def __init__(
        self,
        graph: Graph,
        parallel: Parallel,
        program: Program,
        groups: Sequence[Sequence[str]],
        timings: Sequence[Timing | None],
    ):
        self.graph, self.roots = graph, program.roots
        self.parallel: Parallel = parallel
        self.b = Builder(list(program.ops), {op: i for i, op in enumerate(program.ops)})
        self.owner = program.owner
        self.groups, self.timings = groups, timings

    def run(self, runner: str) -> Plan:
        self.live = self._live()
        loops = self._loops()
        history: dict[str, int] = {}
        for op in (self.b.ops[i] for i in sorted(self.live)):
            if op.kind == "shift" and op.shift < 0:
                history[op.name] = max(history.get(op.name, 0), -op.shift)
        wanted = self._wanted(loops, history)
        names = _distinct([self._name(group) for group, _, _ in loops])
        made = [
            make_component(
                name, group, members, self.b, self.roots, wanted,
                self.parallel == "intra", (t.direction, t.delay, t.factor) if t else (1, 0, 0),
            )
            for name, (group, members, t) in zip(names, loops, strict=True)
        ]  # fmt: skip
        steps, together, packs = make_steps(self.graph, self.b, self.roots, made)
        owner = (*self.owner, *[""] * (len(self.b.ops) - len(self.owner)))
        zero = frozenset(n for n, node in self.graph.nodes.items() if node.init == 0)
        results = [self.roots[n] for n in self.graph.outputs.values()]
        marked = vanilla.mark(made, steps, self.b.ops, self.roots, results, zero)
        return Plan(
            self.graph, self.parallel, tuple(self.b.ops), self.roots, owner, marked, steps, packs,
            history, together, runner,
        )  # fmt: skip

    def _name(self, group: Sequence[str]) -> str:
        """The common path of a component's nodes, or its first nodes."""
        parts = [n.split("/") for n in group]
        common: list[str] = []
        for column in zip(*parts, strict=False):
            if len(set(column)) > 1:
                break
            common.append(column[0])
        if common:
            return "/".join(common)
        heads = list(dict.fromkeys(p[0] for p in parts))
        return "+".join(heads) if len(heads) <= 4 else f"{'+'.join(heads[:3])}+{len(heads) - 3} more"

    def _live(self) -> set[int]:
        """Ops that some output needs. Algebra leaves others behind: a sum reads 2 * (0.5 * a) as a itself."""
        ops, live = self.b.ops, set[int]()
        todo = [self.roots[n] for n in self.graph.outputs.values()]
        while todo:
            i = todo.pop()
            if i not in live:
                live.add(i)
                todo.extend((self.roots[ops[i].name],) if ops[i].kind == "shift" else ops[i].args)
        return live

    def _loops(self) -> list[tuple[Sequence[str], list[int], Timing | None]]:
        """(nodes, member ops, timing) of every loop, what they read first."""
        ops = self.b.ops
        by_node = {n: k for k, group in enumerate(self.groups) for n in group}
        members: dict[int, list[int]] = {}
        if self.parallel == "none":
            leaves = ("input", "index", "param", "const", "random")
            numbers: set[int] = set()  # made of numbers alone: nothing to do at any step
            for i, op in enumerate(ops):
                constant = op.args and numbers.issuperset(op.args) and op.kind not in MATRICES
                if op.kind == "const" or constant:
                    numbers.add(i)
                k = by_node.get(self.owner[i])
                if k is None or op.kind in leaves or i in numbers or i not in self.live:
                    continue
                if op.kind == "shift" and by_node.get(op.name) != k:
                    continue
                members.setdefault(k, []).append(i)
        else:
            edges = edges_of(ops, self.roots)
            named = {root: n for n, root in self.roots.items()}
            for group in components(edges):
                if len(group) == 1 and group[0] not in edges[group[0]]:
                    continue
                node = next(named[i] for i in group if i in named)
                members[by_node[node]] = group
        return [(self.groups[k], sorted(members[k]), self.timings[k]) for k in sorted(members)]

    def _wanted(
        self, loops: Sequence[tuple[Sequence[str], list[int], Timing | None]], history: Mapping[str, int]
    ) -> frozenset[int]:
        """All ops whose values are needed outside the loop they are in."""
        out = {self.roots[n] for n in (*self.graph.outputs.values(), *history)}
        home: dict[int, int] = {}
        for k, (_, members, _) in enumerate(loops):
            home.update(dict.fromkeys(members, k))
        for i in self.live:
            op = self.b.ops[i]
            sources = (self.roots[op.name],) if op.kind == "shift" else op.args
            out.update(a for a in sources if a in home and home[a] != home.get(i))
        return frozenset(out)


def _distinct(names: Sequence[str]) -> list[str]:
    """l1, l1 -> l1, l1#2: two loops inside one cell."""
    count: dict[str, int] = {}
    out = []
    for name in names:
        n = count[name] = count.get(name, 0) + 1
        out.append(name if n == 1 else f"{name}#{n}")
    return out

"""The generated part of a loop without exchange: one step of a cell and of its derivative, and what it reads.

The functions take and give tuples of blocks; `elementwise.py` loads, stores and loops around them.

| function | what |
|---|---|
| past_fwd(ring, far [, keep, init]) | values at other steps: out of the ring in registers, or loaded |
| masks_fwd, masks_bwd(seed, keys, o_row, o_unit, COMPUTE) | random masks of the step, if there are any |
| cell_fwd(pre, ext, par, past) | values of the nodes that are stored; ext: loaded ones, then masks |
| push_fwd(ring, nodes) | the ring one step later |
| past_bwd(past [, keep, init]) | as past_fwd, all loaded |
| back_bwd(ring, far) | adjoints that other steps have sent to this one |
| cell_bwd(pre, ext, par, past, now, grad, back) | adjoints: of pre, of ext, of vector weights, of the past |
| sent_bwd(adjoints [, keep]) | what the past receives of them: nothing across a reset |
| push_bwd(ring, sent) | the ring one step later |

`keep` (one bool block for each read distance) and `init` (one block for each state) are there if the call has
resets or lengths. Values that the derivative needs are computed again from what is there anyway, the stored
nodes and the hoisted inputs: on a GPU arithmetic is free here, and memory is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from kernels import cell_reads
from kernels.codegen import (
    HEADER,
    RANDOM,
    Op,
    adjoint_names,
    function,
    mask_function,
    mask_keys,
    names_of,
    needed,
    number,
    plumbing,
    without_path,
)

NEAR = 4  # largest distance of a read that stays in registers
LEAVES = ("pre", "ext", "random", "param", "shift", "grad", "back")


@dataclass(frozen=True)
class Cell:
    """One step of a loop. `roots`: node -> op; `states`: nodes that are read at other steps, in order;
    `outputs`: ops whose values (and then gradients) are seen outside.
    """

    ops: Sequence[Op]
    roots: Mapping[str, int]
    states: Sequence[str]
    outputs: Sequence[int]
    forms: Mapping[str, str]

    @property
    def stored(self) -> tuple[int, ...]:
        """Ops whose values are stored at every step: states first, then other outputs but reads."""
        return cell_reads.stored(self.ops, self.roots, self.states, self.outputs)

    @property
    def distances(self) -> tuple[int, ...]:
        """Distances of reads at other steps, small first: the order of `keep`."""
        return cell_reads.distances(self.ops)

    def of_kind(self, ids: Sequence[int], kind: str, ops: Sequence[Op] | None = None) -> tuple[int, ...]:
        """Those of `ids` that are of a kind, in order of the list."""
        return tuple(sorted(at for at in ids if (ops or self.ops)[at].kind == kind))


@dataclass(frozen=True)
class Forward:
    """`text` and the meaning of its tuples: ops of the cell, ext numbers, names of weights and masks;
    random: ops that are masks. rings: (stored op, how many steps); far: (stored op, shift).
    """

    text: str
    pre: tuple[int, ...]
    ext: tuple[int, ...]
    par: tuple[str, ...]
    keys: tuple[str, ...]
    random: tuple[int, ...]
    past: tuple[int, ...]
    nodes: tuple[int, ...]
    rings: tuple[tuple[int, int], ...]
    far: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Derivative:
    """Adjoint ops of the derivative (`Backward` of the framework): `ops` begin with the cell's own.

    Maps from pre and shift ops, ext numbers and names of vector weights to adjoint ops.
    """

    ops: Sequence[Op]
    pre: Mapping[int, int]
    ext: Mapping[int, int]
    params: Mapping[str, int]
    shifts: Mapping[int, int]


@dataclass(frozen=True)
class Backward:
    """`text` and the meaning of its tuples: given ones as in `Forward` (grad: whose gradient), results as the
    keys of `Derivative`. rings: (shift op, how many steps); far: (shift op, shift of its reader).
    """

    text: str
    pre: tuple[int, ...]
    ext: tuple[int, ...]
    par: tuple[str, ...]
    keys: tuple[str, ...]
    random: tuple[int, ...]
    past: tuple[int, ...]
    now: tuple[int, ...]
    grad: tuple[int, ...]
    d_pre: tuple[int, ...]
    d_ext: tuple[int, ...]
    d_par: tuple[str, ...]
    sent: tuple[int, ...]
    rings: tuple[tuple[int, int], ...]
    far: tuple[tuple[int, int], ...]


Code = TypeVar("Code", Forward, Backward)


def forward(cell: Cell, masked: bool) -> Forward:
    """One step forward. Raises ValueError for a cell whose units exchange values."""
    ops, stored = cell.ops, cell.stored
    leaves = [at for at, op in enumerate(ops) if op.kind in LEAVES]
    found = needed(ops, stored, leaves)
    pre, ext, par = (cell.of_kind(found, kind) for kind in ("pre", "ext", "param"))
    past, random = cell.of_kind(found, "shift"), cell.of_kind(found, "random")
    near: dict[int, int] = {}
    for at in past:
        if abs(ops[at].shift) <= NEAR:
            root = cell.roots[ops[at].name]
            near[root] = max(near.get(root, 0), abs(ops[at].shift))
    rings = tuple((root, near[root]) for root in stored if root in near)
    far = tuple((cell.roots[ops[at].name], ops[at].shift) for at in past if abs(ops[at].shift) > NEAR)
    first = _starts(rings)
    reads, loaded = [], 0
    for at in past:
        if abs(ops[at].shift) <= NEAR:
            reads.append(f"ring[{first[cell.roots[ops[at].name]] + abs(ops[at].shift) - 1}]")
        else:
            reads.append(f"far[{loaded}]")
            loaded += 1
    names = names_of(ops, cell.roots)
    inputs = {"pre": pre, "ext": (*ext, *random), "par": par, "past": past}
    step = function("cell_fwd", "One step.", ops, inputs, {"nodes": stored}, names, cell.forms)
    text = "\n\n".join(
        [
            _past(cell, "past_fwd", ["ring", "far"], past, reads, masked),
            *([mask_function("masks_fwd", ops, random, names)] if random else []),
            step,
            _push("push_fwd", "nodes", rings, {at: i for i, at in enumerate(stored)}),
        ]
    )
    text = without_path(text, cell.roots)
    return Forward(text, pre, *_outer(ops, ext, par, random), past, stored, rings, far)


def backward(cell: Cell, d: Derivative, masked: bool) -> Backward:
    """One step of the derivative. Raises ValueError for a cell whose units exchange values."""
    ops = d.ops
    groups = {
        "d_pre": tuple(d.pre.values()),
        "d_ext": tuple(d.ext.values()),
        "d_par": tuple(d.params.values()),
        "d_past": tuple(d.shifts.values()),
    }
    outputs = [at for ids in groups.values() for at in ids]

    def distance(at: int) -> int:
        return abs(ops[at].shift)

    leaves = [at for at, op in enumerate(ops) if op.kind in LEAVES]
    # Stored values may take the place of what they are computed from, where that is less to load.
    ways = [needed(ops, outputs, leaves), needed(ops, outputs, [*leaves, *cell.stored])]
    loads = [sum(_loaded(cell, ops, at) for at in way) for way in ways]
    found = ways[0] if loads[0] < loads[1] else ways[1]
    now = () if loads[0] < loads[1] else tuple(at for at in cell.stored if at in set(found))
    pre, ext, par = (cell.of_kind(found, kind, ops) for kind in ("pre", "ext", "param"))
    random = cell.of_kind(found, "random", ops)
    past, grad, back = (cell.of_kind(found, kind, ops) for kind in ("shift", "grad", "back"))
    # A ring for each read: what it sends arrives as many steps later as it reached back.
    sends = tuple(d.shifts)
    rings = tuple((at, distance(at)) for at in sends if distance(at) <= NEAR)
    far_ids = [at for at in back if distance(at) > NEAR]
    far = tuple((ops[at].lo, ops[at].shift) for at in far_ids)
    first = _starts(rings)
    reads = [
        f"far[{far_ids.index(at)}]" if at in far_ids else f"ring[{first[ops[at].lo] + distance(at) - 1}]"
        for at in back
    ]
    inputs = {"pre": pre, "ext": (*ext, *random), "par": par, "past": past, "now": now}
    inputs |= {"grad": grad, "back": back}
    names = adjoint_names(names_of(ops, cell.roots), cell.ops, d)
    step = function("cell_bwd", "Adjoints of one step.", ops, inputs, groups, names, cell.forms)
    sent = [
        f"tl.where(keep[{cell.distances.index(distance(at))}], adjoints[{i}], 0.0)"
        if masked
        else f"adjoints[{i}]"
        for i, at in enumerate(sends)
    ]
    text = "\n\n".join(
        [
            _past(cell, "past_bwd", ["past"], past, [f"past[{i}]" for i in range(len(past))], masked),
            *([mask_function("masks_bwd", ops, random, names)] if random else []),
            plumbing("back_bwd", "Adjoints that have arrived.", ["ring", "far"], reads),
            step,
            plumbing("sent_bwd", "What the past receives.", ["adjoints", *["keep"] * masked], sent),
            _push("push_bwd", "sent", rings, {at: i for i, at in enumerate(sends)}),
        ]
    )
    text = without_path(text, cell.roots)
    return Backward(
        text, pre, *_outer(ops, ext, par, random), past, now, tuple(ops[at].lo for at in grad), tuple(d.pre),
        tuple(d.ext), tuple(d.params), sends, rings, far,
    )  # fmt: skip


def with_slope(code: Code, name: str, ops: Sequence[Op], at: int, forms: Mapping[str, str]) -> Code:
    """`code` with one function more, `name`(pre, ext, par): the value of op `at` of `ops`, which begin with
    the cell's, at a step; it reads no other steps.
    """
    ext = {op.lo: i for i, op in enumerate(ops) if op.kind == "ext"}
    par = {op.name: i for i, op in enumerate(ops) if op.kind == "param"}
    inputs = {
        "pre": code.pre,
        "ext": (*(ext[number] for number in code.ext), *code.random),
        "par": tuple(par[weight] for weight in code.par),
    }
    doc = "The factor of the state."
    if ops[at].kind == "const":
        text = plumbing(name, doc, list(inputs), [number(ops[at].value)])
    else:
        text = function(name, doc, ops, inputs, {"slope": (at,)}, names_of(ops, {}), forms)
    return replace(code, text=f"{code.text}\n\n{text}")


def module_text(parts: Sequence[Forward | Backward]) -> str:
    """A whole module."""
    header = HEADER + RANDOM if any(part.keys for part in parts) else HEADER
    return "\n\n".join([header, *(part.text for part in parts)])


def _loaded(cell: Cell, ops: Sequence[Op], at: int) -> int:
    return int(ops[at].kind in ("pre", "ext", "shift") or at in cell.stored)


def _outer(
    ops: Sequence[Op], ext: Sequence[int], par: Sequence[int], random: Sequence[int]
) -> tuple[tuple[int, ...], tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
    """Numbers of ext ops, names of param ops and of masks, masks."""
    names = tuple(ops[at].name for at in par)
    return tuple(ops[at].lo for at in ext), names, mask_keys(ops, random), tuple(random)


def _starts(rings: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Where each part of a ring begins in the tuple: the last step first."""
    out, at = {}, 0
    for key, depth in rings:
        out[key] = at
        at += depth
    return out


def _past(
    cell: Cell, name: str, arguments: list[str], past: Sequence[int], reads: Sequence[str], masked: bool
) -> str:
    doc = "Values at other steps."
    if masked:
        keys = [
            (cell.distances.index(abs(cell.ops[at].shift)), list(cell.states).index(cell.ops[at].name))
            for at in past
        ]
        reads = [f"tl.where(keep[{k}], {r}, init[{i}])" for r, (k, i) in zip(reads, keys, strict=True)]
        arguments = [*arguments, "keep", "init"]
    return plumbing(name, doc, arguments, reads)


def _push(name: str, new: str, rings: Sequence[tuple[int, int]], place: Mapping[int, int]) -> str:
    first = _starts(rings)
    results = [
        f"{new}[{place[key]}]" if k == 0 else f"ring[{first[key] + k - 1}]"
        for key, depth in rings
        for k in range(depth)
    ]
    return plumbing(name, "The ring one step later.", ["ring", new], results)

"""Triton source from op lists: readable functions of blocks, one statement for each op.

An op list is plain data: anything with the fields of `Op`. `function` writes a `@triton.jit` function that
computes some ops of a list from others, whichever they are; a cell's forward, its derivative, or a phase of
either (from one product to the next) are the same to it. What it is made of is in the table of forms, a row
for each pointwise function, which the caller passes: "tl.exp({0})".
"""

from __future__ import annotations

import keyword
import math
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

# What a form may call besides `tl`.
HEADER = """\
import triton
import triton.language as tl

from kernels.activations import relu, sigmoid, tanh  # noqa: F401
"""
# Names that values may not take: of the module, and of tuples that functions are given.
RESERVED = {"triton", "tl", "relu", "sigmoid", "tanh"}
# Of a module that makes random masks.
RANDOM = "from kernels.random import drop_mask, random_bits, renewal_mask, zoneout_mask  # noqa: F401\n"
TUPLES = {"given", "pre", "ext", "par", "past", "now", "grad", "back"}


class Op(Protocol):
    """One op: its function, the places of its arguments in the list, and what the function needs.

    sum: value + coefs[i] * args[i]; prod: product; const: value; copy, expand, stop: args[0]; a kind of the
    forms: pointwise. All other kinds are no functions of blocks: they must be given to `function`.
    """

    @property
    def kind(self) -> str:
        """What it computes."""
        ...

    @property
    def args(self) -> tuple[int, ...]:
        """Places of the arguments."""
        ...

    @property
    def size(self) -> int:
        """Units of its value."""
        ...

    @property
    def name(self) -> str:
        """The node, input, weight or mask that it reads."""
        ...

    @property
    def shift(self) -> int:
        """Distance of a read at another step."""
        ...

    @property
    def coefs(self) -> tuple[float, ...]:
        """Factors of a sum."""
        ...

    @property
    def value(self) -> float:
        """A number; of a random mask its probability."""
        ...

    @property
    def lo(self) -> int:
        """A number of an ext, a first column of a pre, an op that a grad or back belongs to, what a mask is
        for (0: dropout, 1: zoneout, 2: one minus that of zoneout).
        """
        ...


def number(value: float) -> str:
    """A literal. Infinity and NaN have none in Python."""
    return repr(float(value)) if math.isfinite(value) else f'float("{value}")'


def names_of(ops: Sequence[Op], nodes: Mapping[str, int]) -> dict[int, str]:
    """A name for each op: nodes keep theirs, without what all their paths have in common."""
    words = {at: re.sub(r"\W", "_", node.rsplit("/", 1)[-1]) for node, at in nodes.items()}
    short = {node: words[at] for node, at in nodes.items()}
    if len(set(short.values())) < len(nodes):  # several layers in one loop: whole paths
        short = {node: re.sub(r"\W", "_", node) for node in nodes}
    taken = RESERVED | TUPLES
    out: dict[int, str] = {}

    def name(at: int, wanted: str) -> None:
        while wanted in taken or keyword.iskeyword(wanted):
            wanted += "_"
        taken.add(wanted)
        out[at] = wanted

    for node, at in nodes.items():
        if at not in out:
            name(at, short[node])
    pre = 0
    for at, op in enumerate(ops):
        if at in out:
            continue
        if op.kind == "shift":
            name(at, f"{short.get(op.name, 'x')}_{'prev' if op.shift < 0 else 'next'}{abs(op.shift)}")
        elif op.kind == "pre":
            name(at, f"pre{pre}")
            pre += 1
        elif op.kind == "ext":
            name(at, f"ext{op.lo}")
        elif op.kind == "param":
            name(at, f"w{at}")
        elif op.kind == "random":
            name(at, f"{('drop', 'stay', 'renew')[op.lo]}{at}")
        elif op.kind in ("grad", "back"):
            name(at, f"{op.kind}_{out[op.lo]}")
        else:
            name(at, f"v{at}")
    return out


def without_path(text: str, nodes: Iterable[str]) -> str:
    """Source whose remarks do not name the folder that all `nodes` are in: equal layers then have equal
    source, which is compiled once.
    """
    folder = posixpath.commonpath([node.rpartition("/")[0] for node in nodes])
    if not folder:
        return text
    return re.sub(r"(?m)(?<=  # ).*$", lambda remark: remark[0].replace(f"{folder}/", ""), text)


def label_of(nodes: Iterable[str]) -> str:
    """What a module is called for readers: its nodes, without their folders."""
    return " ".join(node.rpartition("/")[2] for node in nodes)


class Adjoints(Protocol):
    """Adjoint ops by what they belong to: pre and shift ops, ext numbers, names of vector weights."""

    @property
    def pre(self) -> Mapping[int, int]:
        """Of each hoisted sum."""
        ...

    @property
    def ext(self) -> Mapping[int, int]:
        """Of each value from outside."""
        ...

    @property
    def params(self) -> Mapping[str, int]:
        """Of each vector weight."""
        ...

    @property
    def shifts(self) -> Mapping[int, int]:
        """Of each read at another step."""
        ...


def adjoint_names(names: Mapping[int, str], ops: Sequence[Op], d: Adjoints) -> dict[int, str]:
    """d_pre0, d_ext0 and so on for results that have no name but a number yet."""
    place = {("ext", op.lo): at for at, op in enumerate(ops) if op.kind == "ext"}
    place |= {("param", op.name): at for at, op in enumerate(ops) if op.kind == "param"}
    of = [*d.pre.items(), *((place["ext", i], g) for i, g in d.ext.items())]
    of += [*((place["param", n], g) for n, g in d.params.items()), *d.shifts.items()]
    out, taken = dict(names), set(names.values())
    for at, g in of:
        wanted = f"d_{names[at]}"
        if out[g] == f"v{g}" and wanted not in taken:
            taken.add(wanted)
            out[g] = wanted
    return out


def expression(op: Op, args: Sequence[str], forms: Mapping[str, str]) -> str:
    """The value of `op` over the texts of its arguments. Raises ValueError for a kind without a form."""
    if op.kind == "sum":
        return _sum(zip(args, op.coefs, strict=True), op.value)
    if op.kind == "prod":
        return " * ".join(args)
    if op.kind in ("copy", "expand", "stop"):
        return args[0]
    if op.kind not in forms:
        there = ", ".join(forms)
        raise ValueError(f"op '{op.kind}' has no Triton form and was not given. Forms: {there}.")
    return forms[op.kind].format(*args)


def _sum(addends: Iterable[tuple[str, float]], value: float) -> str:
    terms = [
        (coef < 0.0, text if abs(coef) == 1.0 else f"{number(abs(coef))} * {text}") for text, coef in addends
    ]
    if value != 0.0 or not terms:
        const = (value < 0.0, number(abs(value)))
        terms.insert(0 if terms and terms[0][0] else len(terms), const)
    (minus, text), *rest = terms
    return ("-" if minus else "") + text + "".join((" - " if m else " + ") + x for m, x in rest)


def folded(
    op: Op, values: Mapping[int, float], text: Mapping[int, str], forms: Mapping[str, str]
) -> str | float:
    """`expression` with numbers among the arguments (`values`, by op) taken together; a float if all are.

    Triton would round a variable that holds a number to float32.
    """
    rest = [a for a in op.args if a not in values]
    if op.kind == "prod":
        factor = math.prod(values[a] for a in op.args if a in values)
        last = [number(factor)] if factor != 1.0 else []
        return " * ".join([text[a] for a in rest] + last) if rest else factor
    if op.kind == "sum":
        terms = list(zip(op.args, op.coefs, strict=True))
        const = op.value + sum(coef * values[a] for a, coef in terms if a in values)
        return _sum([(text[a], coef) for a, coef in terms if a not in values], const) if rest else const
    if op.kind in ("copy", "expand", "stop") and not rest:
        return values[op.args[0]]
    return expression(op, [number(values[a]) if a in values else text[a] for a in op.args], forms)


def needed(ops: Sequence[Op], outputs: Iterable[int], given: Iterable[int]) -> list[int]:
    """Ops to compute or take for `outputs`, arguments first; nothing behind a given one is."""
    leaves, seen, order = frozenset(given), set[int](), list[int]()
    todo = [(at, False) for at in reversed(list(outputs))]
    while todo:
        at, ready = todo.pop()
        if ready:
            order.append(at)
        elif at not in seen:
            seen.add(at)
            todo.append((at, True))
            if at not in leaves:
                todo += [(a, False) for a in reversed(ops[at].args)]
    return order


def function(
    name: str,
    doc: str,
    ops: Sequence[Op],
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
    names: Mapping[int, str],
    forms: Mapping[str, str],
) -> str:
    """Source of a `@triton.jit` function. Its arguments are the tuples `inputs`, in the order of the mapping,
    each of the blocks of the ops that it lists; it returns the tuples `outputs` (a single one as it is).

    Raises ValueError for an op that is not given and has no form, and for an output that is just a number.
    """
    place = {at: (group, i) for group, ids in inputs.items() for i, at in enumerate(ids)}
    assert TUPLES.issuperset(inputs), f"{set(inputs) - TUPLES}: not in TUPLES, a value may have that name"
    text = dict(names)
    taken = [f"{text[at]} = {group}[{i}]{_remark(ops[at])}" for at, (group, i) in place.items()]
    lines: list[str] = []
    blocks: set[int] = set(place)
    values: dict[int, float] = {}
    for at in needed(ops, (at for ids in outputs.values() for at in ids), place):
        op = ops[at]
        if op.kind == "const":
            values[at] = op.value
        elif at not in place:
            found = folded(op, values, text, forms)
            if isinstance(found, float):
                values[at] = found
            else:
                blocks |= {at} & {at for a in op.args if a in blocks}
                lines.append(f"{text[at]} = {found}")
    numbers = [at for ids in outputs.values() for at in ids if at not in blocks]
    if numbers:
        raise ValueError(f"{name}: output {text[numbers[0]]} is a number at every step, not a block")
    results = [_tuple(text[at] for at in ids) for ids in outputs.values()]
    lines.append(f"return {', '.join(results)}")
    return _source(name, doc, list(inputs), [*taken, *lines])


def mask_keys(ops: Sequence[Op], masks: Sequence[int]) -> tuple[str, ...]:
    """Names of the masks, each once: the order of the `keys` of `mask_function`."""
    return tuple(dict.fromkeys(ops[at].name for at in masks))


def mask_function(name: str, ops: Sequence[Op], masks: Sequence[int], names: Mapping[int, str]) -> str:
    """Source of a function of (seed, keys, o_row, o_unit, COMPUTE) that gives the blocks of `masks`: ops of
    kind `random`. o_row: t * B + lane, int64; keys: of `mask_keys`.
    """
    drawn: dict[tuple[str, int], str] = {}
    lines: list[str] = []
    keys = mask_keys(ops, masks)
    for at in masks:
        op = ops[at]
        bits = drawn.get((op.name, op.size))
        if bits is None:
            bits = drawn[op.name, op.size] = f"bits{len(drawn)}"
            place = f"o_row * {op.size} + o_unit" if op.size > 1 else "o_row + o_unit * 0"
            of = op.name.partition(":")[0]
            lines.append(f"{bits} = random_bits(seed, keys[{keys.index(op.name)}], {place})  # {of}")
        threshold = int(op.value * 2**32)
        scale = f"{number(1.0 / (1.0 - op.value))}, " if op.lo == 0 else ""
        form = ("drop_mask", "zoneout_mask", "renewal_mask")[op.lo]
        lines.append(f"{names[at]} = {form}({bits}, {threshold}, {scale}COMPUTE)")
    lines.append(f"return {_tuple(names[at] for at in masks)}")
    return _source(name, "Random masks.", ["seed", "keys", "o_row", "o_unit", "COMPUTE: tl.constexpr"], lines)


def _source(name: str, doc: str, arguments: Sequence[str], lines: Iterable[str]) -> str:
    body = "".join(f"    {line}\n" for line in (f'"""{doc}"""', *lines))
    return f"@triton.jit\ndef {name}({', '.join(arguments)}):\n{body}"


def _remark(op: Op) -> str:
    if op.kind == "param":
        return f"  # {op.name}"
    if op.kind == "shift":
        return f"  # {op.name}[t{op.shift:+d}]"
    return ""


def _tuple(texts: Iterable[str]) -> str:
    parts = list(texts)
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def plumbing(name: str, doc: str, arguments: Sequence[str], results: Iterable[str]) -> str:
    """Source of a `@triton.jit` function that only picks and arranges blocks of its tuples."""
    return _source(name, doc, arguments, [f"return {_tuple(results)}"])

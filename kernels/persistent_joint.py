"""Several loops in one launch: each has programs of its own, its own barriers, tensors and tiles of lanes.

The kernels of the loops stay as they are, as functions of one kernel that only tells their programs apart.
Loops with equal source share a function.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

from kernels.launch import current_chip
from kernels.persistent import check_programs, common_arguments, grid_of, own_arguments, refusals
from kernels.persistent_layout import Layout
from kernels.persistent_source import CONSTANTS, Kernel, declared, wrapped
from kernels.watchdog import POLLS, Stuck, new_watch, raise_if_stuck

# What all loops of a launch are given alike.
COMMON = ("p_watch", "polls", "B", "seed", "COMPUTE", "PRECISION")
_HEAD = re.compile(r"^@triton\.jit\(do_not_specialize=\[.*\]\)\ndef (\w+)\(\n", re.MULTILINE)


class Part(NamedTuple):
    """A loop of a launch: what `persistent.launch` takes for it alone, and its name for errors."""

    name: str
    code: Kernel
    layout: Layout
    steps: int
    tensors: Mapping[str, Tensor]


def joint(codes: Sequence[Kernel]) -> Kernel:
    """One kernel of all. Arguments of loop i end with _i, but for `COMMON` ones; programs below END<i> are
    those of loops up to i.
    """
    imports, functions, branches = dict[str, None](), dict[str, str](), list[str]()
    for i, code in enumerate(codes):
        head = _HEAD.search(code.text)
        assert head is not None, code.text[:200]
        imports |= dict.fromkeys(line for line in code.text[: head.start()].splitlines() if line)
        body = code.text[head.end() :].replace("tl.program_id(0)", "i_program")
        name = functions.setdefault(body, f"{code.name}_{i}")
        start = f"END{i - 1}" if i else ""
        taken = ", ".join(f"{x}={_outer(x, i)}" for x in (*code.arguments, *code.scalars))
        program = f"i_program - {start}" if start else "i_program"
        word = "if" if not i else "elif"
        branches.append("else:" if i == len(codes) - 1 else f"{word} i_program < END{i}:")
        branches += [f"    {name}(", *_lines(f"i_program={program}, {taken}"), "    )"]
    arguments = tuple(dict.fromkeys(_outer(x, i) for i, c in enumerate(codes) for x in c.arguments))
    scalars = list(dict.fromkeys(_outer(x, i) for i, c in enumerate(codes) for x in c.scalars))
    ends = [f"END{i}" for i in range(len(codes) - 1)]
    fixed = [x for x in scalars if _inner(x) in CONSTANTS or x.startswith("s_")]
    loose = [*ends, *(x for x in scalars if x not in fixed)]
    scalars = [*loose, *fixed]
    name = f"joint_{codes[0].name}"
    signature = ", ".join([*arguments, *(_declared(x) for x in scalars)])
    lines = [f'"""{len(codes)} loops side by side."""', "i_program = tl.program_id(0)", *branches]
    text = "".join(f"{line}\n" for line in imports) + "\n\n" * bool(imports)
    for body, function in functions.items():
        text += f"@triton.jit\ndef {function}(\n    i_program,\n{body}\n\n"
    names = ", ".join(f'"{x}"' for x in loose)
    text += f"@triton.jit(do_not_specialize=[{names}])\ndef {name}(\n{wrapped(signature)}\n):\n"
    return Kernel(name, text + "".join(f"    {line}\n" for line in lines), arguments, tuple(scalars))


def _outer(name: str, i: int) -> str:
    """What the joint kernel calls an argument of loop i."""
    return name if name in COMMON else f"{name}_{i}"


def _inner(name: str) -> str:
    return name if name in COMMON else name.rpartition("_")[0]


def _declared(name: str) -> str:
    return f"{name}: tl.constexpr" if declared(_inner(name)) != _inner(name) else name


def _lines(text: str) -> list[str]:
    return [f"    {line}" for line in wrapped(text).splitlines()]


def launch_joint(
    code: Kernel,
    module: ModuleType,
    parts: Sequence[Part],
    lanes: int,
    seed: int,
    polls: int | bool = True,
) -> None:
    """Run `joint` of the parts' kernels, whose layouts have the same number of warps. As `persistent.launch`;
    raises NoRoom where not all programs can be there at once.
    """
    layouts = [part.layout for part in parts]
    assert len({layout.warps for layout in layouts}) == 1, layouts
    like = next(iter(parts[0].tensors.values()))
    grids = [grid_of(layout, lanes) for layout in layouts]
    *ends, grid = accumulate(grids)
    if any(layout.programs > 1 for layout in layouts):
        check_programs(grid, current_chip(like.device))
    watch = new_watch(grid, like.device) if "p_watch" in code.arguments else None
    masks = any(part.code.keys for part in parts)
    arguments: dict[str, Any] = {f"END{i}": end for i, end in enumerate(ends)}
    for i, part in enumerate(parts):
        own = own_arguments(part.code, part.layout, part.steps, lanes, part.tensors)
        arguments |= {_outer(name, i): x for name, x in own.items()}
    arguments |= common_arguments(layouts, parts[0].tensors, lanes, seed if masks else None)
    if watch is not None:
        arguments |= {"p_watch": watch, "polls": POLLS if polls is True else polls}
    spread = " and ".join(f"{layout.programs} with {layout.lanes} lanes" for layout in layouts)
    with refusals(f"each of the programs ({spread})", grid):
        getattr(module, code.name)[(grid,)](**arguments)
    if watch is None:
        return
    for part, start, end in zip(parts, [0, *ends], [*ends, grid], strict=True):
        try:
            raise_if_stuck(watch[start:end], part.layout.programs)
        except Stuck as e:
            raise Stuck(f"loop {part.name}: {e.cause}") from e

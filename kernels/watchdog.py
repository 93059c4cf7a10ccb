"""A hang as an error: kernels whose programs wait for each other, with a limit to how long.

For tests and for the first runs on a new GPU. A kernel without it has no instruction of it.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from kernels.persistent_source import Kernel

# About three seconds on an H100 if a poll takes as long as an atomic read of L2, 0.7 microseconds (not
# measured): far longer than any step, even where another process has the GPU for a while.
POLLS = 1 << 22
ROW = 4  # int32 of a program: 1 if it gave up, the barrier, the step, how many arrivals it saw

_WAIT = re.compile(r"^( *)wait\(p_bar, (.*)\)$", re.MULTILINE)
_IMPORT = "from kernels.barrier import wait_up_to\n\n\n"


class Stuck(RuntimeError):
    """Programs of a kernel have waited longer than the watchdog allows. `cause` says which, and where."""

    def __init__(self, cause: str):
        self.cause = cause
        super().__init__(cause)


def watched(code: Kernel) -> Kernel:
    """The kernel with a limit to each wait. One that waits for nobody is returned as it is.

    A program that waited too long notes it in `p_watch` and waits no more: it goes through its other steps
    with whatever it finds, so that the launch ends.
    """
    found = 0

    def limited(match: re.Match[str]) -> str:
        nonlocal found
        found += 1
        blanks, target = match.groups()
        return f"{blanks}polls = wait_up_to(p_bar, {target}, polls, p_watch, {found}, s)"

    text = _WAIT.sub(limited, code.text)
    if not found:
        return code
    text = text.replace("do_not_specialize=[", 'do_not_specialize=["polls", ', 1)
    text = text.replace(f"def {code.name}(\n", f"def {code.name}(\n    p_watch, polls,\n", 1)
    arguments, scalars = ("p_watch", *code.arguments), ("polls", *code.scalars)
    return replace(code, text=_IMPORT + text, arguments=arguments, scalars=scalars)


def new_watch(programs: int, device: torch.device | str) -> Tensor:
    """Where programs note that they gave up, int32 [programs, ROW]."""
    return torch.zeros(programs, ROW, dtype=torch.int32, device=device)


def raise_if_stuck(watch: Tensor, programs: int) -> None:
    """Raises Stuck when a program gave up; waits for the kernel. programs: that share a tile of lanes."""
    rows = watch.tolist()
    late = [(step, barrier, i, seen) for i, (gave_up, barrier, step, seen) in enumerate(rows) if gave_up]
    if not late:
        return
    step, barrier, first, seen = min(late)
    group = f" in group {first // programs}" if len(rows) > programs else ""
    raise Stuck(
        f"program {first % programs} of {programs}{group} waited too long at barrier {barrier} of step "
        f"{step}, where {seen} arrivals were counted; {len(late)} of {len(rows)} programs gave up"
    )

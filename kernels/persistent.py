"""Launches of the persistent kernels: which tensor is which argument (for source: `persistent_source.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

from kernels.barrier import new_counters
from kernels.codecache import load
from kernels.elementwise import as_rows
from kernels.launch import INTERPRETER, Chip, current_chip
from kernels.persistent_layout import Layout
from kernels.persistent_source import Kernel, module_text
from kernels.watchdog import POLLS, new_watch, raise_if_stuck


class NoRoom(RuntimeError):
    """A launch that this GPU has no room for: `cause` and a `fix`."""

    def __init__(self, cause: str, fix: str):
        self.cause, self.fix = cause, fix
        super().__init__(f"{cause}. {fix}")


def compile_code(code: Kernel, label: str, folder: Path | None = None) -> ModuleType:
    """The generated kernel as a module, kept in `folder` (see `codecache`)."""
    return load(module_text([code]), label, folder)


def launch(
    code: Kernel,
    module: ModuleType,
    layout: Layout,
    steps: int,
    lanes: int,
    seed: int,
    tensors: Mapping[str, Tensor],
    polls: int | bool = True,
) -> None:
    """Run a kernel on `tensors`, by the names of its arguments without `p_` (see `Kernel`).

    ext and grad [T, B, size] may have any strides; all others are packed. seed: of random masks; polls: the
    limit of a kernel with a watchdog (True: POLLS). Raises NoRoom for what cannot be on the GPU at the same
    time, before anything waits for ever, and Stuck when a watchdog bit.
    """
    dtype = next(x.dtype for x in tensors.values() if x.is_floating_point())
    like = next(iter(tensors.values()))
    tiles = triton.cdiv(lanes, layout.lanes)
    groups = min(tiles, layout.groups)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    grid = layout.programs * groups if layout.programs > 1 else tiles
    check_grid(layout, grid, current_chip(like.device))
    tensors = {**tensors, **_exchanged(code, layout, steps, lanes, like, dtype, compute)}
    watch = new_watch(grid, like.device) if "p_watch" in code.arguments else None
    if watch is not None:
        tensors["watch"] = watch
    arguments: dict[str, Any] = {}
    for name in code.arguments:
        x = tensors[name[2:]]
        if name.startswith(("p_ext", "p_grad")):
            rows = as_rows(x, x.shape[2])
            x = rows.tensor
            arguments[f"s_{name[2:]}"], arguments[f"s_unit_{name[2:]}"] = rows.lane, rows.unit
        else:
            assert x.is_contiguous(), name
        arguments[name] = x
    if current_chip(like.device).name.startswith("sm_"):
        # As many as there are: else ptxas makes room for a second program, which there is not, and spills.
        arguments["maxnreg"] = 255
    if layout.programs > 1:
        # A grid that cannot be on the chip as a whole is refused then: its programs would wait for ever.
        arguments |= {"GROUPS": groups, "launch_cooperative_grid": True}
    if code.keys:
        arguments |= {"seed": int32(seed), **{f"key{i}": key for i, key in enumerate(code.keys)}}
    if watch is not None:
        arguments["polls"] = POLLS if polls is True else polls
    with _refusals(layout, grid):
        getattr(module, code.name)[(grid,)](
            **arguments,
            T=steps,
            B=lanes,
            BB=layout.lanes,
            COMPUTE=tl.float64 if compute == torch.float64 else tl.float32,
            PRECISION=precision(like.device, dtype),
            num_warps=layout.warps,
            enable_fp_fusion=True,
        )
    if watch is not None:
        raise_if_stuck(watch, layout.programs)


def check_grid(layout: Layout, grid: int, chip: Chip) -> None:
    """Raises NoRoom for a grid whose programs wait for each other and cannot all be there: each takes a whole
    multiprocessor. The interpreter has room for any.
    """
    if layout.programs > 1 and chip != INTERPRETER and grid > chip.units:
        raise NoRoom(
            f"{grid} programs wait for each other, this GPU has {chip.units} multiprocessors for them",
            "Was the plan made for another GPU, or for all of one that is shared out (MIG)? Move the network "
            "there with net.to(...), which plans again, or take runner=torch.",
        )


@contextmanager
def _refusals(layout: Layout, grid: int) -> Iterator[None]:
    """What Triton and the driver say when there is no room, as NoRoom."""
    smaller = "Take runner=streamed or runner=torch; a row of a tuning file that asks for it must go."
    try:
        yield
    except OutOfResources as e:
        spread = f"each of {layout.programs} programs with {layout.lanes} lanes"
        cause = f"{spread} needs {e.required} of {e.name}, there is {e.limit}"
        raise NoRoom(cause, smaller) from e
    except RuntimeError as e:
        if "cooperative" not in str(e).lower():
            raise
        cause = f"the driver refuses {grid} programs that wait for each other ({e})"
        raise NoRoom(cause, f"Does other work hold part of the GPU? {smaller}") from e


def _exchanged(
    code: Kernel,
    layout: Layout,
    steps: int,
    lanes: int,
    like: Tensor,
    dtype: torch.dtype,
    compute: torch.dtype,
) -> dict[str, Tensor]:
    """Where programs meet: counters of barriers, values that only they read, partial statistics."""
    out: dict[str, Tensor] = {}
    for at, size, wide in code.exchanged:
        out[f"x{at}"] = like.new_empty((steps, lanes, size), dtype=compute if wide else dtype)
    if code.statistics:
        tiles = triton.cdiv(lanes, layout.lanes)
        shape = (2, tiles, code.statistics, layout.programs, layout.lanes)
        out["stat"] = like.new_empty(shape, dtype=compute)
    if "p_counter" in code.arguments:
        out["counter"] = new_counters(triton.cdiv(lanes, layout.lanes), like.device)
    return out


def precision(device: torch.device, dtype: torch.dtype) -> str:
    """How products of float32 are made: as torch's are told to; without tf32, on tensor cores of NVIDIA in
    three parts, whose error is that of float32 (ieee products without tensor cores break LLVM at 64 units).
    """
    chip = current_chip(device).name
    if dtype != torch.float32 or chip in ("interpreter", "gfx9"):
        return "ieee"
    # The old setting, allow_tf32, cannot be read once both were used.
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


def int32(x: int) -> int:
    """The low 32 bits as a signed number: another type of argument would compile again."""
    return (x + 2**31) % 2**32 - 2**31

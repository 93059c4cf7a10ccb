"""Launches of the persistent kernels: which tensor is which argument (for source: `persistent_source.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    grid = grid_of(layout, lanes)
    device = next(iter(tensors.values())).device
    check_grid(layout, grid, current_chip(device))
    watch = new_watch(grid, device) if "p_watch" in code.arguments else None
    arguments = own_arguments(code, layout, steps, lanes, tensors)
    arguments |= common_arguments([layout], tensors, lanes, seed if code.keys else None)
    if watch is not None:
        arguments |= {"p_watch": watch, "polls": POLLS if polls is True else polls}
    with refusals(f"each of {layout.programs} programs with {layout.lanes} lanes", grid):
        getattr(module, code.name)[(grid,)](**arguments)
    if watch is not None:
        raise_if_stuck(watch, layout.programs)


def grid_of(layout: Layout, lanes: int) -> int:
    """Programs of a launch."""
    tiles = triton.cdiv(lanes, layout.lanes)
    return layout.programs * min(tiles, layout.groups) if layout.programs > 1 else tiles


def own_arguments(
    code: Kernel, layout: Layout, steps: int, lanes: int, tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Arguments that are a loop's own, by name: steps, tensors, their strides, how it is spread, keys."""
    tensors = {**tensors, **_exchanged(code, layout, steps, lanes, tensors)}
    out: dict[str, Any] = {"T": steps, "BB": layout.lanes}
    for name in code.arguments:
        if name == "p_watch":
            continue
        x = tensors[name[2:]]
        if name.startswith(("p_ext", "p_grad")):
            rows = as_rows(x, x.shape[2])
            x = rows.tensor
            out[f"s_{name[2:]}"], out[f"s_unit_{name[2:]}"] = rows.lane, rows.unit
        else:
            assert x.is_contiguous(), name
        out[name] = x
    if layout.programs > 1:
        out["GROUPS"] = min(triton.cdiv(lanes, layout.lanes), layout.groups)
    return out | {f"key{i}": key for i, key in enumerate(code.keys)}


def common_arguments(
    layouts: Sequence[Layout], tensors: Mapping[str, Tensor], lanes: int, seed: int | None
) -> dict[str, Any]:
    """Arguments that all loops of a launch share, and how it is made. seed: of random masks, if there are."""
    dtype, like = _dtype(tensors), next(iter(tensors.values()))
    out: dict[str, Any] = {
        "B": lanes,
        "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
        "PRECISION": precision(like.device, dtype),
        "num_warps": layouts[0].warps,
        "enable_fp_fusion": True,
    }
    if seed is not None:
        out["seed"] = int32(seed)
    if current_chip(like.device).name.startswith("sm_"):
        # As many as there are: else ptxas makes room for a second program, which there is not, and spills.
        out["maxnreg"] = 255
    if any(layout.programs > 1 for layout in layouts):
        # A grid that cannot be on the chip as a whole is refused then: its programs would wait for ever.
        out["launch_cooperative_grid"] = True
    return out


def _dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    return next(x.dtype for x in tensors.values() if x.is_floating_point())


def check_grid(layout: Layout, grid: int, chip: Chip) -> None:
    """Raises NoRoom for a grid whose programs wait for each other and cannot all be there."""
    if layout.programs > 1:
        check_programs(grid, chip)


def check_programs(grid: int, chip: Chip) -> None:
    """Raises NoRoom for programs that cannot all be there at once: each takes a whole multiprocessor. The
    interpreter has room for any.
    """
    if chip != INTERPRETER and grid > chip.units:
        raise NoRoom(
            f"{grid} programs wait for each other, this GPU has {chip.units} multiprocessors for them",
            "Was the plan made for another GPU, or for all of one that is shared out (MIG)? Move the network "
            "there with net.to(...), which plans again, or take runner=torch.",
        )


@contextmanager
def refusals(spread: str, grid: int) -> Iterator[None]:
    """What Triton and the driver say when there is no room for `spread`, as NoRoom."""
    smaller = "Take runner=streamed or runner=torch; a row of a tuning file that asks for it must go."
    try:
        yield
    except OutOfResources as e:
        cause = f"{spread} needs {e.required} of {e.name}, there is {e.limit}"
        raise NoRoom(cause, smaller) from e
    except RuntimeError as e:
        if "cooperative" not in str(e).lower():
            raise
        cause = f"the driver refuses {grid} programs that wait for each other ({e})"
        raise NoRoom(cause, f"Does other work hold part of the GPU? {smaller}") from e


def _exchanged(
    code: Kernel, layout: Layout, steps: int, lanes: int, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Where programs meet: counters of barriers, values that only they read, partial statistics."""
    like, dtype = next(iter(tensors.values())), _dtype(tensors)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
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

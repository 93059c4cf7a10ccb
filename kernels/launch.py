"""How to launch a matmul on which chip: tables, no kernels. Planning reads them, without torch and triton.

None of these rows has been measured yet: they come from what compiles without spills for each chip and fits
its shared memory (tests/kernels/test_compiled_gemm.py checks it).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Kind = Literal["half", "tf32", "ieee"]
Backend = Literal["triton", "torch"]


@dataclass(frozen=True)
class GemmTile:
    """Block sizes of one program: `bm` x `bn` of the output, `bk` of the reduction at a time.

    `group` tiles in a column are done before the next column (they share a block of b in L2). `tma`: 16-bit
    operands come by tensor descriptors where their strides and alignment allow it.
    """

    bm: int
    bn: int
    bk: int
    group: int = 8
    warps: int = 4
    stages: int = 3
    tma: bool = False


@dataclass(frozen=True)
class GemmRow:
    """Table row: for products of `kind` on `chip` with at most `max_m` rows of output, and `max_n` columns.

    `wide`: only for operands that are loaded in blocks of 16 bytes; a large tile of narrow loads would spill.
    A tile with `tma` is only for operands that a tensor map can describe. `backend`: who is faster at it: by
    a measurement on the chip if `measured` (the commit names its results), else who is meant to be.
    """

    chip: str
    kind: Kind
    tile: GemmTile
    wide: bool = False
    max_m: int | None = None
    max_n: int | None = None
    backend: Backend = "triton"
    measured: bool = False


@dataclass(frozen=True)
class Operands:
    """What their strides and addresses allow. Triton sees 16 bytes where strides are multiples of 16
    elements.
    """

    wide: bool = True
    mapped: bool = True


@dataclass(frozen=True)
class GemmLaunch:
    """A decided launch: `splits` parts of the reduction (summed in order), `programs` programs in the
    grid.
    """

    tile: GemmTile
    splits: int
    programs: int
    backend: Backend = "triton"
    measured: bool = False


@dataclass(frozen=True)
class Chip:
    """A device as the tables see it: `name` is a table key, `units` its multiprocessors (compute units),
    `gpu` what the product is called, for what was measured on it.
    """

    name: str
    units: int
    gpu: str = ""


# Who multiplies in a network where a row has not been measured on a GPU. A row with `measured=True` says it
# itself; a network that is asked for products="triton" or "torch" does as told.
UNMEASURED: Backend = "torch"

# The first row that fits is taken, so small shapes stand before large ones.
GEMM_TABLE: tuple[GemmRow, ...] = (
    GemmRow("sm_90", "half", GemmTile(16, 64, 128, warps=4, stages=4), wide=True, max_m=16),
    GemmRow("sm_90", "half", GemmTile(64, 64, 64, warps=4, stages=4), wide=True, max_m=64),
    GemmRow("sm_90", "half", GemmTile(128, 64, 64, warps=4, stages=4, tma=True), max_n=64),
    GemmRow("sm_90", "half", GemmTile(128, 128, 64, warps=8, stages=4, tma=True), max_n=512),
    GemmRow("sm_90", "half", GemmTile(128, 256, 64, warps=8, stages=3, tma=True)),
    GemmRow("sm_90", "half", GemmTile(128, 128, 64, warps=8, stages=4), wide=True),
    GemmRow("sm_90", "half", GemmTile(64, 64, 32, warps=4, stages=2)),
    GemmRow("sm_90", "tf32", GemmTile(128, 128, 32, warps=8, stages=4), wide=True),
    GemmRow("sm_90", "tf32", GemmTile(64, 64, 32, warps=4, stages=3)),
    GemmRow("sm_90", "ieee", GemmTile(64, 64, 16, warps=4, stages=3)),
    GemmRow("sm_100", "half", GemmTile(64, 64, 64, warps=4, stages=4), wide=True, max_m=64),
    GemmRow("sm_100", "half", GemmTile(128, 128, 64, warps=8, stages=4, tma=True)),
    GemmRow("sm_100", "half", GemmTile(128, 128, 64, warps=8, stages=4), wide=True),
    GemmRow("sm_100", "half", GemmTile(64, 64, 32, warps=4, stages=2)),
    GemmRow("sm_100", "tf32", GemmTile(128, 128, 32, warps=8, stages=4), wide=True),
    GemmRow("sm_100", "tf32", GemmTile(64, 64, 32, warps=4, stages=3)),
    GemmRow("sm_100", "ieee", GemmTile(64, 64, 16, warps=4, stages=3)),
    GemmRow("sm_80", "half", GemmTile(16, 64, 64, warps=4, stages=4), wide=True, max_m=16),
    GemmRow("sm_80", "half", GemmTile(64, 64, 64, warps=4, stages=4), wide=True, max_m=64),
    GemmRow("sm_80", "half", GemmTile(128, 128, 32, warps=8, stages=4), wide=True),
    GemmRow("sm_80", "half", GemmTile(64, 64, 32, warps=4, stages=2)),
    GemmRow("sm_80", "tf32", GemmTile(64, 128, 32, warps=4, stages=3), wide=True),
    GemmRow("sm_80", "tf32", GemmTile(64, 64, 32, warps=4, stages=3)),
    GemmRow("sm_80", "ieee", GemmTile(64, 64, 16, warps=4, stages=3)),
    GemmRow("gfx9", "half", GemmTile(64, 64, 64, warps=4, stages=2), wide=True, max_m=64),
    GemmRow("gfx9", "half", GemmTile(128, 128, 64, warps=4, stages=2), wide=True),
    GemmRow("gfx9", "half", GemmTile(64, 64, 32, warps=4, stages=2)),
    GemmRow("gfx9", "tf32", GemmTile(64, 64, 32, warps=4, stages=2)),
    GemmRow("gfx9", "ieee", GemmTile(64, 64, 16, warps=4, stages=2)),
    # The interpreter: small, so that tests see several tiles; three programs, so that each does several.
    GemmRow("interpreter", "half", GemmTile(16, 32, 16, group=2)),
    GemmRow("interpreter", "tf32", GemmTile(16, 32, 16, group=2)),
    GemmRow("interpreter", "ieee", GemmTile(16, 32, 16, group=2)),
)

INTERPRETER = Chip("interpreter", units=3)
MIN_STEPS = 8  # a split does at least so many blocks of the reduction: its partial sum must be worth writing


def gemm_launch(
    chip: Chip,
    kind: Kind,
    m: int,
    n: int,
    k: int,
    operands: Operands = Operands(),
    table: tuple[GemmRow, ...] | None = None,
) -> GemmLaunch:
    """Choose a launch for [m, k] x [k, n]; only shapes and strides decide, so equal calls sum in equal order.

    `table`: what this user has measured (see `tuning.py`), then GEMM_TABLE, unless another is given. Raises
    LookupError when the table has no row.
    """
    rows = GEMM_TABLE if table is None else table
    row = _tuned(chip, kind, m, n, k, operands) if chip.gpu and table is None else None
    row = row or next((row for row in rows if _fits(row, chip, kind, m, n, operands)), None)
    if row is None:
        raise LookupError(
            f"kernels.launch: no row for {kind} products on {chip.name}. Add one to GEMM_TABLE."
        )
    tile = row.tile
    tiles = max(1, -(-m // tile.bm) * -(-n // tile.bn))
    steps = -(-k // tile.bk)
    splits = max(1, min(chip.units // tiles, steps // MIN_STEPS))
    if splits > 1:  # no split may be empty
        per_split = -(-steps // splits)
        splits = -(-steps // per_split)
    return GemmLaunch(tile, splits, min(chip.units, tiles * splits), row.backend, row.measured)


def hoisted_backend(launch: GemmLaunch, forced: bool = False) -> Backend:
    """Who does a product of a network: as the row says once it is measured; `forced`: triton in any case."""
    if forced:
        return "triton"
    return launch.backend if launch.measured else UNMEASURED


def describe(launch: GemmLaunch) -> str:
    """One line for plans and logs, e.g. `triton 128x256x64, 8 warps, 3 stages, 132 programs` or `torch`."""
    if launch.backend == "torch":
        return "torch"
    copies = ", tma" if launch.tile.tma else ""
    splits = f", reduction in {launch.splits}" if launch.splits > 1 else ""
    blocks = f"{blocks_of(launch.tile)}, {launch.tile.stages} stages{copies}"
    return f"triton {blocks}, {launch.programs} programs{splits}"


def blocks_of(tile: GemmTile) -> str:
    """`128x256x64, 8 warps`."""
    return f"{tile.bm}x{tile.bn}x{tile.bk}, {tile.warps} warps"


def current_chip(device: torch.device) -> Chip:
    """The chip behind `device`. Under TRITON_INTERPRET=1 it is the interpreter, for CPU tensors too."""
    import triton

    if triton.knobs.runtime.interpret:
        return INTERPRETER
    driver = triton.runtime.driver.active  # raises when there is no GPU, and says so
    return _chip(driver.get_current_device() if device.index is None else device.index)


@functools.cache
def _chip(device: int) -> Chip:
    import torch
    import triton

    driver = triton.runtime.driver.active
    target = driver.get_current_target()
    units = driver.utils.get_device_properties(device)["multiprocessor_count"]
    # What torch does not see is a driver's stand-in, on which nothing was measured.
    gpu = torch.cuda.get_device_name(device) if torch.cuda.is_available() else ""
    return Chip(chip_name(target.backend, target.arch), units, gpu)


def chip_name(backend: str, arch: int | str) -> str:
    """Table key of an architecture, e.g. ("cuda", 89) -> sm_80: the newest known one that is not newer.

    Consumer chips (sm_86, sm_89, sm_120) have 99 KB of shared memory: the rows of sm_80 stay below it.
    """
    if backend != "cuda":
        return "gfx9"
    if arch in (100, 103):
        return "sm_100"
    return "sm_90" if arch == 90 else "sm_80"


def _tuned(chip: Chip, kind: Kind, m: int, n: int, k: int, operands: Operands) -> GemmRow | None:
    """What this user has measured on the GPU."""
    from kernels.tuning import active  # lazily: it knows of persistent loops, too

    found = active().product(chip.gpu, kind, m, n, k, operands)
    if found is None:
        return None
    known = [r for r in GEMM_TABLE if r.tile == found.tile and _fits(r, chip, kind, 0, 0, operands)]
    return replace(known[0], backend=found.backend, measured=True) if known else None


def _fits(row: GemmRow, chip: Chip, kind: Kind, m: int, n: int, operands: Operands) -> bool:
    small = (row.max_m is None or m <= row.max_m) and (row.max_n is None or n <= row.max_n)
    loads = (operands.wide or not row.wide) and (operands.mapped or not row.tile.tma)
    return row.chip == chip.name and row.kind == kind and small and loads

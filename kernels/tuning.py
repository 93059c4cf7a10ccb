"""What was measured on GPUs: layouts of persistent loops and who multiplies, by GPU, shape and dtype.

Rows of LOOP_TABLE come with the project; rows of a file (`scripts/tune.py` writes it) are of this user's own
GPUs and go before them. No torch and no triton: plans read it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kernels.codecache import default_folder, write
from kernels.launch import GEMM_TABLE, Backend, GemmTile, Kind, Operands
from kernels.persistent_cell import Cell
from kernels.persistent_layout import Layout

FORMAT = 1
# What decides how fast a layout is, beside the GPU: another version of these has to be measured again.
SOURCES = ("persistent*.py", "barrier.py", "rows.py", "activations.py")
WARPS = (1, 2, 4, 8)  # with 16, threads have no 255 registers
# Fields of a layout that a row may say, each a power of 2 but the first, last and `loaded`.
POWERS = ("lanes", "chunk", "splits", "least")


class TuningError(ValueError):
    """A file of measurements that says something impossible: `place`, `cause`, `fix`."""

    def __init__(self, place: str, cause: str, fix: str):
        self.place, self.cause, self.fix = place, cause, fix
        super().__init__(f"{place}: {cause}. {fix}")


@dataclass(frozen=True)
class LoopRow:
    """The fastest `layout` of a loop on `gpu` (a product's name; in LOOP_TABLE also a chip) for at most
    `lanes` lanes, and more than the next smaller row.

    cell: its `cell_key`; name and microseconds (forward, backward, of a step) are for readers. streamed: for
    the runner that loads weights at every step. versions: see `versions_now`.
    """

    gpu: str
    cell: str
    dtype: str
    lanes: int
    layout: Layout
    streamed: bool = False
    name: str = ""
    microseconds: tuple[float, float] = (0.0, 0.0)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProductRow:
    """Who is faster at [m, k] x [k, n] on `gpu`; m and k are for all that round up to the same power of 2."""

    gpu: str
    kind: Kind
    m: int
    n: int
    k: int
    backend: Backend
    tile: GemmTile
    wide: bool = True
    mapped: bool = True
    microseconds: tuple[float, float] = (0.0, 0.0)  # triton, torch
    versions: Mapping[str, str] = field(default_factory=dict)


# Measured on a GPU, each row with the commit that holds its results. None has been yet: the model of
# persistent_choice.py decides.
LOOP_TABLE: tuple[LoopRow, ...] = ()


@dataclass(frozen=True)
class Tuning:
    """All that one file says, of any GPU and version."""

    loops: tuple[LoopRow, ...] = ()
    products: tuple[ProductRow, ...] = ()

    def layouts(self, gpu: str, chip: str, cell: str, dtype: str, streamed: bool) -> dict[int, Layout]:
        """Most lanes -> layout, fewest first: of this file as it was measured with what is here now, then
        those of the project.
        """
        known, now = (cell, dtype, streamed), versions_now()
        own = [r for r in self.loops if gpu and r.gpu == gpu and r.versions == now]
        ours = [r for r in LOOP_TABLE if r.gpu in (gpu, chip) and r.lanes not in {o.lanes for o in own}]
        found = {r.lanes: r.layout for r in [*ours, *own] if (r.cell, r.dtype, r.streamed) == known}
        return dict(sorted(found.items()))

    def product(self, gpu: str, kind: Kind, m: int, n: int, k: int, operands: Operands) -> ProductRow | None:
        """Who was faster, or None where nobody has measured."""
        return self._products.get((gpu, kind, bucket(m), n, bucket(k), operands.wide, operands.mapped))

    @functools.cached_property
    def _products(self) -> dict[tuple[Any, ...], ProductRow]:
        now = versions_now()
        rows = [r for r in self.products if r.versions == now]
        return {(r.gpu, r.kind, bucket(r.m), r.n, bucket(r.k), r.wide, r.mapped): r for r in rows}

    def joined(self, more: Tuning) -> Tuning:
        """These rows and `more`, which take the place of those about the same."""
        loops = {(r.gpu, r.cell, r.dtype, r.lanes, r.streamed): r for r in (*self.loops, *more.loops)}
        products = {
            (r.gpu, r.kind, bucket(r.m), r.n, bucket(r.k), r.wide, r.mapped): r
            for r in (*self.products, *more.products)
        }
        return Tuning(tuple(loops.values()), tuple(products.values()))


def bucket(n: int) -> int:
    """The power of 2 that is not below n."""
    return 1 << (n - 1).bit_length()


def cell_key(cell: Cell) -> str:
    """A loop by its content, sizes included: equal for equal layers of a stack, whatever their names."""
    places: dict[str, int] = {}

    def place(name: str) -> int:
        return places.setdefault(name, len(places))

    ops = [
        (o.kind, tuple(o.args), o.size, place(o.name), o.shift, tuple(o.coefs), o.value, o.lo)
        for o in cell.ops
    ]
    weights = sorted((place(n), w.tensor, w.lo, w.rows, w.cols, w.blocks) for n, w in cell.weights.items())
    states = sorted((place(n), cell.roots[n], d) for n, d in cell.states.items())
    rest = (tuple(cell.outputs), sorted(cell.columns.items()), cell.width, cell.forward)
    return hashlib.sha256(repr((ops, weights, states, rest)).encode()).hexdigest()[:16]


@functools.cache
def versions_now() -> Mapping[str, str]:
    """What a measurement depends on beside the GPU: triton and the kernels' source."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(folder.glob(pattern)):
            digest.update(path.read_bytes())
    found = ""
    for package in ("triton", "pytorch-triton-rocm", "triton-windows"):
        try:
            found = version(package)
            break
        except PackageNotFoundError:
            continue
    return {"triton": found, "kernels": digest.hexdigest()[:16]}


# The file --------------------------------------------------------------------------------------------------


def default_file() -> Path:
    """The user's own measurements."""
    return default_folder().parent / "tuning.json"


_used: Path | None = None


def use(path: str | Path | None) -> None:
    """Take measurements from this file in plans from now on; None: from the user's. Raises TuningError."""
    global _used
    _used = None if path is None else Path(path)
    active.cache_clear()
    if path is None:
        return
    if not Path(path).is_file():
        raise TuningError(str(path), "there is no such file", "scripts/tune.py writes one.")
    active()


@functools.cache
def active() -> Tuning:
    """What is measured, read once. Raises TuningError."""
    return read(_used or default_file())


def read(path: Path) -> Tuning:
    """A file's rows; none where there is no file. Raises TuningError, which names the row."""
    if not path.is_file():
        return Tuning()
    again = "Mend it, or delete the file and run scripts/tune.py again."
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise TuningError(str(path), f"it cannot be read as JSON ({e})", again) from e
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise TuningError(str(path), f"it is not of format {FORMAT}", again)
    rows: dict[str, list[Any]] = {"loops": [], "products": []}
    for group, make in (("loops", _loop_row), ("products", _product_row)):
        for i, row in enumerate(found.get(group, [])):
            try:
                rows[group].append(make(row))
            except (TypeError, ValueError, KeyError) as e:
                raise TuningError(f"{path}: {group}[{i}]", _cause(e), again) from e
    return Tuning(tuple(rows["loops"]), tuple(rows["products"]))


def save(tuning: Tuning, path: Path) -> None:
    """Write a file, whole or not at all. Raises OSError."""
    rows = {"format": FORMAT, "loops": [_plain(r) for r in tuning.loops]}
    rows["products"] = [_plain(r) for r in tuning.products]
    write(json.dumps(rows, indent=1) + "\n", path)


def _plain(row: LoopRow | ProductRow) -> dict[str, Any]:
    found = asdict(row)
    if isinstance(row, LoopRow):
        found["layout"] = {name: getattr(row.layout, name) for name in LAYOUT_FIELDS}
    return found


# Those that a file says of a layout.
LAYOUT_FIELDS = tuple(f.name for f in fields(Layout) if f.type == "int")


def _loop_row(row: Mapping[str, Any]) -> LoopRow:
    _known(row, LoopRow)
    _known(row["layout"], Layout, LAYOUT_FIELDS)
    numbers: dict[str, Any] = {name: _whole(name, n) for name, n in row["layout"].items()}
    layout = Layout(**numbers)
    wrong = malformed(layout)
    if wrong:
        raise ValueError(wrong)
    if _whole("lanes", row["lanes"]) < 1:
        raise ValueError("lanes is less than 1")
    return LoopRow(**{**row, "layout": layout, "microseconds": tuple(row.get("microseconds", (0.0, 0.0)))})


def _product_row(row: Mapping[str, Any]) -> ProductRow:
    _known(row, ProductRow)
    _known(row["tile"], GemmTile)
    tile = GemmTile(**row["tile"])
    operands = Operands(row.get("wide", True), row.get("mapped", True))
    ours = [r for r in GEMM_TABLE if r.kind == row["kind"] and r.tile == tile]
    if not any((operands.wide or not r.wide) and (operands.mapped or not tile.tma) for r in ours):
        raise ValueError(f"GEMM_TABLE has no such tile for products of {row['kind']} and these operands")
    if row["backend"] not in ("triton", "torch"):
        raise ValueError(f"backend is '{row['backend']}': triton or torch")
    return ProductRow(**{**row, "tile": tile, "microseconds": tuple(row.get("microseconds", (0.0, 0.0)))})


def malformed(layout: Layout) -> str:
    """What no GPU can run of a layout, or ""."""
    for name in POWERS:
        n = getattr(layout, name)
        if n < 1 or n & (n - 1):
            return f"{name} is {n}, which is no power of 2"
    for name in ("warps", "back_warps"):
        if getattr(layout, name) not in WARPS:
            return f"{name} is {getattr(layout, name)}: one of {', '.join(map(str, WARPS))}"
    if layout.back_splits < 1 or layout.back_splits & (layout.back_splits - 1):
        return f"back_splits is {layout.back_splits}, which is no power of 2"
    if layout.programs < 1 or layout.groups < 1:
        return "there is no program in it"
    if min(layout.resident, layout.loaded) < 0:
        return "resident or loaded is negative"
    if layout.chunk < 16 or layout.lanes > 256 or layout.chunk > 1024:
        return f"blocks of {layout.chunk} units and {layout.lanes} lanes: 16 to 1024, and up to 256"
    return ""


def _known(row: Mapping[str, Any], kind: type, names: tuple[str, ...] = ()) -> None:
    more = set(row) - set(names or (f.name for f in fields(kind)))
    if more:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(more))}")


def _whole(name: str, n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int):
        raise ValueError(f"{name} is {n!r}, which is no whole number")
    return n


def _cause(e: Exception) -> str:
    return f"{e.args[0]} is missing" if isinstance(e, KeyError) else str(e)

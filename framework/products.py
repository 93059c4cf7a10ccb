"""Who multiplies outside the loops: torch, or our Triton kernels by their launch table. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from framework.errors import ConfigError
from framework.machine import USUAL, Machine
from framework.names import known

if TYPE_CHECKING:
    from kernels.launch import Kind

By = Literal["torch", "table", "triton"]
PRODUCTS = ("auto", "triton", "torch")
ROWS = 16384  # T*B that the plan's text is about: the tile of a small chunk may be a smaller one


@dataclass(frozen=True, slots=True)
class Products:
    """`by`: torch, triton, or whatever the launch table says of a shape; `note`: why not as asked, or ""."""

    by: By
    note: str = ""


BY_TORCH = Products("torch")


def choose_products(machine: Machine, wanted: str = "auto") -> Products:
    """Who does the hoisted products on a machine. Raises ConfigError for a name that does not exist.

    "auto" is torch on a CPU and the launch table on a GPU. "triton" on a CPU is for Triton's interpreter.
    """
    if wanted not in PRODUCTS:
        raise ConfigError("products", f"'{wanted}' is not known", known("There are", wanted, PRODUCTS))
    on_gpu = machine.device == "cuda"
    if wanted == "torch" or (wanted == "auto" and not on_gpu):
        return Products("torch")
    if machine.dtype == "fp64":
        return Products("torch", "triton: no kernels for fp64")
    if machine.device not in ("cpu", "cuda"):
        return Products("torch", f"triton: it does not run on {machine.device}")
    if not machine.triton:
        return Products("torch", "triton: it is not installed")
    return Products("table" if wanted == "auto" else "triton")


def product_text(machine: Machine, by: By, n: int, k: int, width: int, lo: int) -> tuple[str, str]:
    """Who does [T*B, k] x [k, n], whose result is columns from `lo` of a buffer of `width`: `by torch` or
    `by triton 128x256x64, 8 warps`; and who does its gradients, "" where that is torch for all three.
    """
    forward = _one(machine, by, ROWS, n, k, (k, k), 0)
    dx = _one(machine, by, ROWS, k, n, (width, k), lo)
    dw = gradient_text(machine, by, n, k, width, lo)
    alike = {forward, dx, dw} == {"by torch"}
    return forward, "" if alike else f"gradients: of the input {dx}; of the weights {dw}"


def gradient_text(machine: Machine, by: By, n: int, k: int, width: int, lo: int) -> str:
    """Who does the gradient of weights [n, k], from columns from `lo` of a buffer of `width`."""
    return _one(machine, by, n, k, ROWS, (width, k), lo)


def _one(machine: Machine, by: By, m: int, n: int, k: int, strides: tuple[int, int], first: int) -> str:
    """[m, k] x [k, n] of operands with these distances between rows, the first from element `first` on."""
    from kernels.launch import INTERPRETER, Chip, Operands, blocks_of, gemm_launch, hoisted_backend

    if by == "torch":
        return "by torch"
    size = machine.itemsize
    mapped = first * size % 16 == 0 and all(s * size % 16 == 0 for s in strides)
    wide = first * size % 16 == 0 and all(s % 16 == 0 for s in strides)
    chip = Chip(machine.chip or USUAL, machine.units, machine.name)
    if machine.device != "cuda":
        chip = INTERPRETER
    launch = gemm_launch(chip, kind_of(machine.dtype), m, n, k, Operands(wide, mapped))
    backend = hoisted_backend(launch, by == "triton")
    return "by torch" if backend == "torch" else f"by triton {blocks_of(launch.tile)}"


def products_text(machine: Machine, products: Products) -> str:
    """What holds for all products of a plan, one line."""
    from kernels.launch import UNMEASURED

    if products.by == "torch":
        who = "products by torch" + (f" (not {products.note})" if products.note else "")
    elif products.by == "triton":
        who = f"products by triton, blocks as for T*B = {ROWS:,}"
    else:
        who = f"products by the launch table, as for T*B = {ROWS:,}; {UNMEASURED} where a row is not measured"
    return f"for {machine}: {who}"


def kind_of(dtype: str) -> Kind:
    """The table's name for products of a dtype."""
    return "tf32" if dtype == "tf32" else "ieee" if dtype == "fp32" else "half"

"""The machine that a tensor is on, as plans see it."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import Tensor

from framework.errors import ConfigError
from framework.machine import Machine

DTYPES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def machine_of(x: Tensor) -> Machine:
    """Where x is, and its dtype; float32 is tf32 where torch may multiply so. Raises ConfigError for a dtype
    that nothing here computes in.
    """
    if x.dtype not in DTYPES:
        there = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ConfigError("dtype", f"networks do not compute in {x.dtype}", f"Use one of {there}.")
    dtype = DTYPES[x.dtype]
    if x.device.type != "cuda":
        return Machine(x.device.type, dtype=dtype, llvm=_has_llvm())
    if dtype == "fp32" and tf32_allowed():
        dtype = "tf32"
    index = torch.cuda.current_device() if x.device.index is None else x.device.index
    chip, shared, units, name = _properties(index)
    return Machine("cuda", chip, dtype, shared, units, find_spec("triton") is not None, name)


def tf32_allowed() -> bool:
    """Whether torch's float32 products on a GPU may be tf32.

    Asked of the new setting: the old one, `allow_tf32`, sets it too, but cannot be read once both were used.
    """
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


@cache
def _has_llvm() -> bool:
    """Whether loops can be compiled: before LLVM 20, which llvmlite 0.45 brought, their text means nothing;
    they call what Windows does not have.
    """
    if sys.platform == "win32" or find_spec("llvmlite") is None:
        return False
    first, second = version("llvmlite").split(".")[:2]
    return (int(first), int(second)) >= (0, 45)


@cache
def _properties(device: int) -> tuple[str, int, int, str]:
    """(chip, bytes of shared memory for one program, multiprocessors, name of the product)."""
    from kernels.launch import chip_name

    found = torch.cuda.get_device_properties(device)
    backend = "hip" if torch.version.hip else "cuda"
    chip = chip_name(backend, 10 * found.major + found.minor)
    shared = found.shared_memory_per_block_optin if backend == "cuda" else found.shared_memory_per_block
    return chip, shared, found.multi_processor_count, found.name

"""Where a plan is to run: what of a device decides how a loop or a product is executed. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from framework.errors import ConfigError
from framework.names import known

DEVICES = ("cpu", "cuda")
ITEMSIZE = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, slots=True)
class Machine:
    """`device`: "cpu", "cuda" (AMD's GPUs, too), or what torch calls others. `chip`: key of the launch tables
    (`chip_name` of kernels/launch.py), or "".

    `dtype`: a name of ITEMSIZE; tf32 is float32 whose products may be tf32. `shared`: bytes of shared memory
    that one program can have; `units`: multiprocessors; both 0 where there are none. `triton`: whether it is
    there to make kernels with; `llvm`: the same of llvmlite, for machine code of a CPU. name: the product,
    e.g. "NVIDIA H200", of a GPU that is here.
    """

    device: str = "cpu"
    chip: str = ""
    dtype: str = "fp32"
    shared: int = 0
    units: int = 0
    triton: bool = True
    name: str = ""
    llvm: bool = True

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return ITEMSIZE[self.dtype]

    def __str__(self) -> str:
        return " ".join(part for part in (self.device, self.chip, self.dtype) if part)


CPU = Machine()

# What a plan for a chip that is not here assumes: (shared memory, multiprocessors) of the usual model, A100,
# H100 and H200, B200, MI300X, RTX 3090, RTX 5090. Shared memory per block: CUDA C++ Programming Guide, table
# of technical specifications; LDS of a workgroup: AMD, CDNA 3 instruction set; multiprocessors: NVIDIA's and
# AMD's data sheets. A network on a device asks the device.
CHIPS = {
    "sm_80": (163 << 10, 108),
    "sm_90": (227 << 10, 132),
    "sm_100": (227 << 10, 148),
    "gfx9": (64 << 10, 304),
    "sm_86": (99 << 10, 84),
    "sm_120": (99 << 10, 170),
}
# Chips whose launches are those of another: what differs is shared memory and multiprocessors.
LIKE = {"sm_86": "sm_80", "sm_120": "sm_80"}
USUAL = "sm_90"


def machine(device: str = "cpu", chip: str = "", dtype: str = "fp32") -> Machine:
    """A machine by names; a "cuda" without a chip is an sm_90. Raises ConfigError for unknown ones."""
    if device not in DEVICES:
        raise ConfigError("device", f"no device '{device}'", known("There are", device, DEVICES))
    if dtype not in ITEMSIZE:
        raise ConfigError("dtype", f"no dtype '{dtype}'", known("There are", dtype, list(ITEMSIZE)))
    if device == "cpu":
        if chip:
            raise ConfigError("chip", f"'{chip}' on a CPU", "Add device=cuda, or leave chip out.")
        return Machine("cpu", dtype=dtype)
    if chip and chip not in CHIPS:
        raise ConfigError("chip", f"no chip '{chip}'", known("There are", chip, list(CHIPS)))
    name = chip or USUAL
    return Machine("cuda", LIKE.get(name, name), dtype, *CHIPS[name])

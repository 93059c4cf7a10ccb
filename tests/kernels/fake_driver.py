"""A GPU that is not there: the real binder, compiler and launch path run, only the driver's calls are
answered here.

Used in a process of its own (compile_worker.py): interpreting and compiling do not mix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget


@dataclass(frozen=True)
class FakeChip:
    """What the driver would say, and what it would not: `registers`, the most that a thread can have.

    `shared`: the most shared memory, in bytes, that one program may ask for; `units`: multiprocessors.
    """

    backend: str
    arch: int | str
    warp: int
    units: int
    shared: int
    registers: int = 255
    product: str = ""


# Shared memory and registers: CUDA C++ Programming Guide, table of compute capabilities; multiprocessors:
# NVIDIA's data sheets. MI300X: AMD's CDNA3 instruction set guide (512 vector registers, accumulators
# included) and data sheet. The order numbers the devices.
CHIPS = {
    "sm_80": FakeChip("cuda", 80, 32, 108, 166_912, product="A100"),
    "sm_86": FakeChip("cuda", 86, 32, 84, 101_376, product="RTX 3090, A40"),
    "sm_90": FakeChip("cuda", 90, 32, 132, 232_448, product="H100, H200"),
    "sm_100": FakeChip("cuda", 100, 32, 148, 232_448, product="B200"),
    "sm_120": FakeChip("cuda", 120, 32, 170, 101_376, product="RTX 5090"),
    "gfx942": FakeChip("hip", "gfx942", 64, 304, 65_536, registers=512, product="MI300X"),
}


@dataclass
class Launch:
    """A kernel that was bound, compiled and launched: `files` maps the kind of code (ptx, cubin, ...) to its
    path.
    """

    name: str
    grid: tuple[int, int, int]
    metadata: Any
    files: dict[str, Path]


@dataclass
class FakeDriver:
    """Stands in for triton.runtime.driver.active; `launches` collects what was launched, in order."""

    chip_name: str
    launches: list[Launch] = field(default_factory=list)
    _files: dict[str, dict[str, Path]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chip = CHIPS[self.chip_name]
        self.utils = self

    def activate(self) -> None:
        """Make Triton compile for this chip from now on."""
        triton.runtime.driver.set_active(self)
        torch.version.hip = "0.0 (not there)" if self.chip.backend == "hip" else None  # what launches ask
        hooks = triton.knobs.runtime.kernel_load_end_hook
        for other in list(hooks.calls):
            hooks.remove(other)
        hooks.add(self._loaded)

    def get_current_target(self) -> GPUTarget:
        """Chip to compile for."""
        return GPUTarget(self.chip.backend, self.chip.arch, self.chip.warp)

    def get_current_device(self) -> int:
        """Number of the device; each chip has its own, because Triton keeps kernels by it."""
        return list(CHIPS).index(self.chip_name)

    def get_current_stream(self, device: int | None = None) -> int:
        """Handle of the current stream."""
        return 0

    def get_active_torch_device(self) -> torch.device:
        """Where tensors live."""
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        """C++ name of a type; only a real launcher needs it."""
        return ty

    def get_device_properties(self, device: int) -> dict[str, int]:
        """Limits of the chip."""
        return {"max_shared_mem": self.chip.shared, "multiprocessor_count": self.chip.units}

    def load_binary(
        self, name: str, kernel: bytes, shared: int, device: int
    ) -> tuple[int, int, int, int, int]:
        """Module, function, registers, spills (both unknown here), most threads in a program."""
        return 1, 1, 0, 0, 1024

    def unload_module(self, module: int) -> None:
        """Nothing was loaded."""

    def launcher_cls(self, src: Any, metadata: Any) -> Callable[..., None]:
        """The function that would launch a compiled kernel."""

        def run(grid_0: int, grid_1: int, grid_2: int, *rest: Any) -> None:
            files = self._files[metadata.hash]
            self.launches.append(Launch(metadata.name, (grid_0, grid_1, grid_2), metadata, files))

        return run

    def _loaded(self, module: int, function: int, name: str, files: dict[str, str], hash: str) -> None:
        self._files[hash] = {Path(path).suffix[1:]: Path(path) for path in files.values()}

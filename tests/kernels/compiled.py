"""Asks compile_worker.py for what the compiler makes of a launch; answers are kept in pytest's cache, by
content.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kernels.inspect_code import GLOBAL_STORE, SPILL, TENSOR_CORE, Loop

ROOT = Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "tests.kernels.compile_worker"]
OWN = ("fake_driver.py", "inspect_code.py", "compile_worker.py")
# What generated cells are made of and by.
GENERATORS = (
    "framework/cell.py", "framework/component.py", "framework/derivative.py", "framework/ops.py",
    "framework/persistent*.py", "framework/choose.py", "framework/machine.py",
    "framework/runners/loop.py", "framework/runners/triton_*.py", "framework/runners/*_code.py",
    "framework/runners/joint.py", "conf/cell/*.yaml", "tests/gpu/cases.py", "tests/kernels/loop_cases.py",
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """One compiled launch. `shared` and `stack` (spilled, per thread) in bytes; `loops` longest first.

    `loads`: argument -> number of loads at each depth of loops; `events`: barriers and memory operations of
    the PTX in order (NVIDIA only); `offsets`: integer types that are added to blocks of pointers.
    """

    name: str
    grid: tuple[int, int, int]
    warps: int
    cooperative: bool
    shared: int
    registers: int
    stack: int
    loops: list[Loop]
    loads: dict[str, dict[int, int]]
    events: list[str]
    offsets: list[str]

    @property
    def spills_in_loops(self) -> int:
        """Instructions inside any loop that move registers to or from memory; outer loops count the inner
        ones.
        """
        return max((loop.count(*SPILL) for loop in self.loops), default=0)

    @property
    def time_loop(self) -> Loop:
        """The loop over steps: the longest that stores something. (AMD's division of 64 bits jumps, too.)"""
        return next(loop for loop in self.loops if loop.count(*GLOBAL_STORE))

    @property
    def dot_loop(self) -> Loop:
        """The innermost loop with the most tensor core instructions; without any, the longest innermost."""
        loops = [x for x in self.loops if not any(x.first <= y.first and y.last < x.last for y in self.loops)]
        return max(loops, key=lambda x: (x.count(*TENSOR_CORE), x.last - x.first))


class Compiler:
    """`compiler("tests.kernels.gemm_cases:forward", "sm_90", m=..., ...)`: what its launches compile to."""

    def __init__(self, cache: Path):
        self._cache = cache
        self._worker: subprocess.Popen[str] | None = None

    def __call__(self, call: str, chip: str, arguments: tuple[str, ...] = (), **options: Any) -> list[Kernel]:
        """Kernels that `call(**options)` launches on `chip`, in order; counts loads of the named `arguments`.

        Raises AssertionError with the worker's traceback when it does not compile or does not fit the chip.
        """
        request = json.dumps({"call": call, "chip": chip, "arguments": arguments, "options": options})
        path = self._cache / f"{self._key(request, call)}.json"
        if path.is_file():
            answer = path.read_text(encoding="utf-8")
        else:
            answer = self._ask(request)
            part = path.with_suffix(f".{os.getpid()}")  # other processes may look for it at the same time
            part.write_text(answer, encoding="utf-8")
            part.replace(path)
        return [_kernel(launch) for launch in json.loads(answer)["launches"]]

    def close(self) -> None:
        """End the worker, if one was needed."""
        if self._worker is not None:
            self._worker.communicate()
            self._worker = None

    def _key(self, request: str, call: str) -> str:
        module = ROOT / (call.partition(":")[0].replace(".", "/") + ".py")
        sources = [
            *sorted((ROOT / "kernels").glob("*.py")),
            *(Path(__file__).with_name(n) for n in OWN),
            module,
        ]
        if "framework" in module.read_text(encoding="utf-8"):
            sources += [path for pattern in GENERATORS for path in sorted(ROOT.glob(pattern))]
        import triton

        text = "\0".join(
            [triton.__version__, request, *(path.read_text(encoding="utf-8") for path in sources)]
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def _ask(self, request: str) -> str:
        if self._worker is None:
            environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
            environment |= {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(self._cache / "triton")}
            self._worker = subprocess.Popen(
                WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT, text=True
            )
        assert self._worker.stdin is not None and self._worker.stdout is not None
        try:
            self._worker.stdin.write(request + "\n")
            self._worker.stdin.flush()
            answer = self._worker.stdout.readline()
        except BaseException:  # a limit of time: what the worker still says is no answer to the next one
            self._worker.kill()
            self.close()
            raise
        assert answer, f"the compile worker ended with code {self._worker.wait()}, its errors stand above"
        assert "error" not in json.loads(answer), json.loads(answer)["error"]
        return answer


def _kernel(launch: dict[str, Any]) -> Kernel:
    loops = [Loop(**loop) for loop in launch.pop("loops")]
    loads = {name: {int(d): n for d, n in by_depth.items()} for name, by_depth in launch.pop("loads").items()}
    return Kernel(**{**launch, "grid": tuple(launch["grid"])}, loops=loops, loads=loads)

"""`with concurrent(seed=1): kernel[grid](...)` runs all programs of a grid at once, in a seeded order.

Programs take turns before every memory operation. A program is one thread here: a missing
`tl.debug_barrier()` cannot be seen (look for `bar.sync` in the PTX instead), and `tl.load` of a block happens
at once. Between programs nothing is taken for granted: see races.py and scheduler.py.
"""

from __future__ import annotations

import inspect
import itertools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton
import triton.runtime.interpreter as interpreter
from triton._C.libtriton import ir  # type: ignore # compiled, without stubs

from tests.interpreter.patches import install
from tests.interpreter.races import RaceDetector
from tests.interpreter.scheduler import Policy, Scheduler

_Builder = interpreter.InterpreterBuilder
_index = threading.local()  # program id of the calling thread
_hooked = False
_run: Run | None = None  # options of the active `with concurrent(...)`
_launch: _Launch | None = None  # the grid that runs now


@dataclass
class Run:
    """What happened in a `with concurrent(...)` block; the counters add up over its launches."""

    seed: int
    policy: Policy
    races: bool
    max_steps: int
    spin: bool
    launches: int = 0
    steps: int = 0
    switches: int = 0
    grids: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class _Launch:
    scheduler: Scheduler
    detector: RaceDetector | None


@contextmanager
def concurrent(
    seed: int = 0,
    policy: Policy = "random",
    races: bool = True,
    max_steps: int = 200_000,
    spin: bool = False,
) -> Iterator[Run]:
    """Run every kernel launched inside under a seeded schedule. spin: see `Scheduler`.

    Raises DeadlockError, RaceError (when `races`), or what a kernel raised. Launch n of the block uses seed +
    n.
    """
    global _run
    install()
    _hook()
    if _run is not None:
        raise RuntimeError("concurrent: one is active already; do not nest them")
    _run = Run(seed, policy, races, max_steps, spin)
    try:
        yield _run
    finally:
        _run = None


def _hook() -> None:
    global _hooked
    if _hooked:
        return
    _hooked = True
    _Builder.grid_idx = property(
        lambda self: getattr(_index, "value", None), lambda self, value: setattr(_index, "value", value)
    )
    interpreter.interpreter_builder.__dict__.pop("grid_idx", None)
    _hook_plain_accesses()
    _hook_atomics()
    stock_call = interpreter.GridExecutor.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        if _run is None:
            stock_call(self, *args, **kwargs)
        else:
            _run_grid(self, _run, args, kwargs)

    interpreter.GridExecutor.__call__ = call


def _run_grid(executor: Any, run: Run, args_dev: tuple[Any, ...], kwargs_dev: dict[str, Any]) -> None:
    """As GridExecutor.__call__, with all programs at once."""
    global _launch
    spec = inspect.getfullargspec(executor.fn)
    kwargs_dev = {k: v for k, v in kwargs_dev.items() if k in spec.args or k in spec.kwonlyargs}
    args_host, kwargs_host = executor._init_args_hst(args_dev, kwargs_dev)
    scope = interpreter._patch_lang(executor.fn)
    try:
        bound = inspect.getcallargs(executor.fn, *args_host, **kwargs_host)
        bound = {n: a if n in executor.constexprs else interpreter._implicit_cvt(a) for n, a in bound.items()}
        grid = executor.grid(bound) if callable(executor.grid) else executor.grid
        grid = tuple(grid) + (1,) * (3 - len(grid))
        interpreter.interpreter_builder.set_grid_dim(*grid)
        indices = list(itertools.product(*map(range, grid)))
        scheduler = Scheduler(len(indices), run.seed + run.launches, run.policy, run.max_steps, run.spin)
        _launch = _Launch(scheduler, RaceDetector(len(indices)) if run.races else None)

        def body(program: int) -> None:
            _index.value = indices[program]
            with np.errstate(all="ignore"):  # per thread
                executor.fn(**bound)

        scheduler.run(body)
        run.launches += 1
        run.steps += scheduler.steps
        run.switches += scheduler.switches
        run.grids.append(grid)
        if _launch.detector is not None:
            _launch.detector.raise_if_any()
    finally:
        _launch = None
        scope.restore()
    executor._restore_args_dev(args_dev, args_host, kwargs_dev, kwargs_host)


def _selected(ptrs: Any, mask: Any) -> np.ndarray:
    """The addresses that a masked access touches, as int64 [n]."""
    addresses = np.asarray(ptrs.data)
    chosen = np.broadcast_to(np.asarray(mask.data), addresses.shape)
    return addresses[chosen].astype(np.int64)


def _size(ptrs: Any) -> int:
    return max(1, ptrs.get_element_ty().primitive_bitwidth // 8)


def _where() -> str:
    """File and line of the kernel code that is being interpreted."""
    skip = (os.path.dirname(triton.__file__), os.path.dirname(__file__))
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(skip):
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def _hook_plain_accesses() -> None:
    stock_load, stock_store = _Builder.create_masked_load, _Builder.create_masked_store

    def load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        launch = _launch
        if launch is None:
            return stock_load(self, ptrs, mask, *rest, **named)
        launch.scheduler.step()
        addresses = _selected(ptrs, mask)
        if launch.detector is not None:
            launch.detector.access(launch.scheduler.program, addresses, _size(ptrs), "read", _where())
        result = stock_load(self, ptrs, mask, *rest, **named)
        if named["is_volatile"] if "is_volatile" in named else rest[-1]:
            key = ("load", addresses.tobytes(), np.asarray(result.data).tobytes())
            launch.scheduler.looked(key, addresses.tolist())
        else:
            launch.scheduler.acted()
        return result

    def store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        launch = _launch
        if launch is None:
            return stock_store(self, ptrs, value, mask, *rest, **named)
        launch.scheduler.step()
        addresses = _selected(ptrs, mask)
        if launch.detector is not None:
            launch.detector.access(launch.scheduler.program, addresses, _size(ptrs), "write", _where())
        result = stock_store(self, ptrs, value, mask, *rest, **named)
        launch.scheduler.wrote(addresses.tolist())
        return result

    _Builder.create_masked_load, _Builder.create_masked_store = load, store


def _hook_atomics() -> None:
    stock_rmw, stock_cas = _Builder.create_atomic_rmw, _Builder.create_atomic_cas
    acquiring = (ir.MEM_SEMANTIC.ACQUIRE, ir.MEM_SEMANTIC.ACQUIRE_RELEASE)
    releasing = (ir.MEM_SEMANTIC.RELEASE, ir.MEM_SEMANTIC.ACQUIRE_RELEASE)

    def account(launch: _Launch, ptr: Any, addresses: np.ndarray, sem: Any, scope: Any) -> None:
        if launch.detector is None:
            return
        program = launch.scheduler.program
        launch.detector.access(program, addresses, _size(ptr), "atomic", _where())
        if scope == ir.MEM_SYNC_SCOPE.CTA:  # orders nothing between programs
            return
        if sem in acquiring:
            launch.detector.acquire(program, addresses)
        if sem in releasing:
            launch.detector.release(program, addresses)

    def seen(launch: _Launch, addresses: np.ndarray, old: Any, changed: bool) -> None:
        if changed:
            launch.scheduler.wrote(addresses.tolist())
        else:
            launch.scheduler.looked(
                ("atomic", addresses.tobytes(), np.asarray(old.data).tobytes()), addresses.tolist()
            )

    def atomic_rmw(self: Any, op: Any, ptr: Any, val: Any, mask: Any, sem: Any, scope: Any) -> Any:
        launch = _launch
        if launch is None:
            return stock_rmw(self, op, ptr, val, mask, sem, scope)
        launch.scheduler.step()
        addresses = _selected(ptr, mask)
        account(launch, ptr, addresses, sem, scope)
        old = stock_rmw(self, op, ptr, val, mask, sem, scope)
        neutral = op in (ir.ATOMIC_OP.ADD, ir.ATOMIC_OP.OR, ir.ATOMIC_OP.XOR) and not np.any(val.data)
        seen(launch, addresses, old, changed=not neutral)
        return old

    def atomic_cas(self: Any, ptr: Any, cmp: Any, val: Any, sem: Any, scope: Any) -> Any:
        launch = _launch
        if launch is None:
            return stock_cas(self, ptr, cmp, val, sem, scope)
        launch.scheduler.step()
        addresses = np.asarray(ptr.data).astype(np.int64).ravel()
        account(launch, ptr, addresses, sem, scope)
        old = stock_cas(self, ptr, cmp, val, sem, scope)
        seen(launch, addresses, old, changed=bool(np.any((old.data == cmp.data) & (cmp.data != val.data))))
        return old

    def unsupported(self: Any, *args: Any, **named: Any) -> Any:
        raise NotImplementedError(
            "concurrent: this atomic is missing in Triton 3.6; use atomic_add or atomic_cas"
        )

    _Builder.create_atomic_rmw, _Builder.create_atomic_cas = atomic_rmw, atomic_cas
    for name in ("create_atomic_load", "create_atomic_store", "create_atomic_poll"):
        if hasattr(_Builder, name):
            setattr(_Builder, name, unsupported)

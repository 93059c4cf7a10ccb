"""Measures layouts of persistent loops, and who multiplies faster, on the GPU that is here: for tune.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from triton.errors import TritonError

from framework import Network
from framework.errors import UserError
from framework.graph import Graph
from framework.persistent import cell_of, derivative_of
from framework.persistent_fit import room
from framework.products import kind_of
from framework.runners.loop import Chunk
from framework.runners.place import machine_of
from framework.runners.triton_persistent import PersistentLoop, Work
from kernels.gemm import matmul, matmul_dw, operands_of
from kernels.launch import GEMM_TABLE, Kind, current_chip, gemm_launch
from kernels.persistent_choice import Room
from kernels.persistent_layout import Layout
from kernels.persistent_tuned import candidates, variants
from kernels.tuning import LoopRow, ProductRow, cell_key, versions_now

Clock = Callable[[Callable[[], object]], float]  # runs something, and says how many seconds it took
Report = Callable[[str], None]
Seconds = dict[str, list[float]]  # of kernels, by name

CHECKED = 24  # steps of the runs whose results are compared
REPEATS = 5
SLOW = 2.0  # one that takes so many times as long as the best is not repeated


def on_device(run: Callable[[], object]) -> float:
    """The clock of a GPU: from an idle device to an idle device."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


class _Watch:
    """Times each launch of a loop."""

    def __init__(self, loop: PersistentLoop, clock: Clock):
        self.loop, self.clock, self.seconds = loop, clock, Seconds()
        self.do = loop.do

    def __enter__(self) -> Seconds:
        def timed(chunk: Chunk, work: Work) -> Any:
            spent = self.clock(lambda: self.do(chunk, work._replace(finish=lambda: None)))
            self.seconds.setdefault(work.code.name, []).append(spent)
            return work.finish()  # products over all steps: of no layout's time

        self.loop.do = timed  # type: ignore[method-assign]
        return self.seconds

    def __exit__(self, *_: object) -> None:
        del self.loop.do


def outcome(net: Network, steps: int, lanes: int) -> list[Tensor]:
    """Outputs, and gradients of the inputs and of all weights, on numbers that are always the same."""
    g = torch.Generator().manual_seed(steps)
    inputs: dict[str, Tensor] = {}
    for name, spec in net.graph.inputs.items():
        if spec.vocab is not None:
            inputs[name] = torch.randint(spec.vocab, (steps, lanes), generator=g).to(net.like.device)
        else:
            x = torch.randn(steps, lanes, spec.size, generator=g).to(net.like)
            inputs[name] = x.requires_grad_()
    net.zero_grad(set_to_none=True)
    torch.manual_seed(0)  # of random masks
    y, _ = net(inputs)
    parts = list(y.values()) if isinstance(y, Mapping) else [y]
    torch.autograd.backward(parts, [torch.randn(p.shape, generator=g).to(p) for p in parts])
    grads = [x.grad for x in inputs.values()] + [net.grads()[n] for n in sorted(net.grads())]
    return [*(p.detach() for p in parts), *(g for g in grads if g is not None)]


def error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Root of the mean square of all differences, of each tensor relative to its size."""
    total = [
        ((a.double() - b).square().mean() / b.square().mean().clamp_min(1e-30)).sqrt().item()
        for a, b in zip(found, exact, strict=True)
    ]
    return statistics.fmean(total)


class LoopTuner:
    """Measures the loops of one model. clock, report: stand-ins in tests; limits: what there is room for (the
    GPU's).
    """

    def __init__(
        self, graph: Graph, device: str, kind: torch.dtype, runner: str, clock: Clock, report: Report,
        limits: Room | None = None,
    ):  # fmt: skip
        self.clock, self.report, self.runner = clock, report, runner
        torch.manual_seed(0)
        self.net = Network(graph, runner=runner).to(device, kind)
        self.machine = machine_of(self.net.like)
        self.limits = limits or room(self.machine)
        self.same = Network(graph, runner="torch").to(device, kind)
        self.same.load_state_dict(self.net.state_dict())
        self.exact = Network(graph, runner="torch").to(device, torch.float64)
        self.exact.load_state_dict({n: x.double() for n, x in self.net.state_dict().items()})

    def rows(self, name: str, lanes: Iterable[int], steps: int) -> Iterator[LoopRow]:
        """The best layout of each different loop for each number of lanes."""
        seen: set[str] = set()
        for loop in self.net.loops:
            if not isinstance(loop, PersistentLoop):
                continue
            cell = cell_of(loop.c, True)
            key = cell_key(cell)
            if key in seen:
                continue
            seen.add(key)
            for n in lanes:
                text = f"{name}, loop {loop.c.name}, {n} lanes"
                best = self._best(loop, n, steps, text)
                loop._layout = None
                loop._code.clear()
                if best is None:
                    self.report(f"{text}: nothing could be measured")
                    continue
                layout, spent = best
                yield LoopRow(
                    self.machine.name, key, self.machine.dtype, n, layout, self.runner == "streamed",
                    f"{name}, {loop.c.name}", spent, versions_now(),
                )  # fmt: skip

    def _best(
        self, loop: PersistentLoop, lanes: int, steps: int, text: str
    ) -> tuple[Layout, tuple[float, float]] | None:
        cell, d, streamed = cell_of(loop.c, True), derivative_of(loop.c), self.runner == "streamed"
        exact, same = outcome(self.exact, CHECKED, lanes), outcome(self.same, CHECKED, lanes)
        # The steps themselves: twice torch's own error, and never less than a rounding of each number.
        allowed = 2 * error(same, exact) + torch.finfo(self.net.like.dtype).eps
        best: tuple[Layout, tuple[float, float]] | None = None
        tried: set[Layout] = set()

        def stage(layouts: Iterable[Layout]) -> None:
            nonlocal best
            for layout in layouts:
                if layout in tried:
                    continue
                tried.add(layout)
                spent = self._measure(loop, layout, lanes, steps, exact, allowed, best, text)
                if spent is not None and (best is None or sum(spent) < sum(best[1])):
                    best = (layout, spent)

        stage(candidates(cell, d, self.limits, lanes, streamed))
        if best is not None:
            for what in ("warps", "loaded"):
                stage(variants(cell, d, self.limits, best[0], what))
        return best

    def _measure(
        self, loop: PersistentLoop, layout: Layout, lanes: int, steps: int, exact: Sequence[Tensor],
        allowed: float, best: tuple[Layout, tuple[float, float]] | None, text: str,
    ) -> tuple[float, float] | None:  # fmt: skip
        """Microseconds of a step, forward and backward; None for one that is wrong or cannot run."""
        loop._layout = layout
        loop._code.clear()
        what = f"{text}: {layout.programs} programs, {layout.lanes} lanes, {layout.warps} and "
        what += f"{layout.back_warps} warps, {layout.loaded} loaded"
        try:
            self.net.watchdog = True
            found = error(outcome(self.net, CHECKED, lanes), exact)
            self.net.watchdog = False
            if not found <= allowed:
                self.report(f"{what}: wrong, its error is {found:.2g}, at most {allowed:.2g} is right")
                return None
            outcome(self.net, steps, lanes)  # compiles without the watchdog
            spent = self._time(loop, steps, lanes, 1)
            if best is None or sum(spent) < SLOW * sum(best[1]):
                spent = self._time(loop, steps, lanes, REPEATS)
        except (UserError, TritonError) as e:
            self.report(f"{what}: {e}")
            return None
        finally:
            self.net.watchdog = False
        first = best is None or sum(spent) < sum(best[1])
        self.report(f"{what}: {spent[0]:.2f} + {spent[1]:.2f} us a step{', the best so far' * first}")
        return spent

    def _time(self, loop: PersistentLoop, steps: int, lanes: int, repeats: int) -> tuple[float, float]:
        with _Watch(loop, self.clock) as seconds:
            for _ in range(repeats):
                outcome(self.net, steps, lanes)
        forward, backward = (statistics.median(seconds[n]) for n in ("forward_kernel", "backward_kernel"))
        return round(1e6 * forward / steps, 3), round(1e6 * backward / steps, 3)


def product_rows(net: Network, rows: int, clock: Clock, report: Report) -> Iterator[ProductRow]:
    """Who is faster at the products of a network over `rows` rows and at their gradients."""
    machine, like = machine_of(net.like), net.like
    chip, kind = current_chip(like.device), kind_of(machine.dtype)
    for n, k in sorted({pack.shape for pack in net.plan.packs.values() if pack.kind == "full"}):
        x, w, dy = (
            torch.randn(*size, device=like.device).to(like) for size in ((rows, k), (n, k), (rows, n))
        )
        for a, b, turned in ((x, w.T, False), (dy, w, False), (dy.T, x, True)):
            yield _product_row(a, b, turned, chip.gpu, kind, clock, report)


def _product_row(
    a: Tensor, b: Tensor, turned: bool, gpu: str, kind: Kind, clock: Clock, report: Report
) -> ProductRow:
    (m, k), n, precision = a.shape, b.shape[1], "tf32" if kind == "tf32" else "ieee"
    chip, operands = current_chip(a.device), operands_of(a, b)
    ours = replace(gemm_launch(chip, kind, m, n, k, operands, table=GEMM_TABLE), backend="triton")

    def by_triton() -> Tensor:
        return matmul_dw(a.T, b, launch=ours) if turned else matmul(a, b, precision=precision, launch=ours)

    spent = []
    for run in (by_triton, lambda: torch.mm(a, b)):
        run()
        spent.append(1e6 * statistics.median(clock(run) for _ in range(REPEATS)))
    backend = "triton" if spent[0] < spent[1] else "torch"
    report(f"[{m}, {k}] x [{k}, {n}]: triton {spent[0]:.1f} us, torch {spent[1]:.1f} us: {backend}")
    times = (round(spent[0], 3), round(spent[1], 3))
    return ProductRow(
        gpu, kind, m, n, k, backend, ours.tile, operands.wide, operands.mapped, times, versions_now()
    )

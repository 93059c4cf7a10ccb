"""Hoisted products by our Triton kernel against torch's: out = a b, and the two products of its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from scripts.bench.agree import Disagreement, Errors, refusals, relative
from scripts.bench.bench import SEED, Bench, Entrant
from scripts.bench.cases import Case
from scripts.bench.measure import Run, take_turns
from scripts.bench.rows import Row

COPIES = 3  # of the operands, used in turn


def product(case: Case, bench: Bench) -> list[Row]:
    """Rows of [T, F] x [F, H]; option `way`: forward, dx or dw. Raises Disagreement."""
    from kernels import matmul, matmul_dw, matmul_dx

    device, kind, way = bench.device, case.kind, str(case.option("way"))
    m, n, k = case.T * case.B, case.H, case.F
    g = torch.Generator(device.kind).manual_seed(SEED)
    ways = {
        "forward": (((m, k), (k, n)), matmul, lambda a, b: a @ b),
        "dx": (((m, n), (k, n)), matmul_dx, lambda a, b: a @ b.T),
        "dw": (((m, k), (m, n)), matmul_dw, lambda a, b: a.T @ b),
    }
    shapes, ours, theirs = ways[way]

    def operand(shape: tuple[int, int]) -> Tensor:
        return torch.randn(*shape, generator=g, device=device.kind).to(kind)

    pairs = [(operand(shapes[0]), operand(shapes[1])) for _ in range(COPIES)]
    exact = theirs(*(x.double() for x in pairs[0]))
    runs = {"intrastream triton": ours, "torch": theirs}
    errors: Errors = {name: {"out": relative(run(*pairs[0]), exact)} for name, run in runs.items()}
    if wrong := refusals(errors, {"torch"}, torch.finfo(kind).eps, 1):
        raise Disagreement("; ".join(wrong))
    turn = dict.fromkeys(runs, 0)

    def ready(name: str) -> Run:
        turn[name] = (turn[name] + 1) % COPIES
        pair = pairs[turn[name]]
        return lambda: runs[name](*pair)

    times = take_turns(
        device, {name: (lambda name=name: ready(name)) for name in runs}, bench.seconds, least=20
    )
    work = 2.0 * m * n * k, float((m * k + k * n + m * n) * kind.itemsize)
    versions = {"intrastream triton": bench.version, "torch": torch.__version__}
    return [
        bench.row(
            case,
            Entrant(name, name, versions[name]),
            "forward",
            times,
            work,
            peak_bytes=device.peak(ready(name)),
            errors=errors[name],
        )
        for name in runs
    ]

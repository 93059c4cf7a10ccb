"""The cases of scripts/bench/gpu.py, the most telling ones first, and what takes part in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from framework import Network, lstm
from framework.choose import TABLE
from scripts.bench.systems import System, make

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One row to be. what: "loop" (a layer: cell, T, B, H) or "matmul" (M, N, K; `way`: forward, dx, dw)."""

    what: str
    dtype: str
    sizes: tuple[tuple[str, int], ...]
    cell: str = ""
    way: str = ""

    @property
    def key(self) -> Row:
        """The fields of the row that tell cases apart."""
        named = {"cell": self.cell} if self.cell else {"way": self.way}
        return {"what": self.what, **named, "dtype": self.dtype, **dict(self.sizes)}

    def __str__(self) -> str:
        return " ".join([self.what, self.cell or self.way, self.dtype, *(f"{k}={v}" for k, v in self.sizes)])


def _loop(cell: str, dtype: str, steps: int, lanes: int, size: int) -> Case:
    return Case("loop", dtype, (("T", steps), ("B", lanes), ("H", size)), cell=cell)


def _matmul(way: str, dtype: str, m: int, n: int, k: int) -> Case:
    return Case("matmul", dtype, (("M", m), ("N", n), ("K", k)), way=way)


STEPS = 512
CELLS = ("lstm", "lstm_peephole", "gru_cudnn")
# (B, H): usual sizes first, then small and large ones. 768 with 16 lanes is what peers have published.
GRID = ((16, 512), (64, 1024), (64, 256), (16, 128), (16, 768), (1, 512), (128, 512), (16, 1024), (256, 128))
WITHOUT_EXCHANGE = (("sru", 64, 1024), ("mingru", 64, 1024), ("sru", 16, 256), ("minlstm", 64, 1024))


def cases() -> list[Case]:
    """All of them in order: every cell at the first sizes before any cell at the next ones."""
    out = [_loop(cell, "bfloat16", STEPS, *at) for at in GRID[:2] for cell in CELLS]
    out += [_matmul("forward", "bfloat16", 16384, size, size) for size in (1024, 2048, 4096)]
    out += [_loop(cell, "bfloat16", STEPS, *at) for cell, *at in WITHOUT_EXCHANGE[:2]]
    out += [_loop(cell, "float16", STEPS, *at) for at in GRID[:2] for cell in CELLS]
    out += [_matmul(way, "bfloat16", 16384, size, size) for size in (1024, 4096) for way in ("dx", "dw")]
    out += [_loop(cell, "bfloat16", STEPS, *at) for at in GRID[2:] for cell in CELLS]
    out += [_loop(cell, "bfloat16", STEPS, *at) for cell, *at in WITHOUT_EXCHANGE[2:]]
    out += [_matmul("forward", "float16", 16384, size, size) for size in (1024, 2048, 4096)]
    out += [_loop(cell, "float16", STEPS, *at) for at in GRID[2:] for cell in CELLS]
    return out


def tiny() -> list[Case]:
    """The same kinds at sizes for the interpreter: a rehearsal."""
    loops = [_loop(cell, "bfloat16", 5, 2, 8) for cell in (*CELLS, "sru")]
    return [*loops, *(_matmul(way, "float16", 33, 20, 17) for way in ("forward", "dx", "dw"))]


@dataclass(frozen=True)
class Contest:
    """Systems of one layer with equal weights. `truth`: the same in float64; `ours`: names of ours;
    `yardsticks`: those that are torch alone; `declined`: runner -> why it is not there.
    """

    systems: list[System]
    truth: Network
    ours: list[str]
    yardsticks: set[str]
    declined: dict[str, str]


def contest(cell: str, size: int, device: str, dtype: str) -> Contest:
    """All systems of a case on the device: torch's own, an eager loop, and our network by every runner."""
    kind = getattr(torch, dtype)
    torch.manual_seed(0)
    others: list[System] = []
    if cell in CELLS:
        *others, last = make("gru" if cell == "gru_cudnn" else cell, size, size)
        net = last.module
    else:
        net = lstm(size, size, cell=cell)
    assert isinstance(net, Network)
    weights = net.to(kind).state_dict()  # rounded: float64 gets the same
    for s in others:
        s.module.to(device, kind)
        if isinstance(s.module, nn.RNNBase):
            s.module.flatten_parameters()
    truth = Network(net.graph, runner="torch").to(device, torch.float64)
    truth.load_state_dict(weights)
    ours: list[System] = []
    declined: dict[str, str] = {}
    for runner in (r.name for r in TABLE):
        made = Network(net.graph, runner=runner).to(device, kind)
        made.load_state_dict(weights)
        if any(choice.runner == runner for choice in made.plan.choices):
            ours.append(System(runner, made, _first(made)))
        else:
            declined[runner] = "; ".join(
                note.removeprefix(f"{runner}: ") for c in made.plan.choices for note in c.notes
            )
    alone = {s.name for s in others} | {"torch"}
    return Contest([*others, *ours], truth, [s.name for s in ours], alone, declined)


def _first(net: Network) -> Callable[[Tensor], Tensor]:
    return lambda x: net(x)[0]  # type: ignore[return-value]

"""Timings on a GPU, as rows of JSON: the Triton matmul against torch's, our runners against cuDNN.

    python -m scripts.bench.gpu --out scripts/bench/results/gpu.jsonl

Needs torch and triton only. Times are medians of CUDA events (triton.testing.do_bench); memory is torch's
peak.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import triton

from framework import from_torch, lstm
from scripts.bench.cpu import where

Row = dict[str, Any]


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Median milliseconds and peak MB of one call."""
    run()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return float(triton.testing.do_bench(run, return_mode="median")), peak


def matmuls() -> Iterator[Row]:
    """The hoisted product at the sizes of the goal: T*B = 16384 rows."""
    from kernels import matmul

    for dtype in (torch.bfloat16, torch.float16):
        for size in (1024, 2048, 4096):
            a = torch.randn(16384, size, device="cuda").to(dtype)
            b = torch.randn(size, size, device="cuda").to(dtype)
            ours, theirs = timed(lambda a=a, b=b: matmul(a, b))[0], timed(lambda a=a, b=b: a @ b)[0]
            flop = 2 * 16384 * size * size
            yield {
                "what": "matmul", "dtype": str(dtype), "M": 16384, "N": size, "K": size, "ms": ours,
                "torch_ms": theirs, "speedup": theirs / ours, "tflops": flop / ours / 1e9,
            }  # fmt: skip


def loops() -> Iterator[Row]:
    """Forward + backward of one layer, T = 512: ours by runner, nn.LSTM and nn.GRU by cuDNN."""
    for cell, runners in (("lstm", ("torch",)), ("gru", ("torch",)), ("sru", ("torch", "elementwise")),
                          ("mingru", ("torch", "elementwise"))):  # fmt: skip
        for lanes, size in ((16, 256), (64, 1024)):
            x = torch.randn(512, lanes, size, device="cuda", requires_grad=True)
            dy = torch.randn(512, lanes, size, device="cuda")
            row: Row = {"what": "loop", "cell": cell, "T": 512, "B": lanes, "H": size}
            nets: dict[str, Callable[[], object]] = {}
            if cell in ("lstm", "gru"):
                theirs = (torch.nn.LSTM if cell == "lstm" else torch.nn.GRU)(size, size).cuda()
                nets["cudnn"] = lambda m=theirs, x=x, dy=dy: m(x)[0].backward(dy)
                ours = from_torch(theirs)
                nets["torch"] = lambda m=ours, x=x, dy=dy: m(x)[0].backward(dy)
            else:
                for runner in runners:
                    net = lstm(size, size, cell=cell, runner=runner).cuda()
                    nets[runner] = lambda m=net, x=x, dy=dy: m(x)[0].backward(dy)
            for name, run in nets.items():
                row[f"{name}_ms"], row[f"{name}_peak_mb"] = timed(run)
            yield row


def main() -> None:
    """Print every row and append it to --out as it comes."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here: nothing was measured")
    here = where() | {
        "gpu": torch.cuda.get_device_name(), "triton": triton.__version__, "dtype": "float32",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in (matmuls, loops):
        for row in part():
            line = json.dumps(here | row)
            print(line, flush=True)
            with out.open("a") as f:
                f.write(line + "\n")


if __name__ == "__main__":
    main()

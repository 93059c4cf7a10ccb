"""Rows with made-up figures, for tests of what reads rows."""

from __future__ import annotations

from typing import Any

from scripts.bench.rows import Row

MACHINE = {"cpu": "A processor", "threads": 2, "gpu": ""}


def row(system: str = "intrastream", ms: float = 10.0, **changes: Any) -> Row:
    """A row of one system; everything can be changed."""
    values: dict[str, Any] = {
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "abc1234",
        "dirty": False,
        "code": "c0de",
        **MACHINE,
        "torch": "2.13.0",
        "cuda": "",
        "triton": "3.9.0",
        "python": "3.11.7",
        "table": "a",
        "case": "lstm T=128 B=8 F=128 H=128",
        "system": system,
        "entry": system,
        "version": "c0de",
        "dtype": "float32",
        "T": 128,
        "B": 8,
        "F": 128,
        "H": 128,
        "layers": 1,
        "pass_": "forward+backward",
        "input_product": True,
        "p20_ms": ms * 0.9,
        "p50_ms": ms,
        "p80_ms": ms * 1.2,
        "us_per_step": ms * 1e3 / 128,
        "peak_bytes": 3 << 20,
        "flops": 8e8,
        "bytes": 1e6,
        "flops_per_s": 8e8 / ms * 1e3,
        "bytes_per_s": 1e6 / ms * 1e3,
        "ceiling_flops": 1e11,
        "ceiling_bytes": 2e10,
        "floor_ms": 8.0,
        "limit": 8.0 / ms,
        "predicted_ms": None,
        "seed": 1,
        "turns": 9,
        "options": {"cell": "lstm", "bidirectional": False},
    }
    return Row(**(values | changes))


def side_by_side(times: dict[str, float], **changes: Any) -> list[Row]:
    """Rows of one case: milliseconds of each system, with the ratios that follow."""
    return [
        row(name, ms, **{"ratios": {o: round(t / ms, 3) for o, t in times.items() if o != name}} | changes)
        for name, ms in times.items()
    ]


def everything() -> list[Row]:
    """Rows for every kind of table."""
    found = side_by_side(
        {"intrastream": 10.0, "nn.LSTM": 8.0, "eager loop": 45.0},
        figures={"runner": "torch", "first_s": 0.25},
        predicted_ms=9.0,
    )
    six = {
        "intrastream": 4.0,
        "nn.LSTM": 3.0,
        "nn.LSTMCell loop": 9.0,
        "eager loop": 20.0,
        "torch scan": 80.0,
        "compiled loop": 12.0,
    }
    found += side_by_side(
        six,
        pass_="forward",
        case="lstm T=128 B=1 F=64 H=64",
        B=1,
        declined={"TorchRL": "package torchrl is not installed"},
    )
    found += side_by_side(
        {"intrastream": 5.0, "eager loop": 21.0}, table="b", case="mgu T=128 B=8 F=128 H=128"
    )
    for b, (none, intra) in {1: (50.0, 20.0), 16: (100.0, 30.0)}.items():
        both = {"intrastream": intra, "intrastream parallel=none": none}
        found += side_by_side(both, table="d", case=f"lstm_peephole T=64 B={b}", B=b, T=64)
    modes = {"intrastream": 10.0, "intrastream memory=recompute": 14.0}
    found += side_by_side(modes, table="e", case="lstm T=256 B=16 F=128 H=128")
    fits = {"cell": "lstm", "megabytes": 64, "most": 4096}
    for name, steps in (("intrastream", 900), ("intrastream memory=recompute", 4096)):
        figures = {"largest T": steps, "rows": 16 * steps, "looked up to T": 4096}
        found.append(row(name, table="e", case="lstm T=64 megabytes=64", options=fits, figures=figures))
    for t, ms in ((64, 2.0), (256, 9.0), (1024, 36.0)):
        found.append(row(ms=ms, table="f", case=f"lstm T={t}", T=t, peak_bytes=t << 12))
    for nodes, ms in ((100, 5.0), (1000, 52.0)):
        options = {"cell": "graph", "shape": "ring", "nodes": nodes}
        figures = {"nodes": nodes, "load_ms": ms / 2, "text_ms": ms * 2}
        more = {"flops": 0.0, "floor_ms": None, "limit": None, "peak_bytes": None}
        found.append(
            row(
                ms=ms, table="f", case=f"ring {nodes}", pass_="plan", options=options, figures=figures, **more
            )
        )
    parts = ("import torch s", "import ours s", "plan s", "build s", "first step s", "second step s")
    figures = {part: 0.1 * k for k, part in enumerate(parts, 1)}
    options = {"cell": "lstm", "caches": "cold"}
    found.append(
        row(ms=2500.0, table="g", case="lstm caches=cold", pass_="start", figures=figures, options=options)
    )
    shares = {
        "share data": 0.04,
        "share network": 0.9,
        "share classifier and loss": 0.04,
        "share clipping and Adam": 0.02,
        "frames_per_s": 12345,
        "share outside": 0.1,
    }
    found += side_by_side(
        {"intrastream": 500.0, "nn.LSTM": 450.0},
        table="h",
        case="lstm T=350",
        pass_="train step",
        figures=shares,
    )
    triton = {"intrastream triton": 1.0, "torch": 0.9}
    found += side_by_side(triton, table="m", case="product way=dx", pass_="forward", options={"way": "dx"})
    return found

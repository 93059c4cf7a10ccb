"""The tables of the performance page, and their cases for each kind of device, the most telling first."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from framework.errors import ConfigError
from scripts.bench.cases import BOTH, FORWARD, Case

TABLES = {
    "a": "LSTM and GRU",
    "b": "Custom cells",
    "c": "Layers on each other, both directions",
    "d": "Streams: the paper's conditions",
    "e": "Memory",
    "f": "Growth",
    "g": "Until the first step",
    "h": "A whole update",
    "i": "Several processes",
    "m": "Hoisted products",
}
OURS = "intrastream"
VANILLA = (OURS, f"{OURS} torch", f"{OURS} compiled", f"{OURS} torch-fused", "torch layer", "cell loop")
LOOPS = ("eager loop", "compiled loop", "TorchScript loop", "torch scan")
CUSTOM = ("lstm_peephole", "lstm_norm", "mgu", "rhn", "lstm_projection", "feedback")
MODES = ("memory=recompute", "chunk=64", "memory=recompute chunk=64")
SHAPES = ("chain", "loops", "ring", "delays", "states", "wide", "wide_loops", "gates", "lstms", "fed_back")


def vanilla_on_cpu() -> Iterator[Case]:
    """Table a on a CPU: all others at a size in the middle; there the input product is left out, too."""
    packages = ("TorchRL", "FlashRNN vanilla")
    for cell in ("lstm", "gru_cudnn"):
        for h in (128, 512):
            for b in (1, 8, 32):
                more = (*LOOPS, *packages) if (b, h) == (8, 128) else ()
                yield Case(table="a", cell=cell, T=128, B=b, H=h, systems=(*VANILLA, *more))
    for cell in ("lstm", "gru_cudnn"):
        bare = (OURS, "eager loop", "FlashRNN vanilla")
        yield Case(table="a", cell=cell, T=128, B=8, H=128, input_product=False, systems=bare)
        for dtype in ("bfloat16", "float64"):
            yield Case(table="a", cell=cell, T=128, B=8, H=128, dtype=dtype, systems=VANILLA)
    for cell in ("rnn_tanh", "rnn_relu"):
        yield Case(table="a", cell=cell, T=128, B=8, H=128, systems=VANILLA[:-1])


def custom_on_cpu() -> Iterator[Case]:
    """Table b on a CPU: every kind of loop at one size, the eager one at the others."""
    for b, h in ((8, 128), (32, 512), (1, 128)):
        for cell in CUSTOM:
            more = LOOPS if (b, h) == (8, 128) else LOOPS[:1]
            yield Case(table="b", cell=cell, T=128, B=b, H=h, systems=(*VANILLA[:3], *more))
    for cell, package in (("sru", "sru"), ("mingru", "accelerated-scan ref")):
        yield Case(table="b", cell=cell, T=128, B=8, F=80, H=128, systems=(*VANILLA[:3], LOOPS[0], package))


def stacks(
    at: tuple[tuple[int, int], ...], steps: int, systems: tuple[str, ...], dtype: str
) -> Iterator[Case]:
    """Table c. at: (B, H)."""
    for b, h in at:
        for cell in ("lstm", "gru_cudnn"):
            for layers, both in ((3, False), (1, True), (2, True)):
                sizes = {"T": steps, "B": b, "H": h, "layers": layers, "bidirectional": both}
                yield Case(table="c", cell=cell, dtype=dtype, systems=systems, **sizes)


def streams(steps: int, size: int, dtype: str) -> Iterator[Case]:
    """Table d, the conditions of Hwang & Sung 2015: streams side by side, parallel inside one or not."""
    ways = (OURS, f"{OURS} parallel=none")
    for b in (1, 4, 16, 64, 256, 2, 8, 32, 128):
        sizes = {"T": steps, "B": b, "H": size, "layers": 2}
        yield Case(table="d", cell="lstm_peephole", dtype=dtype, passes=(BOTH,), systems=ways, **sizes)


def modes(steps: int, lanes: int, size: int, megabytes: int, most: int, dtype: str) -> Iterator[Case]:
    """Table e: what is kept for the backward, and the longest chunk (most: looked at) that fits."""
    ours = (OURS, *(f"{OURS} {mode}" for mode in MODES))
    for what in ("network", "fit"):
        for cell in ("lstm", "gru_cudnn", "lstm_norm"):
            others = ("eager loop",) if cell == "lstm_norm" else ("torch layer", "cell loop")
            options = (("megabytes", megabytes), ("most", most)) if what == "fit" else ()
            sizes = {"T": steps if what == "network" else 64, "B": lanes, "H": size}
            who = {"passes": (BOTH,), "systems": (*ours, *others), "what": what, "options": options}
            yield Case(table="e", cell=cell, dtype=dtype, **sizes, **who)


def growing(steps: int, lanes: int, size: int, systems: tuple[str, ...], dtype: str) -> Iterator[Case]:
    """Table f: one size at a time grows from (steps, lanes, size, 1 layer)."""
    start = {"T": steps, "B": lanes, "H": size, "layers": 1}
    seen = set()
    for key, factors in (("T", (1, 4, 16)), ("B", (1, 4, 16)), ("H", (1, 2, 4, 8)), ("layers", (1, 2, 4))):
        for factor in factors:
            sizes = start | {key: start[key] * factor}
            if tuple(sizes.values()) not in seen:
                seen.add(tuple(sizes.values()))
                yield Case(table="f", cell="lstm", dtype=dtype, passes=(BOTH,), systems=systems, **sizes)


def graphs(sizes: tuple[int, ...]) -> Iterator[Case]:
    """Table f: planning of ever larger graphs."""
    for nodes in sizes:
        for shape in SHAPES:
            options = (("shape", shape), ("nodes", nodes))
            who = {"passes": ("plan",), "systems": (OURS,), "what": "planning", "options": options}
            yield Case(table="f", cell="graph", T=1, B=1, F=4, H=4, **who)


def starts(steps: int, lanes: int, size: int, dtype: str) -> Iterator[Case]:
    """Table g."""
    for cell in ("lstm", "lstm_peephole"):
        for caches in ("cold", "warm"):
            systems = (OURS, *(("torch layer",) if cell == "lstm" else ()), "eager loop", "compiled loop")
            who = {
                "passes": ("start",),
                "systems": systems,
                "what": "start",
                "options": (("caches", caches),),
            }
            yield Case(table="g", cell=cell, T=steps, B=lanes, H=size, dtype=dtype, **who)


def updates(lanes: int, size: int, dtype: str) -> Iterator[Case]:
    """Table h: 123 features and about 350 frames, as TIMIT has."""
    for cell in ("lstm", "lstm_peephole"):
        systems = (OURS, "torch layer" if cell == "lstm" else "eager loop")
        who = {"passes": ("train step",), "systems": systems, "what": "train step"}
        yield Case(table="h", cell=cell, T=350, B=lanes, F=123, H=size, layers=2, dtype=dtype, **who)


def shared_out(counts: tuple[int, ...], lanes: int, size: int, dtype: str) -> Iterator[Case]:
    """Table i: updates in several processes, each with a part of the lanes, or with as many as one alone."""
    systems = tuple(f"{OURS} {count}" for count in counts)
    sizes = {"T": 350, "B": lanes, "F": 123, "H": size, "layers": 2}
    for which in ("each", "shared"):
        who = {"passes": ("train step",), "systems": systems, "options": (("lanes", which),)}
        yield Case(table="i", cell="lstm_peephole", dtype=dtype, what="workers", **sizes, **who)


def on_cpu() -> Iterator[Case]:
    """Everything for a CPU."""
    yield from vanilla_on_cpu()
    yield from custom_on_cpu()
    yield from streams(64, 128, "float32")
    yield from modes(256, 16, 128, 32, 2048, "float32")
    yield from updates(16, 256, "float32")
    yield from stacks(
        ((8, 128), (32, 256)), 128, (OURS, f"{OURS} torch", "torch layer", "eager loop"), "float32"
    )
    yield from growing(64, 8, 128, (OURS, f"{OURS} torch", "torch layer"), "float32")
    yield from starts(128, 8, 128, "float32")
    yield from graphs((100, 1000, 10000))
    yield from shared_out((1, 2), 16, 128, "float32")


# (B, H) on a GPU: usual sizes first, then small and large ones. Peers have published 16 lanes of 768.
GRID = ((16, 512), (64, 1024), (64, 256), (16, 128), (16, 768), (1, 512), (128, 512), (16, 1024), (256, 128))
LINEAR = {
    "sru": ("sru",),
    "mingru": ("accelerated-scan scalar", "flash-linear-attention hgrn"),
    "minlstm": (),
}
RUNNERS = tuple(f"{OURS} {runner}" for runner in ("persistent", "streamed", "torch-fused", "torch"))
FLASH = tuple(f"FlashRNN {backend}" for backend in ("cuda", "cuda_fused", "triton_fused"))


# FlashRNN's Triton kernels take 64 units at most.
EVERYBODY = {("bfloat16", 16, 768), ("bfloat16", 16, 64)}


def vanilla_on_gpu(dtype: str, grid: tuple[tuple[int, int], ...]) -> Iterator[Case]:
    """Table a on a GPU; everybody, and also without the input product, where EVERYBODY says."""
    for b, h in grid:
        for cell in ("lstm", "gru_cudnn"):
            more = ("TorchRL Triton", *FLASH) if (dtype, b, h) in EVERYBODY else ()
            systems = (OURS, *RUNNERS, "torch layer", "eager loop", *more)
            yield Case(table="a", cell=cell, T=512, B=b, H=h, dtype=dtype, systems=systems)
            if more:
                who = {"input_product": False, "systems": (OURS, "eager loop", *more)}
                yield Case(table="a", cell=cell, T=512, B=b, H=h, dtype=dtype, **who)


def custom_on_gpu(dtype: str, grid: tuple[tuple[int, int], ...], loops: tuple[str, ...]) -> Iterator[Case]:
    """Table b on a GPU."""
    for b, h in grid:
        for cell in CUSTOM:
            yield Case(table="b", cell=cell, T=512, B=b, H=h, dtype=dtype, systems=(OURS, *RUNNERS, *loops))


def linear_on_gpu(dtype: str, at: tuple[tuple[int, int], ...]) -> Iterator[Case]:
    """Table b on a GPU: cells without a matrix in the loop."""
    for b, h in at:
        for cell, packages in LINEAR.items():
            ours = (OURS, f"{OURS} elementwise", f"{OURS} scan", f"{OURS} torch")
            yield Case(table="b", cell=cell, T=512, B=b, F=256, H=h, dtype=dtype, systems=(*ours, *packages))


def products(dtype: str, sizes: tuple[int, ...], ways: tuple[str, ...]) -> Iterator[Case]:
    """Table m: [16384, size] x [size, size]."""
    for size in sizes:
        for way in ways:
            who = {"passes": (FORWARD,), "systems": (f"{OURS} triton", "torch"), "what": "product"}
            sizes_of = {"T": 16384, "B": 1, "F": size, "H": size}
            yield Case(table="m", cell="product", dtype=dtype, options=(("way", way),), **sizes_of, **who)


def on_gpu() -> Iterator[Case]:
    """Everything for a GPU."""
    bf16, fp16 = "bfloat16", "float16"
    yield from vanilla_on_gpu(bf16, GRID[:2])
    yield from custom_on_gpu(bf16, GRID[:1], LOOPS[:1])
    yield from products(bf16, (1024, 2048, 4096), ("forward",))
    yield from linear_on_gpu(bf16, ((64, 1024),))
    yield from vanilla_on_gpu(fp16, GRID[:2])
    yield from products(bf16, (1024, 4096), ("dx", "dw"))
    yield from vanilla_on_gpu(bf16, GRID[2:])
    yield from custom_on_gpu(bf16, GRID[1:3], LOOPS[:2])
    yield from vanilla_on_gpu(bf16, ((16, 64),))
    yield from vanilla_on_gpu(fp16, GRID[2:])
    yield from vanilla_on_gpu("float32", GRID[:4])
    yield from linear_on_gpu(bf16, ((16, 256),))
    yield from products(fp16, (1024, 2048, 4096), ("forward",))
    yield from stacks(((16, 512), (64, 1024)), 512, (OURS, "torch layer", "eager loop"), bf16)
    yield from streams(512, 512, bf16)
    yield from modes(1024, 64, 512, 4096, 1 << 16, bf16)
    yield from growing(256, 16, 256, (OURS, "torch layer"), bf16)
    yield from starts(512, 16, 512, bf16)
    yield from updates(16, 512, bf16)
    yield from shared_out((1, 2, 4, 8), 64, 512, bf16)


SETS = {"cpu": on_cpu, "gpu": on_gpu}


def select(asked: str, device: str = "") -> tuple[str, list[Case]]:
    """(device, cases) of a set, or of tables by their letters on a device; "": all of what is here.

    Raises ConfigError for a name that is neither.
    """
    here = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = {"cpu": "cpu", "gpu": "cuda"}.get(asked, here)
    every = list(SETS["gpu" if kind == "cuda" else "cpu"]())
    if not asked or asked in SETS:
        return kind, every
    letters = asked.split(",")
    if unknown := [letter for letter in letters if letter not in TABLES]:
        known = ", ".join((*SETS, *TABLES))
        raise ConfigError("--tables", f"no table {unknown[0]!r}", f"There are {known}; letters with commas.")
    return kind, [case for letter in letters for case in every if case.table == letter]

"""Matrix products of the torch runner, each by the library that is faster at it.

torch's own fp32 products on a CPU go to MKL, which leaves AVX-512 unused where the processor is not Intel's:
on an AMD EPYC (torch 2.13, one thread) [4096, 512] x [512, 2048] ran at 48 GFLOP/s, and at 78 to 105 by
oneDNN, which torch brings along for its own nn.LSTM. Small products are no faster there, and pay for a
result of their own. The choice depends on the machine and the shape alone, never on a measurement, so that
runs can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# Multiplications from which oneDNN won: for a whole chunk, and inside a loop, where its result is one more
# tensor ([8, 512] x [512, 2048] was 1.5 times faster, [32, 128] x [128, 512] not).
LARGE = 1 << 21
LARGE_STEP = 1 << 22
# oneDNN adds to nothing, and writes no columns of a wider tensor: its result is copied or added, PIECE rows
# at a time. From DEEP on that is still faster (measured as above: at 128 by a factor of 3, at 16 not).
PIECE = 512
DEEP = 32


@cache
def _onednn() -> Callable[..., Tensor] | None:
    """oneDNN's product as torch ships it (for torch.compile's CPU code), or None where MKL is as good."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    if "AuthenticAMD" not in text or "avx512f" not in text or not torch.backends.mkldnn.is_available():
        return None
    space = getattr(torch.ops, "mkldnn", None)
    return getattr(space, "_linear_pointwise", None)


def _suits(x: Tensor, n: int) -> bool:
    """Whether x [M, K] times [K, n] should go to oneDNN."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[0] * x.shape[1] * n >= LARGE
        and _onednn() is not None
    )


def _call(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    op = _onednn()
    assert op is not None
    return op(_plain(x), _plain(w), bias, "none", [], "")


def _plain(x: Tensor) -> Tensor:
    """oneDNN is a hundred times slower where rows are farther apart than they are long: copy such, in the
    order in which they lie in memory.
    """
    if x.is_contiguous() or x.t().is_contiguous():
        return x
    return x.t().contiguous().t() if x.stride(0) == 1 else x.contiguous()


def times_t(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [M, K] by w [N, K] -> x w^T (+ bias [N]), [M, N]."""
    if _suits(x, w.shape[0]):
        return _call(x, w, bias)
    return torch.mm(x, w.t()) if bias is None else torch.addmm(bias, x, w.t())


def piece_rows(like: Tensor, m: int, n: int, k: int) -> int:
    """Rows of the product of m * n * k that `add_times_t` makes for a moment."""
    return min(m, PIECE) if k >= DEEP and copies_columns(like, m, n, k) else 0


def add_times_t(
    out: Tensor, x: Tensor, w: Tensor, bias: Tensor | None = None, coef: float = 1.0, fresh: bool = False
) -> None:
    """Out [M, N] += coef * x w^T + bias for x [M, K], w [N, K], bias [N]; fresh: nothing is in out yet."""
    m, k = x.shape
    if coef == 1.0 and (rows := piece_rows(x, m, w.shape[0], k)):
        for at in range(0, m, rows):
            part = out[at : at + rows]
            put = part.copy_ if fresh else part.add_
            put(_call(x[at : at + rows], w, bias))  # without a name: gone before the next one is made
        return
    if bias is not None:
        out.copy_(bias) if fresh else out.add_(bias)
        fresh = False
    out.addmm_(x, w.t(), beta=0.0 if fresh else 1.0, alpha=coef)


def times(g: Tensor, w: Tensor) -> Tensor:
    """g [M, N] by w [N, K] -> g w, [M, K]."""
    return _call(g, w.t()) if _suits(g, w.shape[1]) else torch.mm(g, w)


def outer(g: Tensor, x: Tensor) -> Tensor:
    """g [M, N], x [M, K] -> g^T x, [N, K]: a weight's gradient over M rows."""
    return _call(x.t(), g.t()).t() if _suits(g, x.shape[1]) else torch.mm(g.t(), x)


def copies_columns(like: Tensor, m: int, n: int, k: int) -> bool:
    """Whether a product of m * n * k copies what is a part of the columns of a wider tensor."""
    return (
        like.device.type == "cpu"
        and like.dtype == torch.float32
        and m * n * k >= LARGE
        and _onednn() is not None
    )


def copies_weights(like: Tensor, lanes: int, n: int, k: int) -> bool:
    """Whether `step_product` turns its weights [n, k] into a copy."""
    large = like.device.type == "cpu" and like.dtype == torch.float32 and _onednn() is not None
    return large and lanes * n * k >= LARGE_STEP


def step_product(w: Tensor, lanes: int) -> dict[str, Callable[..., object]]:
    """How a loop of `lanes` lanes multiplies by its weights w [N, K] at every step.

    add(out, x): out += x w^T; back(out, g): out += g w; base(a, g, out): out = a + g w;
    mm(g, out): out = g w.
    """
    if not copies_weights(w, lanes, *w.shape):
        wt = w.t()
        return {
            "add": lambda out, x: out.addmm_(x, wt),
            "back": lambda out, g: out.addmm_(g, w),
            "base": lambda a, g, out: torch.addmm(a, g, w, out=out),
            "mm": lambda g, out: torch.mm(g, w, out=out),
        }
    back = w.t().contiguous()
    return {
        "add": lambda out, x: out.add_(_call(x, w)),
        "back": lambda out, g: out.add_(_call(g, back)),
        "base": lambda a, g, out: torch.add(a, _call(g, back), out=out),
        "mm": lambda g, out: out.copy_(_call(g, back)),
    }

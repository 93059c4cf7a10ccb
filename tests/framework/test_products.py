"""Products of the torch runner by whoever is faster: what they give, and what they say that they take."""

from __future__ import annotations

import pytest
import torch

from framework.runners.products import PIECE, add_times_t, piece_rows
from scripts.bench.memory import peak_bytes


@pytest.mark.parametrize("coef", [1.0, -2.0])
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("k", [5, 40], ids=["flat", "deep"])
def test_added_to_columns_of_a_wider_tensor(k: int, biased: bool, fresh: bool, coef: float):
    """Rows that are no whole number of pieces; the columns beside stay. Errors of a sum of k products."""
    g = torch.Generator().manual_seed(0)
    m, n = 2 * PIECE + 76, 70
    x, w, bias = (torch.randn(shape, generator=g) for shape in ((m, k), (n, k), (n,)))
    out = torch.full((m, n + 7), 3.0)
    if fresh:
        out[:, 4 : 4 + n] = torch.nan
    want = coef * (x.double() @ w.double().t()) + (bias.double() if biased else 0) + (0 if fresh else 3)
    add_times_t(out[:, 4 : 4 + n], x, w, bias if biased else None, coef, fresh)
    scale = abs(coef) * (x.double().abs() @ w.double().abs().t()) + 7
    assert ((out[:, 4 : 4 + n] - want).abs() <= (k + 3) * 2**-24 * scale).all()
    assert (out[:, :4] == 3).all() and (out[:, 4 + n :] == 3).all()


def test_pieces_bound_what_a_product_takes_for_a_moment():
    m, k, n = 4 * PIECE, 40, 70
    x, w, out = torch.randn(m, k), torch.randn(n, k), torch.empty(m, n + 7)
    found = peak_bytes(lambda: add_times_t(out[:, :n], x, w, fresh=True))
    given = sum(t.untyped_storage().nbytes() for t in (x, w, out))  # views count their whole storage
    assert found <= given + 4 * n * piece_rows(x, m, n, k)

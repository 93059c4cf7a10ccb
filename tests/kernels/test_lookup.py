"""Index inputs under the interpreter: rows of a table, and the sum of gradients by index."""

from __future__ import annotations

import pytest
import torch

from kernels.lookup import lookup, lookup_dw
from tests.interpreter import concurrent
from tests.kernels.closeness import assert_as_exact_as, poisoned

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "v"), [(1, 1, 1), (37, 70, 11), (16, 64, 300), (0, 5, 3), (5, 0, 3)])
def test_lookup(m, n, v, dtype):
    weight = torch.randn(n, v).to(dtype)
    rows = torch.randint(0, v, (m,))
    out = poisoned(m, n, dtype=dtype)
    assert torch.equal(lookup(weight.T, rows, out=out), weight.T[rows])
    bias = torch.randn(n)
    before = torch.randn(m, n)
    exact = torch.tanh(before.double() + weight.T[rows].double() + bias.double())
    reference = torch.tanh(before + weight.T[rows].float() + bias)
    result = lookup(weight.T, rows, bias, "tanh", out=before, accumulate=True)
    assert_as_exact_as(result, reference, exact)


def test_an_index_outside_of_the_table_gives_nan():
    rows = torch.tensor([0, 3, -1, 2], dtype=torch.int32)
    result = lookup(torch.ones(3, 5), rows)
    assert result.isnan().all(dim=1).tolist() == [False, True, True, False]
    assert result[[0, 3]].eq(1).all()
    blank = lookup(torch.ones(3, 5), rows, out=torch.full((4, 5), 2.0), accumulate=True, blank=True)
    assert blank[[0, 2, 3]].tolist() == [[3.0] * 5, [2.0] * 5, [3.0] * 5] and blank[1].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "v"), [(1, 1, 1), (100, 70, 11), (33, 64, 90), (0, 5, 3)])
def test_gradient(m, n, v, dtype):
    """Indices that occur often, once and never; into the transposed gradient of a weight [n, v]."""
    rows = torch.randint(0, max(1, v // 2), (m,))
    dy = torch.randn(m, n).to(dtype)
    gradient = poisoned(n, v, dtype=dtype)
    with concurrent() as run:
        lookup_dw(rows, dy, gradient.T)
    assert run.launches == 1
    exact = torch.zeros(v, n, dtype=torch.float64).index_add(0, rows, dy.double())
    reference = torch.zeros(v, n).index_add(0, rows, dy.float()).to(dtype)
    assert_as_exact_as(gradient.T, reference, exact)
    total = torch.randn(v, n)
    expected, exact = total + exact.float(), total.double() + exact
    lookup_dw(rows, dy, total, accumulate=True)
    assert_as_exact_as(total, expected, exact)


def test_wrong_calls_say_what_is_wrong():
    with pytest.raises(ValueError, match="rows is"):
        lookup(torch.ones(3, 5), torch.ones(2))
    with pytest.raises(ValueError, match=r"out is \[2, 4\]. Pass \[2, 5\]"):
        lookup(torch.ones(3, 5), torch.zeros(2, dtype=torch.int64), out=torch.ones(2, 4))
    with pytest.raises(ValueError, match="needs `out`"):
        lookup(torch.ones(3, 5), torch.zeros(2, dtype=torch.int64), accumulate=True)
    with pytest.raises(ValueError, match="do not fit"):
        lookup_dw(torch.zeros(2, dtype=torch.int64), torch.ones(3, 4), torch.ones(3, 4))

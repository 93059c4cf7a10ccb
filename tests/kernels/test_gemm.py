"""The matmul under the interpreter against float64: odd sizes, views, dtypes, every epilogue; and both
gradients.
"""

from __future__ import annotations

import pytest
import torch

from kernels import gemm
from kernels.activations import ACTIVATIONS, activation_backward
from kernels.gemm import matmul, matmul_dw, matmul_dx
from kernels.launch import GemmLaunch, GemmTile
from kernels.sums import ROWS_PER_PART, column_sum
from tests.interpreter import concurrent
from tests.interpreter.patches import truncate_tf32
from tests.kernels.closeness import assert_as_exact_as, poisoned

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Blocks are 16 x 32 x 16 under the interpreter: below, at and above one, and single rows and columns.
SIZES = [(1, 1, 1), (37, 70, 45), (16, 32, 16), (5, 3, 131), (33, 1, 7), (1, 65, 20)]
SMALL = GemmLaunch(GemmTile(16, 32, 16, group=2), splits=1, programs=2)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_product(result, a, b):
    """`result` is a @ b."""
    assert_as_exact_as(
        result, (a @ b).to(result.dtype), a.double() @ b.double(), a.abs().double() @ b.abs().double()
    )


def operands(m, n, k, dtype):
    return torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_product(size, dtype):
    m, n, k = size
    a, b = operands(m, n, k, dtype)
    out = poisoned(m, n, dtype=dtype)
    assert matmul(a, b, out=out) is out
    assert_product(out, a, b)
    assert_product(matmul(a, b), a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_epilogue(activation, dtype):
    """Bias, activation, and adding to a range of columns of a wider buffer, which stays as it was
    elsewhere.
    """
    a, b = operands(19, 35, 40, dtype)
    bias = torch.randn(35).to(dtype)
    wide = torch.randn(19, 50).to(dtype)
    wide[:, :7] = wide[:, 42:] = float("nan")
    terms = a.abs().double() @ b.abs().double()
    before = wide.clone()
    apply = getattr(torch, activation) if activation else lambda x: x
    exact = apply(a.double() @ b.double() + bias.double() + before[:, 7:42].double())
    reference = apply(a @ b + bias + before[:, 7:42])
    result = matmul(a, b, bias, activation, out=wide[:, 7:42], accumulate=True)
    assert_as_exact_as(result, reference, exact, terms)
    assert wide[:, :7].isnan().all() and wide[:, 42:].isnan().all()
    plain = apply(a.double() @ b.double() + bias.double())
    assert_as_exact_as(matmul(a, b, bias, activation), apply(a @ b + bias), plain, terms)


def test_several_sources_add_up_in_one_buffer():
    """float32 sums of bfloat16 products: nothing is rounded on the way."""
    buffer = poisoned(9, 40, dtype=torch.float32)
    sources = [operands(9, 40, k, torch.bfloat16) for k in (20, 33, 8)]
    for i, (a, b) in enumerate(sources):
        matmul(a, b, out=buffer, accumulate=i > 0)
    exact = sum(a.double() @ b.double() for a, b in sources)
    terms = sum(a.abs().double() @ b.abs().double() for a, b in sources)
    assert_as_exact_as(buffer, sum(a.float() @ b.float() for a, b in sources), exact, terms)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_views(dtype):
    """Transposed weights, every other row, a broadcast row, columns of a wider buffer, a transposed
    result.
    """
    wide_a = torch.randn(40, 3, 60).to(dtype)
    weight = torch.randn(70, 60).to(dtype)
    views = [
        (wide_a[:, 1, :], weight.T),
        (wide_a[::2, 0, 5:50], weight[:, 5:50].T),
        (wide_a[3:4, 2, :].expand(6, 60), weight.T),
        (wide_a[:, :, 7].T, torch.randn(80, 40).to(dtype)[::2].T[:, :33]),
    ]
    for a, b in views:
        out = poisoned(b.shape[1], a.shape[0], dtype=dtype).T
        assert_product(matmul(a, b, out=out), a, b)


@pytest.mark.parametrize("tma", [False, True])
def test_nothing_around_the_operands_is_used(tma):
    """Operands in the middle of buffers full of NaN, sizes that fill no block."""

    def inside(x):
        buffer = poisoned(x.shape[0] + 40, x.shape[1] + 48, dtype=x.dtype)
        buffer[8 : 8 + x.shape[0], 8 : 8 + x.shape[1]] = x
        return buffer[8 : 8 + x.shape[0], 8 : 8 + x.shape[1]]

    a, b = operands(21, 40, 56, torch.float32)
    launch = GemmLaunch(GemmTile(16, 32, 32, tma=tma), 1, 3)
    assert_product(matmul(inside(a), inside(b), launch=launch), a, b)
    assert_product(matmul_dw(inside(a), inside(a @ b), launch=launch), a.T, a @ b)
    assert_as_exact_as(column_sum(inside(a)), a.sum(0), a.double().sum(0), a.abs().sum(0))


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_rows(index):
    table, b = operands(11, 37, 45, torch.float32)
    rows = torch.randint(0, 11, (20,), dtype=index)
    assert_product(matmul(table, b, rows=rows), table[rows], b)
    rows[3], rows[7] = 11, -1
    result = matmul(table, b, rows=rows)
    assert result.isnan().any(dim=1).nonzero().flatten().tolist() == [3, 7]


@pytest.mark.parametrize("m, n, k", [(0, 5, 4), (5, 0, 4), (5, 6, 0), (0, 0, 0)])
def test_empty(m, n, k):
    """No rows, no columns: nothing happens. Nothing to sum: zeros, or what was there."""
    a, b = operands(m, n, k, torch.float32)
    assert torch.equal(matmul(a, b, out=poisoned(m, n, dtype=torch.float32)), torch.zeros(m, n))
    bias = torch.randn(n)
    assert torch.equal(matmul(a, b, bias, "relu"), bias.relu().expand(m, n))
    out = torch.ones(m, n)
    assert torch.equal(matmul(a, b, out=out, accumulate=True), torch.ones(m, n))
    assert torch.equal(matmul_dw(a, torch.ones(m, n)), (a.T @ torch.ones(m, n)))


def test_tf32_multiplies_short_operands_exactly():
    a, b = operands(20, 33, 50, torch.float32)
    short_a, short_b = (torch.from_numpy(truncate_tf32(x.numpy())) for x in (a, b))
    assert_product(matmul(a, b, precision="tf32"), short_a, short_b)
    assert (matmul(a, b, precision="tf32") - matmul(a, b)).abs().max() > 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype):
    """dx, dW (long reduction, in parts, into the transposed gradient of a weight [n, k]) and the bias's."""
    m, n, k = 700, 21, 19
    a, dy = torch.randn(m, k).to(dtype), torch.randn(m, n).to(dtype)
    weight = torch.randn(n, k).to(dtype)
    assert_product(matmul_dx(dy, weight.T), dy, weight)
    gradient = poisoned(n, k, dtype=dtype)
    matmul_dw(a, dy, out=gradient.T)
    assert_product(gradient, dy.T, a)
    total = torch.randn(n, k)
    reference = total + dy.T.float() @ a.float()
    exact = total.double() + dy.double().T @ a.double()
    matmul_dw(a, dy, out=total.T, accumulate=True)
    assert_as_exact_as(total, reference, exact, dy.abs().double().T @ a.abs().double())
    sums = column_sum(dy)
    assert_as_exact_as(sums, dy.float().sum(0), dy.double().sum(0), dy.abs().sum(0))
    sums = column_sum(dy, out=sums, accumulate=True)
    assert_as_exact_as(sums, dy.float().sum(0) * 2, dy.double().sum(0) * 2, dy.abs().sum(0))


@pytest.mark.parametrize("rows", [0, 1, ROWS_PER_PART - 1, ROWS_PER_PART, ROWS_PER_PART + 1])
def test_column_sum_sizes(rows):
    x = torch.randn(rows, 67)[:, 1:66]
    out = poisoned(65, dtype=torch.float32)
    assert_as_exact_as(column_sum(x, out), x.sum(0), x.double().sum(0), x.abs().sum(0))


@pytest.mark.parametrize("splits", [2, 3, 7])
def test_parts_are_complete_and_equal_bits(splits):
    """Every split of the reduction gives the sum; equal calls give equal bits in any order of the
    programs.
    """
    a, b = operands(20, 40, 130, torch.float32)
    bias = torch.randn(40)
    exact = torch.tanh(a.double() @ b.double() + bias.double())
    launch = GemmLaunch(SMALL.tile, splits, programs=3)
    results = []
    for seed in range(3):
        with concurrent(seed=seed, policy="priority" if seed else "random"):
            results.append(
                matmul(a, b, bias, "tanh", out=poisoned(20, 40, dtype=torch.float32), launch=launch)
            )
    terms = a.abs().double() @ b.abs().double()
    assert_as_exact_as(results[0], torch.tanh(a @ b + bias), exact, terms)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("programs", [1, 2, 5, 40])
@pytest.mark.parametrize("group", [1, 3, 8])
def test_any_grid_covers_every_tile_once(programs, group):
    a, b = operands(70, 50, 16, torch.float32)
    launch = GemmLaunch(GemmTile(16, 32, 16, group=group), 1, programs)
    with concurrent(races=True):  # two programs that write one tile would race
        out = matmul(a, b, out=poisoned(70, 50, dtype=torch.float32), launch=launch)
    assert_product(out, a, b)


@pytest.fixture
def descriptors(monkeypatch):
    """The tensor descriptors that were made, as (shape, block) pairs."""
    made = []

    def spy(x, rows, columns):
        descriptor = original(x, rows, columns)
        made.append((list(descriptor.shape), list(descriptor.block_shape)))
        return descriptor

    original = gemm._descriptor
    monkeypatch.setattr(gemm, "_descriptor", spy)
    return made


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensor_descriptors(descriptors, dtype, splits):
    """Operands packed along rows and along columns, whose last blocks are partial; and a weight's
    gradient.
    """
    launch = GemmLaunch(GemmTile(16, 32, 16, group=2, tma=True), splits, 3)
    a, b = operands(40, 72, 56, dtype)
    assert_product(matmul(a, b, out=poisoned(40, 72, dtype=dtype), launch=launch), a, b)
    assert descriptors == [([40, 56], [16, 16]), ([56, 72], [16, 32])]
    weight = b.T.contiguous()
    assert_product(matmul(a, weight.T, launch=launch), a, b)
    assert descriptors[2:] == [([40, 56], [16, 16]), ([72, 56], [32, 16])]
    assert_product(matmul_dw(a, a @ b, launch=launch), a.T, a @ b)
    assert descriptors[4:] == [([40, 56], [16, 16]), ([40, 72], [16, 32])]


def test_operands_that_descriptors_cannot_take(descriptors):
    """Odd strides, an unaligned start, gathered rows, nothing to sum: the same product by pointers."""
    launch = GemmLaunch(GemmTile(16, 32, 16, tma=True), 1, 3)
    for a, b in [
        operands(20, 40, 31, torch.float16),  # a row is 62 bytes
        (torch.randn(20, 64)[:, 1:33], torch.randn(32, 40)),  # starts 4 bytes late
        (torch.randn(20, 64)[:, ::2], torch.randn(32, 40)),  # not packed
        (torch.randn(20, 0), torch.randn(0, 40)),
    ]:
        assert_product(matmul(a, b, launch=launch), a, b)
    a, b = operands(20, 40, 32, torch.float32)
    rows = torch.randint(0, 20, (9,))
    assert_product(matmul(a, b, rows=rows, launch=launch), a[rows], b)
    assert descriptors == []


def test_offsets_beyond_2_to_the_31():
    """Operands and result in one storage of 2**31 elements, of which only a few pages are ever touched."""
    storage = torch.empty(2**31 + 2**16, dtype=torch.float16)
    a = storage.as_strided((3, 20), (2**30 + 7, 1))
    b = storage.as_strided((20, 5), (1, 2**29 + 3), 1000)
    out = storage.as_strided((3, 5), (2**30 + 9, 1), 2000)
    a.copy_(torch.randn(3, 20))
    b.copy_(torch.randn(20, 5))
    out.fill_(float("nan"))
    matmul(a, b, out=out)
    assert_product(out, a, b)
    gradient = storage.as_strided((20, 5), (1, 2**29 + 1), 3000)
    matmul_dw(a, out, out=gradient)
    assert_product(gradient, a.T, out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_activation_backward(activation, dtype):
    """Against autograd, in place too; values include the ends and both sides of 0."""
    x = torch.cat([torch.linspace(-30, 30, 100), torch.linspace(-0.3, 0.3, 99), torch.zeros(1)]).reshape(
        20, 10
    )
    dy = torch.randn(20, 10).to(dtype)
    y = getattr(torch, activation)(x.to(dtype).requires_grad_())
    (reference,) = torch.autograd.grad(y, y.grad_fn.next_functions[0][0].variable, dy)
    values = y.detach().double()
    slope = {"sigmoid": values * (1 - values), "tanh": 1 - values**2, "relu": (values > 0).double()}[
        activation
    ]
    exact = dy.double() * slope
    assert_as_exact_as(activation_backward(dy, y.detach(), activation), reference, exact)
    assert_as_exact_as(activation_backward(dy, y.detach(), activation, out=dy), reference, exact)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_activation_values(activation):
    """Far out, around 0 and where tanh changes its formula, to float32's own rounding, relative to each
    value.
    """
    x = torch.cat(
        [torch.linspace(-100, 100, 401), torch.linspace(-0.26, 0.26, 521), torch.tensor([1e-6, -1e-20])]
    )
    apply = getattr(torch, activation)
    result = matmul(torch.eye(1), x[None, :], activation=activation).double()
    exact = apply(x.double())[None, :]
    # 1 + exp, its quotient, exp's own rounding: 4 units in the last place; below 1e-30 exp underflows
    assert ((result - exact).abs() <= 4 * torch.finfo(torch.float32).eps * exact.abs() + 1e-30).all()
    special = torch.tensor([[float("inf"), float("-inf"), float("nan")]])
    result = matmul(torch.ones(1, 1), special, activation=activation)
    torch.testing.assert_close(result, apply(special), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"b": torch.ones(5, 3)}, r"a is \[2, 4\] of float32, b is \[5, 3\]"),
        ({"b": torch.ones(4, 3).half()}, "Both must be"),
        ({"bias": torch.ones(4)}, r"bias is \[4\]"),
        ({"rows": torch.ones(2)}, "rows is"),
        ({"rows": torch.zeros(6, dtype=torch.int64)[::2]}, "rows.contiguous"),
        ({"out": torch.ones(3, 3)}, r"out is \[3, 3\] of float32. Pass \[2, 3\]"),
        ({"accumulate": True}, "needs `out`"),
        ({"activation": "swish"}, "'swish' is unknown. Use one of sigmoid"),
        ({"precision": "high"}, "'high' is unknown"),
    ],
)
def test_wrong_calls_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        matmul(**{"a": torch.ones(2, 4), "b": torch.ones(4, 3), **arguments})

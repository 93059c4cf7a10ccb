"""Where the interpreter is mended, it computes what torch computes."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from tests.interpreter.patches import bf16_to_f32, f32_to_bf16, truncate_tf32

SPECIAL = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, -3.0000001, 1e-40, 3.4e38, float("inf"), float("nan")]


@triton.jit
def dot_kernel(p_a, p_b, p_out, K, PRECISION: tl.constexpr, N: tl.constexpr):
    o = tl.arange(0, N)
    acc = tl.zeros((N, N), tl.float32)
    for k in range(tl.cdiv(K, N)):  # a bound that is a tensor
        b_a = tl.load(p_a + o[:, None] * K + (k * N + o)[None, :])
        b_b = tl.load(p_b + (k * N + o)[:, None] * N + o[None, :])
        acc = tl.dot(b_a, b_b, acc, input_precision=PRECISION)
    tl.store(p_out + o[:, None] * N + o[None, :], acc)


@triton.jit
def cast_kernel(p_in, p_out, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_out + o, tl.load(p_in + o).to(p_out.dtype.element_ty))


@triton.jit
def arithmetic_kernel(p_a, p_b, p_out, N: tl.constexpr):
    o = tl.arange(0, N)
    b_a = tl.load(p_a + o)
    b_b = tl.load(p_b + o)
    tl.store(p_out + o, tl.where(b_a < b_b, -b_a, b_a + b_b) * b_b)


def dot(a: torch.Tensor, b: torch.Tensor, precision: str) -> torch.Tensor:
    out = torch.empty(16, 16)
    dot_kernel[(1,)](a, b, out, a.shape[1], PRECISION=precision, N=16)
    return out


def test_dot_of_bfloat16():
    torch.manual_seed(0)
    a, b = torch.randn(16, 48).bfloat16(), torch.randn(48, 16).bfloat16()
    torch.testing.assert_close(dot(a, b, "ieee"), a.float() @ b.float())


def test_dot_of_tf32_drops_low_bits_and_ieee_does_not():
    torch.manual_seed(0)
    a, b = torch.randn(16, 48), torch.randn(48, 16)
    short_a, short_b = (torch.from_numpy(truncate_tf32(x.numpy())) for x in (a, b))
    torch.testing.assert_close(dot(a, b, "tf32"), short_a @ short_b)
    torch.testing.assert_close(dot(a, b, "ieee"), a @ b)
    assert (dot(a, b, "tf32") - a @ b).abs().max() > 1e-4


def test_rounding_to_bfloat16():
    torch.manual_seed(0)
    values = torch.cat([torch.tensor(SPECIAL), torch.randn(500)])
    bits = torch.from_numpy(f32_to_bf16(values.numpy()).astype("int32")).to(torch.int16).view(torch.bfloat16)
    torch.testing.assert_close(bits, values.bfloat16(), rtol=0, atol=0, equal_nan=True)
    back = torch.from_numpy(bf16_to_f32(f32_to_bf16(values.numpy())))
    torch.testing.assert_close(back, values.bfloat16().float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("target", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32])
@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_casts(source, target):
    torch.manual_seed(0)
    values = (torch.randn(64) * 100).to(source)
    out = torch.empty(64, dtype=target)
    cast_kernel[(1,)](values, out, N=64)
    expected = values.float().to(target) if source == torch.float64 else values.to(target)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_arithmetic_of_bfloat16():
    torch.manual_seed(0)
    a, b = torch.randn(64).bfloat16(), torch.randn(64).bfloat16()
    out = torch.empty_like(a)
    arithmetic_kernel[(1,)](a, b, out, N=64)
    torch.testing.assert_close(out, torch.where(a < b, -a, a + b) * b, rtol=0, atol=0)


def test_language_is_as_before_after_a_launch():
    before = tl.load
    dot(torch.ones(16, 16), torch.ones(16, 16), "ieee")
    assert tl.load is before

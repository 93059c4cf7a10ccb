"""Mends Triton's interpreter (3.6 and 3.9) where a GPU would answer otherwise, or where it fails.

* bfloat16: the stock interpreter multiplies the raw bits in `tl.dot` and in arithmetic, and truncates on the
  way from float32.
* tf32: the stock interpreter multiplies in full float32; here the operands lose their 13 lowest bits, as
  tensor cores drop them.
* numpy >= 2.4 with Triton 3.6: a loop bound that is a tensor raises.
* numpy warns on overflow, a GPU does not: quiet.
* Every call of a device function patched the whole language module again and left it so: once per launch
  here, then undone.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import triton.language as tl
import triton.runtime.interpreter as interpreter
from triton._C.libtriton import ir  # type: ignore # compiled, without stubs
from triton.language import core  # the interpreter patches the modules that `_sees_language` can see

_Builder = interpreter.InterpreterBuilder
_Handle = interpreter.TensorHandle
_installed = False
_language_patched = False


def install() -> None:
    """Mend the interpreter of this process; a second call does nothing."""
    global _installed
    if not _installed:
        _installed = True
        _mend_bfloat16()
        _mend_language_patch()
        _mend_call()


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """The values of bfloat16 numbers that are held as uint16."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(values: np.ndarray) -> np.ndarray:
    """Round to the nearest bfloat16, ties to even, as GPUs and torch do; returns uint16."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        np.uint16
    )
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def truncate_tf32(values: np.ndarray) -> np.ndarray:
    """Keep the 10 highest bits of the mantissa: what a tensor core reads of a float32 operand."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)


def _is_bf16(handle: Any) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _widen(handle: Any) -> Any:
    return _Handle(bf16_to_f32(handle.data), tl.float32) if _is_bf16(handle) else handle


def _mend_bfloat16() -> None:
    stock_cast, stock_dot = _Builder.cast_impl, _Builder.create_dot
    stock_binary, stock_unary, stock_fma = _Builder.binary_op, _Builder.unary_op, _Builder.create_fma

    def narrow(result: Any) -> Any:
        if result.data.dtype == np.bool_:  # a comparison
            return _Handle(result.data, tl.bfloat16)
        return _Handle(f32_to_bf16(result.data), tl.bfloat16)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        target = dst_type.scalar
        if _is_bf16(src) == (target == tl.bfloat16):
            return src if _is_bf16(src) else stock_cast(self, src, dst_type)
        if _is_bf16(src):
            return stock_cast(self, _widen(src), dst_type)
        return _Handle(f32_to_bf16(src.data.astype(np.float32)), tl.bfloat16)

    def create_dot(
        self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any
    ) -> Any:
        if a.dtype.scalar == tl.float32 and input_precision == ir.INPUT_PRECISION.TF32:
            a = _Handle(truncate_tf32(a.data), tl.float32)
            b = _Handle(truncate_tf32(b.data), tl.float32)
        return stock_dot(self, _widen(a), _widen(b), d, input_precision, max_num_imprecise_acc)

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        if _is_bf16(lhs):
            return narrow(stock_binary(self, _widen(lhs), _widen(rhs), op))
        return stock_binary(self, lhs, rhs, op)

    def unary_op(self: Any, arg: Any, op: Any) -> Any:
        return narrow(stock_unary(self, _widen(arg), op)) if _is_bf16(arg) else stock_unary(self, arg, op)

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        if _is_bf16(z):
            return narrow(stock_fma(self, _widen(x), _widen(y), _widen(z)))
        return stock_fma(self, x, y, z)

    _Builder.cast_impl, _Builder.create_dot = cast_impl, create_dot
    _Builder.binary_op, _Builder.unary_op, _Builder.create_fma = binary_op, unary_op, create_fma


def _sees_language() -> tuple[Any, Any]:
    return tl, core


class _Scope:
    """Undoes the patch of the language modules; an inner one (of a device function) undoes nothing."""

    def __init__(self, inner: Any = None):
        self._inner = inner

    def restore(self) -> None:
        global _language_patched
        if self._inner is not None:
            self._inner.restore()
            _language_patched = False


def _mend_language_patch() -> None:
    stock_patch = interpreter._patch_lang

    def patch_lang(fn: Any) -> _Scope:
        global _language_patched
        if _language_patched:
            return _Scope()
        scope = stock_patch(_sees_language)
        scope.set_attr(tl.tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))
        _language_patched = True
        return _Scope(scope)

    interpreter._patch_lang = patch_lang


def _mend_call() -> None:
    stock_call = interpreter.GridExecutor.__call__

    @functools.wraps(stock_call)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        with np.errstate(all="ignore"):
            return stock_call(self, *args, **kwargs)

    interpreter.GridExecutor.__call__ = call

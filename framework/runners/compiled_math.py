"""The functions of the op table over vectors, to about the last bit.

Exponentials: x = n ln 2 + r with |r| <= ln 2 / 2, and the Taylor series of e^r, whose rest is below the last
bit (degree 7 in float32: 5e-9; 13 in float64: 4e-18). tanh and expm1 use e^r - 1, which loses nothing near 0.
Logarithms: x = m 2^n with m around 1, log m = 2 artanh((m - 1) / (m + 1)). sin, cos and erf are C's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal

from framework.cell import Op
from framework.runners.compiled_text import Code

LN2 = math.log(2.0)


def _double(c: Code) -> bool:
    return c.v.real == "double"


def _halves(c: Code) -> tuple[float, float]:
    """ln 2 as a number with many zeros behind and the rest: n times the first one is exact."""
    bits = 32 if _double(c) else 12
    high = math.floor(LN2 * 2**bits) / 2**bits
    return high, float(Decimal(2).ln() - Decimal(high))


def _reduced(c: Code, x: str) -> tuple[str, str]:
    """(r, bits of n in the exponent's place) of x = n ln 2 + r. x must be in the range of exp."""
    v = c.v
    mantissa = 52 if _double(c) else 23
    magic = c.const(1.5 * 2**mantissa)  # adding it leaves a whole number in the lowest bits
    shifted = c.fma(x, c.const(1.0 / LN2), magic)
    n = c.get(f"fsub {v.type} {shifted}, {magic}")
    high, low = _halves(c)
    r = c.fma(n, c.const(-low), c.fma(n, c.const(-high), x))
    whole = c.get(f"bitcast {v.type} {shifted} to {v.integers}")
    return r, c.get(f"shl {v.integers} {whole}, {c.whole(mantissa)}")


def _series(c: Code, r: str) -> str:
    """e^r - 1 for |r| <= ln 2 / 2."""
    degree = 13 if _double(c) else 7
    s = c.const(1.0 / math.factorial(degree))
    for k in range(degree - 1, 1, -1):
        s = c.fma(s, r, c.const(1.0 / math.factorial(k)))
    return c.fma(c.op("fmul", s, r), r, r)


def _times_power(c: Code, x: str, power: str) -> str:
    """x * 2^n for an x between 1/2 and 2."""
    v = c.v
    whole = c.get(f"bitcast {v.type} {x} to {v.integers}")
    moved = c.get(f"add {v.integers} {whole}, {power}")
    return c.get(f"bitcast {v.integers} {moved} to {v.type}")


def _between(c: Code, x: str, low: float, high: float) -> str:
    """x, at least low and at most high; not a number stays what it is."""
    x = c.select(c.compare("olt", x, c.const(low)), c.const(low), x)
    return c.select(c.compare("ogt", x, c.const(high)), c.const(high), x)


def _exp_inside(c: Code, x: str, low: float, high: float) -> str:
    r, power = _reduced(c, _between(c, x, low, high))
    return _times_power(c, c.op("fadd", _series(c, r), c.const(1.0)), power)


def _range(c: Code) -> tuple[float, float]:
    """Where e^x is a normal number."""
    return (-708.0, 709.0) if _double(c) else (-87.0, 88.0)


def exp(c: Code, x: str) -> str:
    """e^x; 0 where it is too small for a normal number, infinite where it is too large."""
    low, top = (-706.0, 709.782712893384) if _double(c) else (-86.0, 88.72283172607422)
    r, power = _reduced(c, _between(c, x, low, top))
    # Half of it first: 2^128 has no exponent of its own.
    half = c.op("fmul", c.op("fadd", _series(c, r), c.const(1.0)), c.const(0.5))
    y = c.op("fmul", _times_power(c, half, power), c.const(2.0))
    y = c.select(c.compare("olt", x, c.const(low)), c.const(0.0), y)
    return c.select(c.compare("ogt", x, c.const(top)), c.const(math.inf), y)


def expm1(c: Code, x: str, low: float, high: float) -> str:
    """e^x - 1 for x held between low and high: 2^n (e^r - 1) + (2^n - 1)."""
    r, power = _reduced(c, _between(c, x, low, high))
    scale = _times_power(c, c.const(1.0), power)
    return c.fma(scale, _series(c, r), c.op("fsub", scale, c.const(1.0)))


def sigmoid(c: Code, x: str) -> str:
    """1 / (1 + e^-x)."""
    low, high = _range(c)
    e = _exp_inside(c, c.get(f"fneg {c.v.type} {x}"), low, high)
    return c.op("fdiv", c.const(1.0), c.op("fadd", e, c.const(1.0)))


def tanh(c: Code, x: str) -> str:
    """With a = e^2|x| - 1: a / (a + 2), or the more exact 1 - 2 / (a + 2) where that is above 1/2."""
    limit = 44.0 if _double(c) else 20.0
    size = c.call("fabs", x)
    a = expm1(c, c.op("fadd", size, size), 0.0, limit)
    large = c.compare("ogt", a, c.const(2.0))
    q = c.op("fdiv", c.select(large, c.const(2.0), a), c.op("fadd", a, c.const(2.0)))
    y = c.select(large, c.op("fsub", c.const(1.0), q), q)
    return c.call("copysign", y, x)


def log(c: Code, x: str) -> str:
    """Natural logarithm; minus infinity at 0, not a number below."""
    v = c.v
    mantissa = 52 if _double(c) else 23
    half = 0x3FE6A09E667F3BCD if _double(c) else 0x3F3504F3  # the square root of 1/2
    bits = c.get(f"bitcast {v.type} {x} to {v.integers}")
    above = c.get(f"sub {v.integers} {bits}, {c.whole(half)}")
    n = c.get(f"ashr {v.integers} {above}, {c.whole(mantissa)}")
    taken = c.get(f"shl {v.integers} {n}, {c.whole(mantissa)}")
    m = c.get(f"bitcast {v.integers} {c.get(f'sub {v.integers} {bits}, {taken}')} to {v.type}")
    power = c.get(f"sitofp {v.integers} {n} to {v.type}")
    d = c.op("fsub", m, c.const(1.0))
    s = c.op("fdiv", d, c.op("fadd", m, c.const(1.0)))
    z = c.op("fmul", s, s)
    last = 23 if _double(c) else 11
    p = c.const(2.0 / last)
    for k in range(last - 2, 1, -2):
        p = c.fma(p, z, c.const(2.0 / k))
    # 2 s = d - s d: the first term is exact
    high, low = _halves(c)
    rest = c.fma(s, c.op("fmul", p, z), c.op("fmul", power, c.const(low)))
    rest = c.op("fsub", rest, c.op("fmul", s, d))
    y = c.fma(power, c.const(high), c.op("fadd", d, rest))
    y = c.select(c.compare("oeq", x, c.const(math.inf)), x, y)
    y = c.select(c.compare("oeq", x, c.const(0.0)), c.const(-math.inf), y)
    return c.select(c.compare("ult", x, c.const(0.0)), c.const(math.nan), y)


def log1p(c: Code, x: str) -> str:
    """log(1 + x), with what the sum 1 + x has lost put back."""
    u = c.get(f"fadd {c.v.type} {x}, {c.const(1.0)}")
    kept = c.get(f"fsub {c.v.type} {u}, {c.const(1.0)}")
    lost = c.get(f"fsub {c.v.type} {x}, {kept}")
    whole = log(c, u)
    y = c.select(c.compare("oeq", u, c.const(0.0)), whole, c.op("fadd", whole, c.op("fdiv", lost, u)))
    return c.select(c.compare("oeq", x, c.const(math.inf)), x, y)


def softplus(c: Code, x: str) -> str:
    """log(1 + e^x); x itself from 20 on, as torch has it."""
    low, _ = _range(c)
    y = log1p(c, _exp_inside(c, x, low, 20.0))
    return c.select(c.compare("ogt", x, c.const(20.0)), x, y)


def library(c: Code, name: str, x: str) -> str:
    """A function of C's mathematical library, number by number."""
    v = c.v
    c.declare(f"{v.real} @{name}{v.libm}({v.real})")
    out = "poison"
    for i in range(v.width):
        one = c.get(f"extractelement {v.type} {x}, i64 {i}")
        y = c.get(f"call {v.real} @{name}{v.libm}({v.real} {one})")
        out = c.get(f"insertelement {v.type} {out}, {v.real} {y}, i64 {i}")
    return out


def _choose(c: Code, how: str, x: str, at: float, yes: str, no: str) -> str:
    return c.select(c.compare(how, x, c.const(at)), yes, no)


def _sign(c: Code, x: str) -> str:
    negative = _choose(c, "olt", x, 0.0, c.const(-1.0), c.const(0.0))
    return _choose(c, "ogt", x, 0.0, c.const(1.0), negative)


def _inside01(c: Code, x: str) -> str:
    below = _choose(c, "olt", x, 1.0, c.const(1.0), c.const(0.0))
    return _choose(c, "ogt", x, 0.0, below, c.const(0.0))


def _less(c: Code, a: str, b: str) -> str:
    other = c.select(c.compare("ogt", a, b), c.const(0.0), c.const(0.5))
    return c.select(c.compare("olt", a, b), c.const(1.0), other)


def _gelu(c: Code, x: str) -> str:
    e = library(c, "erf", c.op("fmul", x, c.const(math.sqrt(0.5))))
    half = c.op("fmul", x, c.const(0.5))
    return c.fma(half, e, half)


def _elu(c: Code, x: str) -> str:
    return _choose(c, "ogt", x, 0.0, x, expm1(c, x, _range(c)[0], 0.0))


# op of the table -> the same over vectors
POINT: dict[str, Callable[..., str]] = {
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": lambda c, x: _choose(c, "ole", x, 0.0, c.const(0.0), x),
    "softplus": softplus,
    "silu": lambda c, x: c.op("fmul", x, sigmoid(c, x)),
    "gelu": _gelu,
    "elu": _elu,
    "exp": exp,
    "log": log,
    "log1p": log1p,
    "abs": lambda c, x: c.call("fabs", x),
    "sqrt": lambda c, x: c.call("sqrt", x),
    "square": lambda c, x: c.op("fmul", x, x),
    "reciprocal": lambda c, x: c.op("fdiv", c.const(1.0), x),
    "sin": lambda c, x: library(c, "sin", x),
    "cos": lambda c, x: library(c, "cos", x),
    "erf": lambda c, x: library(c, "erf", x),
    "sign": _sign,
    "hard_sigmoid": lambda c, x: _between(c, c.op("fadd", c.op("fdiv", x, c.const(6.0)), c.const(0.5)), 0, 1),
    "hard_tanh": lambda c, x: _between(c, x, -1.0, 1.0),
    "minimum": lambda c, a, b: c.call("minimum", a, b),
    "maximum": lambda c, a, b: c.call("maximum", a, b),
    "positive": lambda c, x: _choose(c, "ogt", x, 0.0, c.const(1.0), c.const(0.0)),
    "inside01": _inside01,
    "less": _less,
}


def pointwise(c: Code, op: Op, args: Sequence[str]) -> str:
    """The value of a pointwise op."""
    if op.kind == "prod":
        out = args[0]
        for x in args[1:]:
            out = c.op("fmul", out, x)
        return out
    if op.kind in ("copy", "expand"):
        return args[0]
    return POINT[op.kind](c, *args)


def weighted(c: Code, terms: Sequence[tuple[str, float]], value: float) -> str:
    """value + sum of coefficient * vector."""
    out = c.const(value) if value or not terms else ""
    for x, coef in terms:
        if not out:
            out = x if coef == 1.0 else c.op("fmul", x, c.const(coef))
        elif coef in (1.0, -1.0):
            out = c.op("fadd" if coef > 0 else "fsub", out, x)
        else:
            out = c.fma(x, c.const(coef), out)
    return out

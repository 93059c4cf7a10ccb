"""The expression language: text -> tree. Parsed with Python's `ast`, never evaluated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expr:
    """One resolved term of a node's expression; `size` is the length of its value at one step and lane.

    | op | fields used |
    |---|---|
    | num | value |
    | ref | name (a node or input), shift (the value at step t + shift, so `s[t-1]` has shift -1) |
    | slice | args[0], lo, hi |
    | concat | args |
    | add sub mul div neg | args |
    | a pointwise or row function of `ops.FUNCTIONS` | args |
    | full | args[0], weights = (name,) [size, size of source]; of an index input [size, vocab] (a gather) |
    | diag | args[0], weights = (name,) [size] |
    | block | args[0], blocks, weights = (name,) [blocks, size/blocks, source/blocks] |
    | bias | weights = (name,) [size], value (what it starts from) |
    | norm | args[0], weights = (gain, bias), each [size] |
    | softmax stop | args[0] |
    | dropout | args[0], value (probability) |
    | zoneout | args = (new, old), value (probability of keeping old) |

    A value of size 1 broadcasts against any other size.
    """

    op: str
    args: tuple[Expr, ...] = ()
    size: int = 1
    name: str = ""
    shift: int = 0
    value: float = 0.0
    lo: int = 0
    hi: int = 0
    blocks: int = 0
    weights: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The formula with full names, as in weight names: `sigmoid(full(x) + full(l1/h[t-1]) + bias)`."""
        return _text(self, 0)


_INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2)}


def _text(e: Expr, around: int) -> str:
    """`around`: how strongly the surroundings bind; brackets where they bind more strongly than `e`."""
    if e.op in _INFIX:
        sign, strength = _INFIX[e.op]
        # The right side of - and / needs brackets at equal strength: a - (b + c).
        text = f"{_text(e.args[0], strength)} {sign} {_text(e.args[1], strength + 1)}"
        return f"({text})" if around > strength else text
    args = [_text(arg, 0) for arg in e.args]
    match e.op:
        case "num":
            return f"({_number(e.value)})" if e.value < 0 and around else _number(e.value)
        case "neg":
            inner = _text(e.args[0], 3)
            return f"(-{inner})" if around else f"-{inner}"
        case "ref":
            return f"{e.name}[t{e.shift:+d}]" if e.shift else e.name
        case "slice":
            return f"{_text(e.args[0], 3)}[{e.lo}:{e.hi}]"
        case "bias":
            return f"bias({_number(e.value)})" if e.value else "bias"
        case "block":
            args.append(str(e.blocks))
        case "dropout" | "zoneout":
            args.append(_number(e.value))
    return f"{e.op}({', '.join(args)})"


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)

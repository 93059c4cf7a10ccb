"""Parsed text -> Expr: names resolved, sizes checked, weights named."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping

from framework.errors import GraphError
from framework.expand import RawNode
from framework.expr import Expr
from framework.graph import Input, Weight
from framework.names import ARITY, FUNCTIONS, known, quoted
from framework.parse import ALLOWED, path_of, time_shift, whole
from framework.reading import Reader, shift_of, written

_BINARY: dict[type[ast.operator], str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}
_USAGE = {"full": "full(s)", "diag": "diag(s)", "block": "block(s, 4)", "bias": "bias or bias(1)",
          "norm": "norm(s)", "softmax": "softmax(s)", "stop": "stop(s)", "concat": "concat(a, b)",
          "dropout": "dropout(s, 0.2)", "zoneout": "zoneout(new, old, 0.1)"}


class Builder:
    """Builds the expressions of a graph's nodes one by one; collects their weights and what they read.

    `sizes` holds the nodes' sizes by full name; it may grow between calls.
    """

    def __init__(self, inputs: Mapping[str, Input], sizes: Mapping[str, int]):
        self.inputs, self.sizes = inputs, sizes
        self.weights: dict[str, Weight] = {}
        self.read: set[str] = set()
        self._trees: dict[type[ast.expr], Callable[..., Expr]] = {
            ast.Name: self._name, ast.Constant: self._constant, ast.UnaryOp: self._unary,
            ast.BinOp: self._binary, ast.Subscript: self._subscript, ast.Call: self._call}
        self._calls: dict[str, Callable[[ast.Call], Expr]] = {
            "full": self._full, "diag": self._diag, "block": self._block, "bias": self._bias_call,
            "norm": self._norm, "softmax": self._row, "stop": self._row, "concat": self._concat,
            "dropout": self._dropout, "zoneout": self._zoneout}

    def build(self, node: RawNode) -> Expr:
        """The node's expression. A node without a size takes that of the result."""
        self.node, self.size, self.reader = node, node.size, Reader(node)
        self.terms: dict[str, int] = {}
        self.joined = 0  # how deep inside concat, where weights have no size to take
        try:
            tree = self.reader.tree()
            expr = self._value(tree)
        except RecursionError:
            raise GraphError(node.at, "the expression is nested too deeply", "Split it into nodes.") from None
        if self.size is not None and expr.size not in (self.size, 1):
            raise self._fail(
                f"{quoted(self.reader.text(tree))} has size {expr.size}, but the node has size {self.size}",
                f"Bring it to the node's size with full(...), or write size: {expr.size}.")
        return expr

    def _fail(self, cause: str, fix: str) -> GraphError:
        return GraphError(self.node.at, cause, fix)

    # Trees

    def _expr(self, tree: ast.expr) -> Expr:
        handler = self._trees.get(type(tree))
        if handler is None:
            raise self._foreign(tree)
        return handler(tree)

    def _foreign(self, tree: ast.expr) -> GraphError:
        hint = ALLOWED
        if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.MatMult):
            hint = "A product with a matrix of weights is full(s)."
        elif isinstance(tree, ast.Attribute):
            hint = "A node c inside the cell node l1 is l1/c; functions stand by themselves: tanh(s)."
        return self._fail(f"{quoted(written(tree))} is not part of the language", hint)

    def _value(self, tree: ast.expr) -> Expr:
        """An operand: anything but an input of indices."""
        expr = self._expr(tree)
        if expr.size == 0:
            text = self.reader.text(tree)
            raise self._fail(f"{quoted(text)} is an input of indices and has no vector",
                             f"Only full(...) can read it: write full({text}) in a node with a size.")
        return expr

    def _name(self, tree: ast.Name) -> Expr:
        if tree.id == "bias":
            return self._bias(0.0)
        if tree.id in FUNCTIONS:
            raise self._fail(f"{tree.id!r} is a function", f"Write {_usage(tree.id)}.")
        if tree.id == "t":
            raise self._fail("'t' is the time step and no value", "It stands only in s[t-1].")
        return self._ref(*self.reader.find(tree))

    def _ref(self, name: str, shift: int) -> Expr:
        if abs(shift) > 1_000_000:
            raise self._fail(f"{name!r} is read {abs(shift)} steps away", "Read at most 1000000 steps away.")
        self.read.add(name)
        size = self.sizes[name] if name in self.sizes else self.inputs[name].size
        return Expr("ref", (), size, name, shift)

    def _constant(self, tree: ast.Constant) -> Expr:
        if type(tree.value) not in (int, float):
            raise self._foreign(tree)
        return Expr("num", value=self._number(tree))

    def _number(self, tree: ast.expr) -> float:
        """A literal number with or without a minus sign."""
        inner = tree.operand if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub) else tree
        if not isinstance(inner, ast.Constant) or type(inner.value) not in (int, float):
            raise self._fail(f"{quoted(written(tree))} is no number", "Write a literal such as 0.5 or -1.")
        try:
            number = float(inner.value)  # type: ignore[arg-type]  # int or float, checked above
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._fail("a number is too large", "Use one that fits a float.")
        return number if inner is tree else -number

    def _unary(self, tree: ast.UnaryOp) -> Expr:
        if not isinstance(tree.op, ast.USub):
            raise self._foreign(tree)
        if isinstance(tree.operand, ast.Constant):
            return Expr("num", value=self._number(tree))
        arg = self._value(tree.operand)
        return Expr("neg", (arg,), arg.size)

    def _binary(self, tree: ast.BinOp) -> Expr:
        op = _BINARY.get(type(tree.op))
        if op is None:
            if isinstance(tree.op, ast.Pow):
                raise self._fail(f"{quoted(written(tree))} is a power, which is not part of the language",
                                 "Write square(s), sqrt(s) or exp(s).")
            raise self._foreign(tree)
        a, b = self._value(tree.left), self._value(tree.right)
        return Expr(op, (a, b), self._same_size(a, b, tree))

    def _same_size(self, a: Expr, b: Expr, tree: ast.expr) -> int:
        if a.size != b.size and a.size != 1 and b.size != 1:
            raise self._fail(f"sizes {a.size} and {b.size} meet in {quoted(self.reader.text(tree))}",
                             "They must be equal, or one of them 1. Bring one to size with full(...).")
        return max(a.size, b.size)

    def _subscript(self, tree: ast.Subscript) -> Expr:
        shifted = shift_of(tree)
        if shifted is not None:
            return self._ref(*self.reader.find(*shifted))
        if isinstance(tree.slice, ast.Slice):
            return self._slice(tree, tree.slice)
        cause = f"cannot read {quoted(written(tree))}"
        if time_shift(tree.slice) is not None:
            if isinstance(tree.value, ast.Subscript):
                raise self._fail(cause, "The time comes first, the units after it: s[t-1][0:4].")
            raise self._fail(f"{quoted(written(tree))} shifts an expression in time",
                             "Only a name can be shifted: make the expression a node, and shift that.")
        if whole(tree.slice) is not None:
            raise self._fail(cause, "One step back is s[t-1], the first unit is s[0:1].")
        raise self._fail(cause, "A shift is s[t-1] (with a param s[t-{d}]), units are s[0:4].")

    def _slice(self, tree: ast.Subscript, ends: ast.Slice) -> Expr:
        arg = self._value(tree.value)
        lo = 0 if ends.lower is None else whole(ends.lower)
        hi = arg.size if ends.upper is None else whole(ends.upper)
        if lo is None or hi is None or ends.step is not None:
            raise self._fail(f"cannot read {quoted(written(tree))}", "Units are s[0:4], s[:4] or s[4:].")
        if not 0 <= lo < hi <= arg.size:
            raise self._fail(f"units {lo}:{hi} of {quoted(self.reader.text(tree.value))} of size {arg.size}",
                             f"Stay inside 0:{arg.size}, the end behind the start.")
        return Expr("slice", (arg,), hi - lo, lo=lo, hi=hi)

    # Functions

    def _call(self, tree: ast.Call) -> Expr:
        if not isinstance(tree.func, ast.Name):
            raise self._foreign(tree)
        name = path_of(tree.func)
        if name not in FUNCTIONS:
            if self.node.scope.names.get(name.split("/")[0]):
                raise self._fail(f"{name!r} is a node and cannot be called",
                                 f"One step back is {name}[t-1]; a product needs a *.")
            raise self._fail(f"no function {name!r}", known("Functions", name, sorted(FUNCTIONS)))
        if tree.keywords or any(isinstance(arg, ast.Starred) for arg in tree.args):
            raise self._fail(f"{quoted(written(tree))} has an argument with = or *", f"Write {_usage(name)}.")
        form = self._calls.get(name)
        if form is not None:
            return form(tree)
        self._arguments(tree, ARITY[name])
        args = tuple([self._value(arg) for arg in tree.args])
        size = args[0].size if len(args) == 1 else self._same_size(args[0], args[1], tree)
        return Expr(name, args, size)

    def _arguments(self, tree: ast.Call, *counts: int) -> None:
        if len(tree.args) not in counts:
            name, wanted = ast.unparse(tree.func), " or ".join(map(str, counts))
            raise self._fail(f"{name} takes {wanted} argument{'s' * (wanted != '1')}, got {len(tree.args)}",
                             f"Write {_usage(name)}.")

    def _term(self, text: str) -> str:
        """`<node>:<text>`, with #2 behind the second identical term of a node."""
        count = self.terms[text] = self.terms.get(text, 0) + 1
        return f"{self.node.name}:{text}" if count == 1 else f"{self.node.name}:{text}#{count}"

    def _own_size(self, what: str) -> int:
        """The size a weight takes: its node's."""
        if self.joined or self.size is None:
            where = "concat(...)" if self.joined else "in:"
            raise self._fail(f"the size of {what} inside {where} is not known",
                             "Give it a node of its own, with a size.")
        return self.size

    def _weight(self, name: str, shape: tuple[int, ...], kind: str, value: float = 0.0,
                fan_in: int = 1) -> str:
        self.weights[name] = Weight(name, shape, kind, value, fan_in)
        return name

    def _full(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 1)
        size, arg = self._own_size("full(...)"), self._expr(tree.args[0])
        name = self._term(f"full({self.reader.text(tree.args[0])})")
        if arg.size == 0:  # an input of indices: a gather
            columns, fan_in = self.inputs[arg.name].vocab or 0, 1
        else:
            columns = fan_in = arg.size
        weight = self._weight(name, (size, columns), "full", fan_in=fan_in)
        return Expr("full", (arg,), size, weights=(weight,))

    def _diag(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 1)
        size, arg = self._own_size("diag(...)"), self._value(tree.args[0])
        text = self.reader.text(tree.args[0])
        name = self._term(f"diag({text})")
        if arg.size not in (size, 1):
            raise self._fail(f"diag({text}) reads size {arg.size} in a node of size {size}",
                             "diag weighs unit by unit: use full(...) between different sizes.")
        return Expr("diag", (arg,), size, weights=(self._weight(name, (size,), "diag"),))

    def _block(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 2)
        size, arg, blocks = self._own_size("block(...)"), self._value(tree.args[0]), whole(tree.args[1])
        if blocks is None or blocks < 1:
            raise self._fail(f"{quoted(written(tree.args[1]))} is no number of blocks",
                             "Write a whole number from 1: block(s, 4).")
        text = self.reader.text(tree.args[0])
        name = self._term(f"block({text}, {blocks})")
        if size % blocks or arg.size % blocks:
            raise self._fail(f"block({text}, {blocks}) goes from {arg.size} to {size} units",
                             f"Both must be multiples of {blocks}.")
        shape = (blocks, size // blocks, arg.size // blocks)
        weight = self._weight(name, shape, "block", fan_in=shape[2])
        return Expr("block", (arg,), size, blocks=blocks, weights=(weight,))

    def _bias(self, value: float) -> Expr:
        size = self._own_size("bias")
        weight = self._weight(self._term("bias"), (size,), "bias", value)
        return Expr("bias", size=size, value=value, weights=(weight,))

    def _bias_call(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 0, 1)
        return self._bias(self._number(tree.args[0]) if tree.args else 0.0)

    def _norm(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 1)
        arg = self._value(tree.args[0])
        name = self._term(f"norm({self.reader.text(tree.args[0])})")
        weights = (self._weight(f"{name}.gain", (arg.size,), "gain", 1.0),
                   self._weight(f"{name}.bias", (arg.size,), "bias"))
        return Expr("norm", (arg,), arg.size, weights=weights)

    def _row(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 1)
        arg = self._value(tree.args[0])
        return Expr(ast.unparse(tree.func), (arg,), arg.size)

    def _concat(self, tree: ast.Call) -> Expr:
        if not tree.args:
            raise self._fail("concat takes at least 1 argument, got 0", f"Write {_usage('concat')}.")
        self.joined += 1
        args = tuple([self._value(arg) for arg in tree.args])
        self.joined -= 1
        return Expr("concat", args, sum(arg.size for arg in args))

    def _probability(self, tree: ast.Call) -> float:
        value = self._number(tree.args[-1])
        if not 0.0 <= value < 1.0:
            raise self._fail(f"the probability in {quoted(written(tree))} is {value:g}",
                             "It must be a number from 0 to less than 1.")
        return value

    def _dropout(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 2)
        value, arg = self._probability(tree), self._value(tree.args[0])
        name = self._term(self.reader.text(tree))
        return Expr("dropout", (arg,), arg.size, name, value=value)

    def _zoneout(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 3)
        value, new, old = self._probability(tree), self._value(tree.args[0]), self._value(tree.args[1])
        size, name = self._same_size(new, old, tree), self._term(self.reader.text(tree))
        return Expr("zoneout", (new, old), size, name, value=value)


def _usage(name: str) -> str:
    return _USAGE.get(name) or (f"{name}(s)" if ARITY[name] == 1 else f"{name}(a, b)")

"""Parsed text -> Expr: names resolved, sizes checked, weights named."""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Callable, Iterator, Mapping

from framework.errors import GraphError
from framework.expand import RawNode
from framework.expr import Expr
from framework.graph import Input, Weight
from framework.names import ARITY, FUNCTIONS, known
from framework.parse import ALLOWED, parse, path_of, time_shift, whole
from framework.scope import Scope

_BINARY: dict[type[ast.operator], str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}
_OWN_NODE = "Give it a node of its own, with a size."


def references(tree: ast.expr, scope: Scope, at: str) -> Iterator[str]:
    """Full names of the nodes and inputs that an expression reads."""
    calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in calls and node.id not in ("t", "bias"):
            yield scope.find(path_of(node), at)[0]


class Builder:
    """Builds the expressions of a graph's nodes one by one and collects their weights."""

    def __init__(self, inputs: Mapping[str, Input], sizes: Mapping[str, int]):
        self.inputs, self.sizes = inputs, sizes
        self.weights: dict[str, Weight] = {}
        self.read: set[str] = set()
        self._forms: dict[str, Callable[[ast.Call], Expr]] = {
            "full": self._full, "diag": self._diag, "block": self._block, "bias": self._bias_call,
            "norm": self._norm, "softmax": self._row, "stop": self._row, "concat": self._concat,
            "dropout": self._dropout, "zoneout": self._zoneout}

    def parse(self, node: RawNode) -> ast.expr:
        """The node's text as a tree. Cheap to call twice: trees are cached by text."""
        return parse(node.text, node.scope.is_path, node.at)

    def build(self, node: RawNode) -> Expr:
        """The node's expression. A node without a size takes that of the result."""
        self.node, self.size = node, node.size
        self.terms: dict[str, int] = {}
        self.joined = 0  # depth inside concat, where weights have no size to take
        tree = self.parse(node)
        try:
            expr = self._expr(tree)
        except RecursionError:
            raise GraphError(node.at, "the expression is nested too deeply", "Split it into nodes.") from None
        self._no_index(expr, tree)
        if self.size is not None and expr.size not in (self.size, 1):
            raise GraphError(node.at, f"{self.text(tree)!r} has size {expr.size}, but the node has size {self.size}",
                             f"Bring it to the node's size with full(...), or write size: {expr.size}.")
        return expr

    def text(self, tree: ast.expr) -> str:
        """The tree as text with resolved names and shifts without blanks, as it stands in weight names."""
        if isinstance(tree, ast.Name) or self._shifted(tree) is not None:
            return self._resolved(tree)
        return ast.unparse(_Resolve(self).visit(_copy(tree)))

    def _resolved(self, tree: ast.expr) -> str:
        name = tree if isinstance(tree, ast.Name) else tree.value  # type: ignore[attr-defined]
        if name.id == "bias":
            return "bias"
        full, shift = self._find(tree)
        return full if shift == 0 else f"{full}[t{shift:+d}]"

    def _shifted(self, tree: ast.expr) -> int | None:
        """The shift as written, of `s[t-d]` over a name."""
        if isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name):
            return time_shift(tree.slice)
        return None

    def _find(self, tree: ast.expr) -> tuple[str, int]:
        """Full name and shift of `s` or `s[t-d]`, the cell's direction and input aliases included."""
        shift = self._shifted(tree) or 0
        name = tree if isinstance(tree, ast.Name) else tree.value  # type: ignore[attr-defined]
        scope = self.node.scope
        full, more = scope.find(path_of(name), self.node.at)
        return full, (-shift if scope.mirror else shift) + more

    def _fail(self, cause: str, fix: str) -> GraphError:
        return GraphError(self.node.at, cause, fix)

    def _expr(self, tree: ast.expr) -> Expr:
        match tree:
            case ast.Name(id="bias"):
                return self._bias(0.0)
            case ast.Name(id=name) if name in FUNCTIONS:
                raise self._fail(f"{name!r} is a function", f"Write {name}(...).")
            case ast.Name(id="t"):
                raise self._fail("'t' is the time step", "It stands only in s[t-1].")
            case ast.Name():
                return self._ref(tree)
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float()):
                return Expr("num", value=self._number(tree))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
                return Expr("num", value=self._number(tree))
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                arg = self._value(inner)
                return Expr("neg", (arg,), arg.size)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                a, b = self._value(left), self._value(right)
                return Expr(_BINARY[type(op)], (a, b), self._same_size(a, b, tree))
            case ast.BinOp(op=ast.Pow()):
                raise self._fail("powers are not part of the language", "Write square(s), sqrt(s) or exp(s).")
            case ast.Subscript():
                return self._subscript(tree)
            case ast.Call():
                return self._call(tree)
        raise self._fail(f"{ast.unparse(tree)!r} is not part of the language", ALLOWED)

    def _value(self, tree: ast.expr) -> Expr:
        """An operand: anything but an index input."""
        expr = self._expr(tree)
        self._no_index(expr, tree)
        return expr

    def _no_index(self, expr: Expr, tree: ast.expr) -> None:
        if expr.op == "ref" and expr.size == 0:
            raise self._fail(f"{self.text(tree)!r} is an input of indices and has no vector",
                             "Only full(...) can read it: write full(" + self.text(tree) + ").")

    def _number(self, tree: ast.expr) -> float:
        """A literal number with or without a minus sign."""
        inner = tree.operand if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub) else tree
        if isinstance(inner, ast.Constant) and type(inner.value) in (int, float):
            try:
                number = float(inner.value)  # type: ignore[arg-type]
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return number if inner is tree else -number
            raise self._fail("a number is too large", "Use one that fits a float.")
        raise self._fail(f"{ast.unparse(tree)!r} is no number", "Write a literal such as 0.5 or -1.")

    def _ref(self, tree: ast.expr) -> Expr:
        full, shift = self._find(tree)
        self.read.add(full)
        size = self.sizes[full] if full in self.sizes else self.inputs[full].size
        return Expr("ref", size=size, name=full, shift=shift)

    def _same_size(self, a: Expr, b: Expr, tree: ast.expr) -> int:
        if a.size != b.size and 1 not in (a.size, b.size):
            raise self._fail(f"sizes {a.size} and {b.size} meet in {self.text(tree)!r}",
                             "Both must be equal or one of them 1: bring one to size with full(...), or slice it.")
        return max(a.size, b.size)

    def _subscript(self, tree: ast.Subscript) -> Expr:
        index = tree.slice
        if isinstance(index, ast.Slice):
            arg = self._value(tree.value)
            lo, hi = (default if end is None else whole(end)
                      for end, default in ((index.lower, 0), (index.upper, arg.size)))
            if lo is None or hi is None or index.step is not None:
                raise self._fail(f"cannot read the slice {ast.unparse(tree)!r}", "Write s[0:4], s[:4] or s[4:].")
            if not 0 <= lo < hi <= arg.size:
                raise self._fail(f"the slice [{lo}:{hi}] is not inside {self.text(tree.value)!r} of size {arg.size}",
                                 f"Its units are 0:{arg.size}.")
            return Expr("slice", (arg,), hi - lo, lo=lo, hi=hi)
        if self._shifted(tree) is not None:
            return self._ref(tree)
        written = path_text(tree)
        if time_shift(index) is not None:
            if isinstance(tree.value, ast.Subscript):
                fix = "Shift the name first, then take units: s[t-1][0:4]."
            else:
                fix = "Only a node or an input can be read at another time: make it a node and shift that."
            raise self._fail(f"{written!r} shifts an expression in time", fix)
        number = whole(index)
        if number is not None:
            raise self._fail(f"cannot read {written!r}",
                             f"Unit {number} is s[{number}:{number + 1}]; {abs(number)} steps back is s[t-{abs(number)}].")
        raise self._fail(f"cannot read {written!r}",
                         "A time shift is s[t-1] with a whole number (or a param: s[t-{d}]), units are s[0:4].")

    def _call(self, tree: ast.Call) -> Expr:
        if not isinstance(tree.func, ast.Name):
            raise self._fail(f"{path_text(tree)!r} is not part of the language", ALLOWED)
        name = path_of(tree.func)
        if name not in FUNCTIONS:
            if name.split("/")[0] in self.node.scope.names:
                raise self._fail(f"{name!r} is a node and cannot be called",
                                 f"Write {name}[t-1] to read it one step back, or a * between two factors.")
            raise self._fail(f"no function {name!r}", known("Functions", name, sorted(FUNCTIONS)))
        if tree.keywords or any(isinstance(arg, ast.Starred) for arg in tree.args):
            raise self._fail(f"{path_text(tree)!r} has an argument with = or *", "Give the arguments in order.")
        if name in self._forms:
            return self._forms[name](tree)
        self._arguments(tree, ARITY[name])
        args = tuple(self._value(arg) for arg in tree.args)
        return Expr(name, args, args[0].size if len(args) == 1 else self._same_size(*args, tree))

    def _arguments(self, tree: ast.Call, *counts: int) -> None:
        if len(tree.args) not in counts:
            name, wanted = ast.unparse(tree.func), " or ".join(map(str, counts))
            raise self._fail(f"{name} takes {wanted} argument{'s' * (wanted != '1')}, got {len(tree.args)}",
                             f"Write {_USAGE.get(name, name + '(s)' if counts == (1,) else name + '(a, b)')}.")

    def _term(self, text: str) -> str:
        """`<node>:<text>`, with #2 behind the second identical term of a node."""
        count = self.terms[text] = self.terms.get(text, 0) + 1
        return f"{self.node.name}:{text}" + (f"#{count}" if count > 1 else "")

    def _own_size(self, what: str) -> int:
        """The size a weight takes: its node's."""
        if self.joined or self.size is None:
            place = "concat(...)" if self.joined else "in:"
            raise self._fail(f"the size of {what} inside {place} is not known", _OWN_NODE)
        return self.size

    def _weight(self, name: str, shape: tuple[int, ...], kind: str, value: float = 0.0, fan_in: int = 1) -> str:
        self.weights[name] = Weight(name, shape, kind, value, fan_in)
        return name

    def _full(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 1)
        size, name = self._own_size("full(...)"), self._term(f"full({self.text(tree.args[0])})")
        arg = self._expr(tree.args[0])
        if arg.size == 0:
            vocab = self.inputs[arg.name].vocab
            assert vocab is not None
            self._weight(name, (size, vocab), "full")
        else:
            self._weight(name, (size, arg.size), "full", fan_in=arg.size)
        return Expr("full", (arg,), size, weights=(name,))

    def _diag(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 1)
        size, text = self._own_size("diag(...)"), self.text(tree.args[0])
        name = self._term(f"diag({text})")
        arg = self._value(tree.args[0])
        if arg.size not in (size, 1):
            raise self._fail(f"diag({text}) reads size {arg.size} in a node of size {size}",
                             "diag weighs unit by unit: use full(...) between different sizes.")
        return Expr("diag", (arg,), size, weights=(self._weight(name, (size,), "diag"),))

    def _block(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 2)
        size, text, blocks = self._own_size("block(...)"), self.text(tree.args[0]), whole(tree.args[1])
        if blocks is None or blocks < 1:
            raise self._fail(f"{ast.unparse(tree.args[1])!r} is no number of blocks",
                             "Write a whole number from 1: block(s, 4).")
        name = self._term(f"block({text}, {blocks})")
        arg = self._value(tree.args[0])
        if size % blocks or arg.size % blocks:
            raise self._fail(f"block({text}, {blocks}) cannot cut {arg.size} -> {size} units into {blocks} blocks",
                             "Both sizes must be multiples of the number of blocks.")
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
        name = self._term(f"norm({self.text(tree.args[0])})")
        arg = self._value(tree.args[0])
        weights = (self._weight(f"{name}.gain", (arg.size,), "gain", 1.0),
                   self._weight(f"{name}.bias", (arg.size,), "bias"))
        return Expr("norm", (arg,), arg.size, weights=weights)

    def _row(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 1)
        arg = self._value(tree.args[0])
        return Expr(tree.func.id, (arg,), arg.size)  # type: ignore[attr-defined]

    def _concat(self, tree: ast.Call) -> Expr:
        if not tree.args:
            raise self._fail("concat takes at least one argument, got 0", "Write concat(a, b).")
        self.joined += 1
        args = tuple(self._value(arg) for arg in tree.args)
        self.joined -= 1
        return Expr("concat", args, sum(arg.size for arg in args))

    def _probability(self, tree: ast.expr) -> float:
        value = self._number(tree)
        if not 0.0 <= value < 1.0:
            raise self._fail(f"{value:g} is no probability of dropping", "Write a number from 0 up to, not including, 1.")
        return value

    def _dropout(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 2)
        value = self._probability(tree.args[1])
        name = self._term(self.text(tree))
        arg = self._value(tree.args[0])
        return Expr("dropout", (arg,), arg.size, name=name, value=value)

    def _zoneout(self, tree: ast.Call) -> Expr:
        self._arguments(tree, 3)
        value = self._probability(tree.args[2])
        name = self._term(self.text(tree))
        new, old = self._value(tree.args[0]), self._value(tree.args[1])
        return Expr("zoneout", (new, old), self._same_size(new, old, tree), name=name, value=value)


_USAGE = {"full": "full(s)", "diag": "diag(s)", "block": "block(s, 4)", "bias": "bias or bias(1)",
          "dropout": "dropout(s, 0.2)", "zoneout": "zoneout(new, old, 0.1)"}


def path_text(tree: ast.expr) -> str:
    """The tree as the user wrote it, names not resolved."""
    return ast.unparse(_Paths().visit(_copy(tree)))


def _copy(tree: ast.expr) -> ast.expr:
    """A copy that may be changed: parsed trees are shared between nodes of equal text."""
    return copy.deepcopy(tree)


class _Paths(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(path_of(node))


class _Resolve(ast.NodeTransformer):
    """Puts full names with their shifts in the place of names."""

    def __init__(self, builder: Builder):
        self.builder = builder

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(self.builder._resolved(node))

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if self.builder._shifted(node) is not None:
            return ast.Name(self.builder._resolved(node))
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_Call(self, node: ast.Call) -> ast.expr:
        node.args = [self.visit(arg) for arg in node.args]  # the function's name stays
        return node

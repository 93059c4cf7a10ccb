"""The values of an op list as plain torch: what each is called in generated source, and its statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from framework.cell import Op
from framework.masks import mean
from framework.ops import TABLE

TORCH = {"relu": "torch.relu({0})"}  # where the op table's form is for speed alone, and exporters lack it


class Values:
    """The values of an op list in the source: what each is called, and of which kind it is.

    flat: without steps and lanes, [size]; numbers: of Python.
    """

    def __init__(self, ops: Sequence[Op], prefix: str, lead: str, weight: Callable[[str], str]):
        self.ops, self.prefix, self.lead, self.weight = ops, prefix, lead, weight
        self.lines: list[str] = []
        self.names: dict[int, str] = {}
        self.flat: set[int] = set()
        self.numbers: set[int] = set()

    def bind(self, at: int, name: str, flat: bool = False, number: bool = False) -> None:
        """Value `at` is called `name`."""
        self.names[at] = name
        if flat:
            self.flat.add(at)
        if number:
            self.numbers.add(at)

    def put(self, at: int, text: str, flat: bool = False, number: bool = False) -> None:
        """A statement that makes value `at`."""
        self.lines.append(f"{self.prefix}{at} = {text}")
        self.bind(at, f"{self.prefix}{at}", flat, number)

    def take(self, at: int, other: Values, source: int) -> None:
        """Value `at` is `source` of another list."""
        self.bind(at, other.get(source), source in other.flat, source in other.numbers)

    def get(self, at: int) -> str:
        """Its name; weights and numbers need no statement."""
        if at not in self.names:
            op = self.ops[at]
            if op.kind == "const":
                self.bind(at, repr(op.value), flat=True, number=True)
            elif op.kind == "random":  # without training: what stands for it
                self.bind(at, repr(mean(op)), flat=True, number=True)
            else:
                assert op.kind == "param", op
                self.bind(at, self.weight(op.name), flat=True)
        return self.names[at]

    def tensor(self, at: int) -> str:
        """Its name as a tensor."""
        name = self.get(at)
        return f"like.new_full((1,), {name})" if at in self.numbers else name

    def wide(self, at: int) -> str:
        """With all steps and lanes."""
        name = self.tensor(at)
        return f"{name}.expand(*{self.lead}, {self.ops[at].size})" if at in self.flat else name

    def apply(self, at: int) -> None:
        """The statement of an op that is neither a product of matrices nor a read at another step."""
        op = self.ops[at]
        args = [self.get(a) for a in op.args]
        flat = all(a in self.flat for a in op.args)
        if op.kind in ("sum", "prod"):
            number = all(a in self.numbers for a in op.args)
            self.put(at, " * ".join(args) if op.kind == "prod" else total(args, op), flat, number)
            return
        args = [self.tensor(a) for a in op.args]
        if op.kind in TABLE:
            form = TORCH.get(op.kind, TABLE[op.kind].torch)
            self.put(at, form.format(*args), flat)
            return
        make: dict[str, Callable[[], str]] = {
            "copy": lambda: args[0],
            "expand": lambda: f"{args[0]}.expand(*{args[0]}.shape[:-1], {op.size})",
            "stop": lambda: f"{args[0]}.detach()",
            "slice": lambda: f"{args[0]}[..., {op.lo} : {op.hi}]",
            "normalize": lambda: f"layer_norm({args[0]}, ({op.size},))",
            "softmax": lambda: f"torch.softmax({args[0]}, -1)",
            "concat": lambda: f"torch.cat([{', '.join(self.wide(a) for a in op.args)}], -1)",
            "block": lambda: f"block({self.wide(op.args[0])}, {self.weight(op.name)})",
            "gather": lambda: f"gather({args[0]}, {self.weight(op.name)})",
        }
        self.put(at, make[op.kind](), flat and op.kind not in ("concat", "block"))


def total(args: Sequence[str], op: Op) -> str:
    """A sum with its coefficients."""
    text = ""
    for name, coef in zip(args, op.coefs, strict=True):
        size = "" if abs(coef) == 1.0 else f" * {abs(coef)!r}"
        sign = (" - " if text else "-") if coef < 0 else (" + " if text else "")
        text += f"{sign}{name}{size}"
    return f"{text} + {op.value!r}" if op.value else text

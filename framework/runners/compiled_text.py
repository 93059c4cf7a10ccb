"""LLVM's text form, written line by line: vectors, loops, addresses; nothing of what is computed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vectors:
    """real: float or double, in which all is computed; width: how many stand in one vector; registers: how
    many vectors there are; x86: whether the processor is one. narrow: the type of what lies in memory where
    that is smaller (bfloat, half), or ""; pairs: the processor multiplies pairs of bfloat and adds them up in
    float, and rounds to bfloat.
    """

    real: str
    width: int
    registers: int
    x86: bool = False
    narrow: str = ""
    pairs: bool = False

    @property
    def libm(self) -> str:
        """The letter behind the names of C's functions."""
        return "f" if self.real == "float" else ""

    @property
    def bytes(self) -> int:
        """Of one number."""
        return 4 if self.real == "float" else 8

    @property
    def integer(self) -> str:
        """The integer of the same size."""
        return f"i{8 * self.bytes}"

    @property
    def type(self) -> str:
        """A vector of numbers."""
        return f"<{self.width} x {self.real}>"

    @property
    def integers(self) -> str:
        """A vector of integers of the same size."""
        return f"<{self.width} x {self.integer}>"

    @property
    def bits(self) -> str:
        """A vector of truth values."""
        return f"<{self.width} x i1>"

    @property
    def suffix(self) -> str:
        """How names of LLVM's own functions end for this vector."""
        return f"v{self.width}f{8 * self.bytes}"


class Code:
    """The body of one function. Methods that compute give the name of the result."""

    def __init__(self, v: Vectors):
        self.v = v
        self.entry: list[str] = []  # what must stand in the first block: places of variables
        self.lines: list[str] = []
        self.declared: set[str] = set()
        self.block = "entry"  # the one being written
        self._count = 0

    def name(self, kind: str = "v") -> str:
        """A fresh name."""
        self._count += 1
        return f"%{kind}{self._count}"

    def put(self, text: str) -> None:
        """A line without a result."""
        self.lines.append(f"  {text}")

    def get(self, text: str) -> str:
        """A line with a result."""
        out = self.name()
        self.lines.append(f"  {out} = {text}")
        return out

    def start(self, label: str) -> None:
        """Begin a block."""
        self.lines.append(f"{label[1:]}:")
        self.block = label[1:]

    def declare(self, text: str) -> None:
        """A function that is defined elsewhere."""
        self.declared.add(f"declare {text}")

    # Numbers and pointers -----------------------------------------------------------------------------

    def number(self, value: float) -> str:
        """A constant, as LLVM writes it: the bits of a double that is exactly the number."""
        if self.v.real == "float":
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"

    def const(self, value: float) -> str:
        """A vector of one number."""
        return f"splat ({self.v.real} {self.number(value)})"

    def whole(self, value: int) -> str:
        """A vector of one integer."""
        return f"splat ({self.v.integer} {value})"

    def i64(self, op: str, a: str | int, b: str | int) -> str:
        """Integer arithmetic, e.g. add; trivial ones are left out."""
        if isinstance(a, int) and isinstance(b, int) and op in ("add", "mul"):
            return str(a + b if op == "add" else a * b)
        if (op in ("add", "sub") and str(b) == "0") or (op == "mul" and str(b) == "1"):
            return str(a)
        return self.get(f"{op} i64 {a}, {b}")

    def at(self, pointer: str, index: str | int, real: str = "") -> str:
        """The address of an element."""
        if str(index) == "0":
            return pointer
        return self.get(f"getelementptr inbounds {real or self.v.real}, ptr {pointer}, i64 {index}")

    def variable(self, kind: str, value: str = "") -> str:
        """A variable (LLVM turns it into registers)."""
        out = self.name("p")
        self.entry.append(f"  {out} = alloca {kind}")
        if value:
            self.put(f"store {kind} {value}, ptr {out}")
        return out

    # Vectors ------------------------------------------------------------------------------------------

    def splat(self, scalar: str) -> str:
        """A vector of one number that is computed."""
        one = self.get(f"insertelement {self.v.type} poison, {self.v.real} {scalar}, i64 0")
        zeros = f"<{self.v.width} x i32> zeroinitializer"
        return self.get(f"shufflevector {self.v.type} {one}, {self.v.type} poison, {zeros}")

    def splat_bits(self, truth: str) -> str:
        """A vector of one truth value."""
        v = self.v
        one = self.get(f"insertelement {v.bits} poison, i1 {truth}, i64 0")
        zeros = f"<{v.width} x i32> zeroinitializer"
        return self.get(f"shufflevector {v.bits} {one}, {v.bits} poison, {zeros}")

    def mask(self, left: str) -> str:
        """The first `left` (i64) places of a vector."""
        v = self.v
        small = self.get(f"trunc i64 {left} to i32")
        one = self.get(f"insertelement <{v.width} x i32> poison, i32 {small}, i64 0")
        zeros = f"<{v.width} x i32> zeroinitializer"
        all_left = self.get(f"shufflevector <{v.width} x i32> {one}, <{v.width} x i32> poison, {zeros}")
        places = ", ".join(f"i32 {i}" for i in range(v.width))
        return self.get(f"icmp slt <{v.width} x i32> <{places}>, {all_left}")

    def load(self, pointer: str, mask: str = "", kind: str = "") -> str:
        """A vector from memory; zeros where the mask is not. kind: of the numbers there, if narrow."""
        v = self.v
        if kind:
            return self._wide(kind, self.load_words(pointer, mask), f"<{v.width} x", ">")
        if not mask:
            return self.get(f"load {v.type}, ptr {pointer}, align {v.bytes}")
        self.declare(f"{v.type} @llvm.masked.load.{v.suffix}.p0(ptr, i32, {v.bits}, {v.type})")
        given = f"ptr {pointer}, i32 {v.bytes}, {v.bits} {mask}, {v.type} zeroinitializer"
        return self.get(f"call {v.type} @llvm.masked.load.{v.suffix}.p0({given})")

    def load_words(self, pointer: str, mask: str = "") -> str:
        """A vector of numbers of 16 bits as they are; zeros where the mask is not."""
        v = self.v
        kind, name = f"<{v.width} x i16>", f"@llvm.masked.load.v{v.width}i16.p0"
        if not mask:
            return self.get(f"load {kind}, ptr {pointer}, align 2")
        self.declare(f"{kind} {name}(ptr, i32, {v.bits}, {kind})")
        given = f"ptr {pointer}, i32 2, {v.bits} {mask}, {kind} zeroinitializer"
        return self.get(f"call {kind} {name}({given})")

    def _wide(self, kind: str, words: str, head: str = "", tail: str = "") -> str:
        """Float from the 16 bits of narrow numbers; head, tail: what makes a type one of vectors."""
        small, whole, real = (f"{head} {x}{tail}" for x in ("i16", "i32", "float"))
        if kind == "bfloat":  # the upper half of a float
            bits = self.get(f"zext {small} {words} to {whole}")
            upper = self.get(f"shl {whole} {bits}, {'splat (i32 16)' if head else 16}")
            return self.get(f"bitcast {whole} {upper} to {real}")
        narrow = self.get(f"bitcast {small} {words} to {head} {kind}{tail}")
        return self.get(f"fpext {head} {kind}{tail} {narrow} to {real}")

    def _words(self, kind: str, value: str) -> str:
        """The 16 bits of a vector's numbers, rounded to the nearest narrow ones, of two the even one."""
        v = self.v
        small, whole = f"<{v.width} x i16>", v.integers
        if kind != "bfloat" or v.pairs:
            narrow = self.get(f"fptrunc {v.type} {value} to <{v.width} x {kind}>")
            return self.get(f"bitcast <{v.width} x {kind}> {narrow} to {small}")
        bits = self.get(f"bitcast {v.type} {value} to {whole}")
        odd = self.get(f"and {whole} {self.get(f'lshr {whole} {bits}, splat (i32 16)')}, splat (i32 1)")
        more = self.get(f"add {whole} {bits}, {self.get(f'add {whole} {odd}, splat (i32 32767)')}")
        # Rounding up could carry out of what is not a number: such a one stays one.
        number = self.compare("ord", value, value)
        bits = self.get(f"select {v.bits} {number}, {whole} {more}, {whole} splat (i32 2143289344)")
        return self.get(f"trunc {whole} {self.get(f'lshr {whole} {bits}, splat (i32 16)')} to {small}")

    def store(self, value: str, pointer: str, mask: str = "", kind: str = "") -> None:
        """A vector to memory, where the mask is. kind: of the numbers there, if they are narrow."""
        v = self.v
        type_, suffix, bytes_ = v.type, v.suffix, v.bytes
        if kind:
            value, type_, suffix, bytes_ = self._words(kind, value), f"<{v.width} x i16>", f"v{v.width}i16", 2
        if not mask:
            self.put(f"store {type_} {value}, ptr {pointer}, align {bytes_}")
            return
        self.declare(f"void @llvm.masked.store.{suffix}.p0({type_}, ptr, i32, {v.bits})")
        given = f"{type_} {value}, ptr {pointer}, i32 {bytes_}, {v.bits} {mask}"
        self.put(f"call void @llvm.masked.store.{suffix}.p0({given})")

    def scalar(self, pointer: str, kind: str = "") -> str:
        """One number from memory. kind: as for `load`."""
        if kind:
            return self._wide(kind, self.get(f"load i16, ptr {pointer}, align 2"))
        return self.get(f"load {self.v.real}, ptr {pointer}, align {self.v.bytes}")

    def op(self, op: str, a: str, b: str) -> str:
        """Arithmetic of two vectors, e.g. fadd; products and sums may become one instruction."""
        return self.get(f"{op} contract {self.v.type} {a}, {b}")

    def fma(self, a: str, b: str, c: str) -> str:
        """a * b + c, rounded once."""
        return self.call("fma", a, b, c)

    def call(self, name: str, *args: str) -> str:
        """One of LLVM's own functions of vectors."""
        v = self.v
        self.declare(f"{v.type} @llvm.{name}.{v.suffix}({', '.join([v.type] * len(args))})")
        given = ", ".join(f"{v.type} {a}" for a in args)
        return self.get(f"call {v.type} @llvm.{name}.{v.suffix}({given})")

    def compare(self, how: str, a: str, b: str) -> str:
        """Truth values, e.g. ogt."""
        return self.get(f"fcmp {how} {self.v.type} {a}, {b}")

    def select(self, truth: str, a: str, b: str) -> str:
        """a where true, else b."""
        v = self.v
        return self.get(f"select {v.bits} {truth}, {v.type} {a}, {v.type} {b}")

    def reduce(self, how: str, x: str) -> str:
        """One number from a vector: fadd, or fmax."""
        v = self.v
        if how == "fadd":
            self.declare(f"{v.real} @llvm.vector.reduce.fadd.{v.suffix}({v.real}, {v.type})")
            given = f"{v.real} {self.number(-0.0)}, {v.type} {x}"
            return self.get(f"call reassoc {v.real} @llvm.vector.reduce.fadd.{v.suffix}({given})")
        self.declare(f"{v.real} @llvm.vector.reduce.{how}.{v.suffix}({v.type})")
        return self.get(f"call {v.real} @llvm.vector.reduce.{how}.{v.suffix}({v.type} {x})")

    # Blocks -------------------------------------------------------------------------------------------

    @contextmanager
    def loop(self, first: str | int, end: str | int, step: str | int = 1) -> Iterator[str]:
        """For i from first, below end."""
        head, body, done = self.name("head"), self.name("body"), self.name("done")
        i, following = self.name("i"), self.name("n")
        before = self.block
        self.put(f"br label {head}")
        self.start(head)
        slot = len(self.lines)
        self.put("")
        inside = self.get(f"icmp slt i64 {i}, {end}")
        self.put(f"br i1 {inside}, label {body}, label {done}")
        self.start(body)
        yield i
        self.put(f"{following} = add nsw i64 {i}, {step}")
        self.put(f"br label {head}")
        self.lines[slot] = f"  {i} = phi i64 [ {first}, %{before} ], [ {following}, %{self.block} ]"
        self.start(done)

    @contextmanager
    def when(self, truth: str) -> Iterator[None]:
        """If an i1 is true."""
        yes, no = self.name("yes"), self.name("no")
        self.put(f"br i1 {truth}, label {yes}, label {no}")
        self.start(yes)
        yield
        self.put(f"br label {no}")
        self.start(no)

    def function(self, head: str) -> str:
        """The whole function that returns nothing. head: linkage, name and parameters."""
        lines = [f"define {head} #0 {{", "entry:", *self.entry, *self.lines, "  ret void", "}"]
        return "\n".join(lines) + "\n"

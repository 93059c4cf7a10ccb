"""Products of a few rows with a matrix of weights, in registers: the text of their functions.

A panel is PANEL vectors of columns of the result: the weights of it lie packed, [K, PANEL * width], so that
they are read in order, once for a tile of rows. Of each row of a tile PANEL vectors of sums stay in
registers; a number of the row is multiplied with the panel's row of weights (as in Goto & van de Geijn 2008,
Anatomy of high-performance matrix multiplication).

Where the processor multiplies pairs of bfloat and adds up both products, rows and weights are such pairs:
a panel is then [K / 2, PANEL * width] pairs, a line each; an odd K ends with half a pair and zeros.
"""

from __future__ import annotations

from framework.runners.compiled_text import Code, Vectors

PANEL = 2


def tiles(v: Vectors) -> tuple[int, ...]:
    """How many rows one call does, the most first."""
    return (8, 4, 2, 1) if v.registers >= 32 else (4, 2, 1)


def columns(v: Vectors) -> int:
    """Columns of a panel."""
    return PANEL * v.width


def panels(v: Vectors, n: int) -> int:
    """How many panels n columns have."""
    return -(-n // columns(v))


def packed(v: Vectors, n: int, k: int) -> int:
    """How many full numbers (or pairs) the panels of a matrix [n, k] are."""
    return panels(v, n) * columns(v) * (-(-k // 2) if v.pairs else k)


def _lines(c: Code, up: bool = False) -> str:
    """Lines of a panel with %k numbers in a column. up: with half a pair."""
    if not c.v.pairs:
        return "%k"
    return c.get(f"lshr i64 {c.i64('add', '%k', 1) if up else '%k'}, 1")


def _number(c: Code, row: str, line: str, half: bool = False) -> str:
    """What of a row goes with a line: a number or a pair. half: only the first of a pair, and 0."""
    v = c.v
    if not v.pairs:
        return c.scalar(c.at(row, line, v.narrow), v.narrow)
    there = c.at(row, c.i64("mul", line, 2), v.narrow)
    if not half:
        return c.get(f"load float, ptr {there}, align 2")
    word = c.get(f"load i16, ptr {there}, align 2")
    return c.get(f"bitcast i32 {c.get(f'zext i16 {word} to i32')} to float")


def _multiplied(c: Code, x: str, weights: str, total: str) -> str:
    """x * weights + total, where a pair gives two products."""
    v = c.v
    if not v.pairs:
        return c.fma(x, weights, total)
    # In LLVM before 22 it takes whole numbers for pairs; later ones read this, too.
    name = f"@llvm.x86.avx512bf16.dpbf16ps.{32 * v.width}"
    c.declare(f"{v.type} {name}({v.type}, {v.integers}, {v.integers})")
    a, b = (c.get(f"bitcast {v.type} {y} to {v.integers}") for y in (x, weights))
    return c.get(f"call {v.type} {name}({v.type} {total}, {v.integers} {a}, {v.integers} {b})")


def tile(v: Vectors, rows: int) -> Code:
    """The function `tile<rows>`: out[r, :] (+)= x[r, :] by a panel.

    Few rows leave too few sums to keep the units busy: they get several for different k, added up at the end.
    What was there is added last: sums that begin with it would round all they take in to its scale.
    """
    c = Code(v)
    apart = {1: 4, 2: 4, 4: 2}.get(rows, 1)
    masks = [c.mask(c.i64("sub", "%left", j * v.width)) for j in range(PANEL)]
    adds = c.splat_bits("%add")
    places = [c.at("%out", c.i64("mul", "%ostride", r)) for r in range(rows)]
    xs = [c.at("%x", c.i64("mul", "%xstride", r), v.narrow) for r in range(rows)]
    sums = []
    for _ in range(apart):
        for _ in range(rows):
            for _ in range(PANEL):
                sums.append(c.variable(v.type, "zeroinitializer"))

    def step(k: str, part: int, half: bool = False) -> None:
        weights = [c.load(c.at("%panel", c.i64("add", c.i64("mul", k, columns(v)), j * v.width)))
                   for j in range(PANEL)]  # fmt: skip
        for r in range(rows):
            x = c.splat(_number(c, xs[r], k, half))
            for j in range(PANEL):
                p = sums[(part * rows + r) * PANEL + j]
                old = c.get(f"load {v.type}, ptr {p}")
                c.put(f"store {v.type} {_multiplied(c, x, weights[j], old)}, ptr {p}")

    lines = _lines(c)
    whole = c.get(f"and i64 {lines}, {-apart}")
    with c.loop(0, whole, apart) as k:
        for part in range(apart):
            step(c.i64("add", k, part), part)
    if apart > 1:
        with c.loop(whole, lines) as k:
            step(k, 0)
    if v.pairs:
        with c.when(c.get("trunc i64 %k to i1")):
            step(lines, 0, half=True)
    for r in range(rows):
        for j in range(PANEL):
            mine = [sums[(part * rows + r) * PANEL + j] for part in range(apart)]
            parts = [c.get(f"load {v.type}, ptr {p}") for p in mine]
            while len(parts) > 1:
                parts = [c.op("fadd", a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            place = c.at(places[r], j * v.width)
            there = c.load(place, c.get(f"and {v.bits} {masks[j]}, {adds}"))
            c.store(c.op("fadd", there, parts[0]), place, masks[j])
    return c


TILE = "ptr %out, i64 %ostride, ptr %x, i64 %xstride, ptr %panel, i64 %k, i64 %left, i1 %add"


def functions(v: Vectors) -> tuple[str, set[str]]:
    """The text of all tiles and of packing, and what they declare."""
    made = {f"tile{rows}({TILE})": tile(v, rows) for rows in tiles(v)}
    made |= {f"pack_rows({PACK})": packing_rows(v), f"pack_turned({PACK})": packing_turned(v)}
    texts = [c.function(f"internal void @{head}") for head, c in made.items()]
    return "\n".join(texts), {name for c in made.values() for name in c.declared}


def pack(c: Code, to: str, w: str, n: int, k: int, apart_n: int, apart_k: int, first: str, end: str) -> None:
    """Lines that pack panels first:end of a matrix [n, k]; apart_*: numbers to the next n, the next k. One of
    these is 1. What stands in columns past n is never stored, and may be anything.
    """
    assert 1 in (apart_n, apart_k), (apart_n, apart_k)
    name, apart = ("rows", apart_k) if apart_n == 1 else ("turned", apart_n)
    given = f"ptr {to}, ptr {w}, i64 {n}, i64 {k}, i64 {apart}, i64 {first}, i64 {end}"
    c.put(f"call void @pack_{name}({given})")


PACK = "ptr %to, ptr %w, i64 %n, i64 %k, i64 %apart, i64 %first, i64 %end"


def packing_rows(v: Vectors) -> Code:
    """The function for matrices whose columns lie side by side."""
    c, wide = Code(v), columns(v)
    with c.loop("%first", "%end") as p:
        start = c.i64("mul", p, wide)
        panel = c.at("%to", c.i64("mul", start, _lines(c, up=True)))
        masks = [c.mask(c.i64("sub", c.i64("sub", "%n", start), j * v.width)) for j in range(PANEL)]

        def move(line: str, rows: list[str]) -> None:
            """A line of one row; of a pair of rows, or half of one."""
            there = c.at(panel, c.i64("mul", line, wide))
            heres = [c.at("%w", c.i64("add", start, c.i64("mul", r, "%apart")), v.narrow) for r in rows]
            for j in range(PANEL):
                places = [c.at(here, j * v.width, v.narrow) for here in heres]
                if v.pairs:
                    value = _paired(c, [c.load_words(place, masks[j]) for place in places])
                else:
                    value = c.load(places[0], masks[j], v.narrow)
                c.store(value, c.at(there, j * v.width))

        lines = _lines(c)
        with c.loop(0, lines) as line:
            first = c.i64("mul", line, 2)
            move(line, [first, c.i64("add", first, 1)] if v.pairs else [line])
        if v.pairs:
            with c.when(c.get("trunc i64 %k to i1")):
                move(lines, [c.i64("sub", "%k", 1)])
    return c


def _paired(c: Code, words: list[str]) -> str:
    """A vector of pairs, from the first and second words of each (or zeros)."""
    v = c.v
    kind, both = f"<{v.width} x i16>", f"<{2 * v.width} x i16>"
    first, second = words if len(words) == 2 else (words[0], "zeroinitializer")
    order = ", ".join(f"i32 {i // 2 + v.width * (i % 2)}" for i in range(2 * v.width))
    mixed = c.get(f"shufflevector {kind} {first}, {kind} {second}, <{2 * v.width} x i32> <{order}>")
    return c.get(f"bitcast {both} {mixed} to {v.type}")


def packing_turned(v: Vectors) -> Code:
    """The function for matrices whose rows lie so: squares are turned in registers, the rest is moved number
    by number.
    """
    c, wide = Code(v), columns(v)
    lines = _lines(c)
    whole = c.get(f"and i64 {lines}, {-v.width}")
    with c.loop(0, PANEL) as j, c.loop("%first", "%end") as p:
        start = c.i64("mul", p, wide)
        to = c.at(c.at("%to", c.i64("mul", start, _lines(c, up=True))), c.i64("mul", j, v.width))
        column = c.i64("add", start, c.i64("mul", j, v.width))
        rows = []
        for i in range(v.width):
            line = c.i64("add", column, i)
            inside = c.get(f"icmp slt i64 {line}, %n")
            line = c.get(f"select i1 {inside}, i64 {line}, i64 0")
            rows.append(c.at("%w", c.i64("mul", line, "%apart"), v.narrow))

        def move(line: str, half: bool = False) -> None:
            for i, row in enumerate(rows):
                place = c.at(to, c.i64("add", c.i64("mul", line, wide), i))
                c.put(f"store {v.real} {_number(c, row, line, half)}, ptr {place}, align {v.bytes}")

        with c.loop(0, whole, v.width) as k0:
            for i, x in enumerate(_turn(c, [_numbers(c, row, k0) for row in rows])):
                c.store(x, c.at(to, c.i64("mul", c.i64("add", k0, i), wide)))
        with c.loop(whole, lines) as k:
            move(k)
        if v.pairs:
            with c.when(c.get("trunc i64 %k to i1")):
                move(lines, half=True)
    return c


def _numbers(c: Code, row: str, line: str) -> str:
    """What of a row goes with a vector of lines."""
    v = c.v
    if not v.pairs:
        return c.load(c.at(row, line, v.narrow), "", v.narrow)
    return c.get(f"load {v.type}, ptr {c.at(row, c.i64('mul', line, 2), v.narrow)}, align 2")


def _turn(c: Code, rows: list[str]) -> list[str]:
    """The transpose of a square of vectors: interleaving the first half with the second turns one bit of the
    place into one bit of the number of the vector.
    """
    v = c.v
    half = v.width // 2
    low = ", ".join(f"i32 {i // 2 + v.width * (i % 2)}" for i in range(v.width))
    high = ", ".join(f"i32 {half + i // 2 + v.width * (i % 2)}" for i in range(v.width))
    for _ in range(v.width.bit_length() - 1):
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [
            c.get(f"shufflevector {v.type} {a}, {v.type} {b}, <{v.width} x i32> <{places}>")
            for a, b in pairs
            for places in (low, high)
        ]
    return rows


def multiply(
    c: Code, out: str, out_apart: int, x: str, x_apart: int, panels_at: str, n: int, k: int,
    add: bool, first: str, end: str, lanes: tuple[str, str],
) -> None:  # fmt: skip
    """Lines that do out[b, 0:n] (+)= x[b, 0:k] by panels first:end, for lanes b in [lanes).

    out, x: addresses of lane 0; *_apart: numbers from one lane to the next.
    """
    v, wide = c.v, columns(c.v)
    with c.loop(first, end) as p:
        start = c.i64("mul", p, wide)
        left = c.i64("sub", n, start)
        panel = c.at(panels_at, c.i64("mul", p, packed(v, wide, k)))
        here = c.at(out, start)

        def call(rows: int, b: str) -> None:
            o = c.at(here, c.i64("mul", b, out_apart))
            row = c.at(x, c.i64("mul", b, x_apart), v.narrow) if x_apart else x
            given = f"ptr {o}, i64 {out_apart}, ptr {row}, i64 {x_apart}, ptr {panel}, i64 {k}, i64 {left}"
            c.put(f"call void @tile{rows}({given}, i1 {int(add)})")

        most, *fewer = tiles(v)
        count = c.i64("sub", lanes[1], lanes[0])
        whole = c.get(f"and i64 {count}, {-most}")
        b = c.i64("add", lanes[0], whole)
        with c.loop(lanes[0], b, most) as lane:
            call(most, lane)
        for rows in fewer:
            some = c.get(f"and i64 {count}, {rows}")
            truth = c.get(f"icmp ne i64 {some}, 0")
            with c.when(truth):
                call(rows, b)
            b = c.i64("add", b, some)

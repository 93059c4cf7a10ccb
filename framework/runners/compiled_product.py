"""Products of a few rows with a matrix of weights, in registers: the text of their functions.

A panel is PANEL vectors of columns of the result: the weights of it lie packed, [K, PANEL * width], so that
they are read in order, once for a tile of rows. Of each row of a tile PANEL vectors of sums stay in
registers; a number of the row is multiplied with the panel's row of weights (as in Goto & van de Geijn 2008,
Anatomy of high-performance matrix multiplication).
"""

from __future__ import annotations

from framework.runners.compiled_text import Code, Vectors

PANEL = 2
BLOCK = 64  # numbers of a row that are packed at once: what they are spread over stays in the first cache


def tiles(v: Vectors) -> tuple[int, ...]:
    """How many rows one call does, the most first."""
    return (8, 4, 2, 1) if v.registers >= 32 else (4, 2, 1)


def columns(v: Vectors) -> int:
    """Columns of a panel."""
    return PANEL * v.width


def panels(v: Vectors, n: int) -> int:
    """How many panels n columns have."""
    return -(-n // columns(v))


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
    xs = [c.at("%x", c.i64("mul", "%xstride", r)) for r in range(rows)]
    sums = []
    for _ in range(apart):
        for _ in range(rows):
            for _ in range(PANEL):
                sums.append(c.variable(v.type, "zeroinitializer"))

    def step(k: str, part: int) -> None:
        weights = [c.load(c.at("%panel", c.i64("add", c.i64("mul", k, columns(v)), j * v.width)))
                   for j in range(PANEL)]  # fmt: skip
        for r in range(rows):
            x = c.splat(c.scalar(c.at(xs[r], k)))
            for j in range(PANEL):
                p = sums[(part * rows + r) * PANEL + j]
                old = c.get(f"load {v.type}, ptr {p}")
                c.put(f"store {v.type} {c.fma(x, weights[j], old)}, ptr {p}")

    whole = c.get(f"and i64 %k, {-apart}")
    with c.loop(0, whole, apart) as k:
        for part in range(apart):
            step(c.i64("add", k, part), part)
    if apart > 1:
        with c.loop(whole, "%k") as k:
            step(k, 0)
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
    """The text of all tiles, and what they declare."""
    texts, declared = [], set[str]()
    for rows in tiles(v):
        c = tile(v, rows)
        texts.append(c.function(f"internal void @tile{rows}({TILE})"))
        declared |= c.declared
    return "\n".join(texts), declared


def pack(c: Code, to: str, w: str, n: int, k: int, apart_n: int, apart_k: int, first: str, end: str) -> None:
    """Lines that pack panels first:end of a matrix [n, k]; apart_*: numbers to the next n, the next k."""
    v, wide = c.v, columns(c.v)
    with c.loop(first, end) as p:
        start = c.i64("mul", p, wide)
        panel = c.at(to, c.i64("mul", p, wide * k))
        if apart_n == 1:
            with c.loop(0, k) as row:
                here = c.at(w, c.i64("add", start, c.i64("mul", row, apart_k)))
                there = c.at(panel, c.i64("mul", row, wide))
                for j in range(PANEL):
                    left = c.i64("sub", c.i64("sub", n, start), j * v.width)
                    c.store(c.load(c.at(here, j * v.width), c.mask(left)), c.at(there, j * v.width))
            return
        with c.loop(0, k, BLOCK) as k0:
            after = c.i64("add", k0, BLOCK)
            more = c.get(f"icmp slt i64 {after}, {k}")
            k1 = c.get(f"select i1 {more}, i64 {after}, i64 {k}")
            with c.loop(0, wide) as j:
                column = c.i64("add", start, j)
                there = c.get(f"icmp slt i64 {column}, {n}")
                inside = c.get(f"select i1 {there}, i64 {column}, i64 0")
                here = c.at(w, c.i64("mul", inside, apart_n))
                to_j = c.at(panel, j)
                with c.loop(k0, k1) as row:
                    x = c.scalar(c.at(here, c.i64("mul", row, apart_k)))
                    x = c.get(f"select i1 {there}, {v.real} {x}, {v.real} {c.number(0.0)}")
                    place = c.at(to_j, c.i64("mul", row, wide))
                    c.put(f"store {v.real} {x}, ptr {place}, align {v.bytes}")


def multiply(
    c: Code, out: str, out_apart: int, x: str, x_apart: int, packed: str, n: int, k: int,
    add: bool, first: str, end: str, lanes: tuple[str, str],
) -> None:  # fmt: skip
    """Lines that do out[b, 0:n] (+)= x[b, 0:k] by panels first:end, for lanes b in [lanes).

    out, x: addresses of lane 0; *_apart: numbers from one lane to the next.
    """
    v, wide = c.v, columns(c.v)
    with c.loop(first, end) as p:
        start = c.i64("mul", p, wide)
        left = c.i64("sub", n, start)
        panel = c.at(packed, c.i64("mul", p, wide * k))
        here = c.at(out, start)

        def call(rows: int, b: str) -> None:
            o = c.at(here, c.i64("mul", b, out_apart))
            row = c.at(x, c.i64("mul", b, x_apart)) if x_apart else x
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

"""Statistics over units that a forward keeps for its backward: which, where, and what that spares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from framework import Network, load_graph
from framework.graph import Graph
from framework.persistent import backward_code, cell_of, forward_code, saved_of
from framework.plan import make_plan
from framework.runners.loop import Chunk
from framework.runners.triton_persistent import PersistentLoop
from kernels.persistent_layout import Layout
from kernels.persistent_source import Kernel
from tests.graphs import random_batch
from tests.kernels.persistent_graphs import network, of_cell, prepared
from tests.kernels.persistent_spread import check as check_many
from tests.kernels.test_persistent_many_mutants import ANY, RACE, VALUE, Mutant, change, outcome

ONE, MANY = Layout(), Layout(programs=2, lanes=4, least=2, chunk=16)
# softmax of what is kept for nothing else; norm of a state, and of a product that its reader alone has
SOFT = {
    "a": {"size": 5, "is": "softmax(full(h[t-1]) + diag(a[t-1]) + full(x))"},
    "h": {"size": 5, "is": "tanh(norm(a) + norm(full(a)) + softmax(tanh(full(h[t-1]))) * full(x))"},
}


def graph(nodes: dict[str, Any]) -> Graph:
    return load_graph({"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": ["h"]})


def lstm_norm() -> Graph:
    return load_graph(of_cell("lstm_norm", 5))


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with prepared():
        yield


@pytest.mark.parametrize("layout", [ONE, MANY])
def test_what_is_kept_of_a_norm(layout: Layout):
    """Gates: what was normalised lies in the hoisted buffer, so 1 / deviation is enough; c is kept itself."""
    (c,) = make_plan(lstm_norm()).components
    cell, saved = cell_of(c, True), saved_of(c, layout)
    assert [cell.ops[at].kind for at in saved.columns] == ["normalize"] * 4 and saved.extra == ()
    state = cell.roots["l/c"]
    assert [name for name, at in saved.rows if at == state] == ["mean", "rstd"]
    assert [name for name, at in saved.rows if at != state] == ["rstd"] * 4


@pytest.mark.parametrize("layout", [ONE, MANY])
@pytest.mark.parametrize("source", [lstm_norm(), graph(SOFT)], ids=["norm", "softmax"])
def test_a_backward_takes_no_statistic_again(source: Graph, layout: Layout):
    """What it sums over units is its own: gradients."""
    (c,) = make_plan(source).components
    again = re.compile(r"\b(moments|exponents|part_mean|part_moment|row_max|row_exp|whole_\w+)\(")
    assert again.search(forward_code(c, layout, True, False).text)
    backward = backward_code(c, layout, False)
    assert not again.search(backward.text) and "row_sum(" in backward.text and "p_rows" in backward.arguments


def barriers(code: Kernel) -> int:
    return len(re.findall(r"^ *arrive\(", code.text, flags=re.MULTILINE))


def test_barriers_of_a_step():
    """Backward: sums for the norm of c, those for the norms of gates, gradients of the gates."""
    (c,) = make_plan(lstm_norm()).components
    assert barriers(forward_code(c, MANY, True, False)) == 3
    assert barriers(backward_code(c, MANY, False)) == 3


def test_equal_gradients_are_summed_once():
    """The bias of a gate and that of its norm are added up: one sum of 1 + 4 x 2 + 1 that there are."""
    (c,) = make_plan(lstm_norm()).components
    code = backward_code(c, ONE, False)
    assert len(code.sums) == 14 and len({(size, number) for _, size, number in code.sums}) == 10
    assert code.text.count("= add_exactly(") == 10


@pytest.mark.parametrize("layout", [ONE, MANY])
def test_inference_keeps_none(layout: Layout):
    (c,) = make_plan(lstm_norm()).components
    assert "p_rows" not in forward_code(c, layout, False, False).arguments


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_kept_in_float32_at_least(dtype: torch.dtype):
    loop = Network(lstm_norm(), runner="persistent").loops[0]
    assert isinstance(loop, PersistentLoop)
    kept = loop.keeps(Chunk(7, 3, {}))
    assert kept["rows"].shape == (7, 3, 6)
    assert kept["rows"].dtype(dtype) == torch.promote_types(dtype, torch.float32)
    assert all(k.dtype(dtype) == dtype for name, k in kept.items() if name != "rows")


@pytest.mark.parametrize("kind", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_softmax_and_norm_over_many_programs(kind: int):
    """Tiles of lanes follow one another; kind 3: with lengths and resets."""
    source = graph(SOFT)
    batch = random_batch(source, kind, bool(kind & 1), bool(kind & 2), steps=2, lanes=3)
    check_many(source, [batch], [Layout(2, 2, least=2, chunk=16, groups=1)], kind)


@pytest.mark.parametrize("nodes", [SOFT, None], ids=["softmax", "norm"])
def test_computed_again_it_is_what_the_kernel_left(nodes: dict[str, Any] | None):
    """`memory: recompute`, by torch: all that is kept, and what the kernel wrote over hoisted sums."""
    net = network(lstm_norm() if nodes is None else graph(nodes))
    (loop,) = net.loops
    assert isinstance(loop, PersistentLoop)
    run, found = loop.run, list[str]()

    def both(chunk: Chunk, n_ext: int, tensors: Any, train: bool) -> Any:
        assert train
        given = [x.clone() for x in tensors]
        out, kept = run(chunk, n_ext, tensors, train)
        stored = {name: x for name, x in kept.items() if name.startswith("node")}
        again = loop.rebuild(chunk, n_ext, given, stored)
        assert again.keys() == kept.keys()
        for name, x in kept.items():
            torch.testing.assert_close(again[name], x, rtol=1e-10, atol=1e-10)
        for at, lo in loop.saved(chunk).columns.items():
            columns = slice(lo, lo + loop.c.cell[at].size)
            torch.testing.assert_close(
                given[0][..., columns], tensors[0][..., columns], rtol=1e-10, atol=1e-10
            )
        found.extend(kept)
        return out, kept

    loop.run = both  # type: ignore[method-assign]
    net({"x": torch.randn(4, 2, 3, dtype=torch.float64)})
    assert "rows" in found


MUTANTS = {
    "another row": Mutant("backward", r"(tl\.load\(p_rows \+ )\(o_row\)", r"\1(o_row - B)", ANY),
    "another statistic": Mutant("forward", r"(tl\.store\(p_rows [^,]*, )rstd_", r"\1mean_", (VALUE,)),
    "stored by all": Mutant("forward", r"(tl\.store\(p_rows .*)m_first", r"\1m_lane", (RACE,)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant(name: str, monkeypatch: pytest.MonkeyPatch):
    mutant = MUTANTS[name]
    found = change(monkeypatch, mutant)
    shown = outcome(0, mutant.graph)
    print(f"{name}: {shown}")
    assert found and any(found), "the text to change is not there"
    assert shown in mutant.shown, shown

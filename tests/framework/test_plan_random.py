"""Plans of random graphs hold what a plan must; each property is worked out a second way."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from framework.expr import Expr
from framework.graph import Graph
from framework.load import load_graph
from framework.plan import Linear, Loop, Map, Plan, make_plan
from framework.scc import components, topological
from tests.graphs import random_graph

SEEDS = range(150)


def walk(e: Expr) -> Iterator[Expr]:
    yield e
    for arg in e.args:
        yield from walk(arg)


def read_by(graph: Graph, node: str) -> set[str]:
    """The nodes that a node reads, at whatever step."""
    return {e.name for e in walk(graph.nodes[node].expr) if e.op == "ref" and e.name in graph.nodes}


def needed(graph: Graph) -> set[str]:
    """The nodes that an output reaches; by repetition until nothing changes."""
    live = set(graph.outputs.values())
    while True:
        more = live.union(*(read_by(graph, n) for n in live))
        if more == live:
            return live
        live = more


def cycles(edges: list[list[int]]) -> set[frozenset[int]]:
    """Strongly connected components with a cycle, from the matrix of who reaches whom (Warshall 1962)."""
    n = len(edges)
    reach = [[w in edges[v] for w in range(n)] for v in range(n)]
    for k in range(n):
        for i in range(n):
            if reach[i][k]:
                for j in range(n):
                    reach[i][j] = reach[i][j] or reach[k][j]
    return {frozenset(w for w in range(n) if reach[v][w] and reach[w][v]) for v in range(n) if reach[v][v]}


@pytest.fixture(scope="module", params=["intra", "none"])
def plans(request) -> list[tuple[int, Graph, Plan]]:
    graphs = [(seed, load_graph(random_graph(seed))) for seed in SEEDS]
    return [(seed, g, make_plan(g, parallel=request.param)) for seed, g in graphs]


def test_every_live_weight_is_in_exactly_one_pack(plans):
    for seed, graph, plan in plans:
        live = needed(graph)
        expected = sorted(name for name in graph.weights if name.split(":")[0] in live)
        packed = [name for pack in plan.packs.values() for name, _, _ in pack.members]
        assert sorted(packed) == expected, seed


def test_packs_have_the_room_of_their_weights(plans):
    for seed, graph, plan in plans:
        for pack in plan.packs.values():
            rows = 0
            for name, lo, hi in pack.members:
                shape = graph.weights[name].shape
                assert lo == rows, (seed, "members stand one behind the other")
                if pack.kind == "block":
                    assert pack.shape == shape, seed
                elif pack.kind == "gather":
                    assert (hi - lo, pack.shape[0]) == shape, seed
                else:
                    assert (hi - lo, *pack.shape[1:]) == shape, seed
                rows = hi
            if pack.kind != "block":
                assert pack.shape[1 if pack.kind == "gather" else 0] == rows, seed


def test_loops_are_the_strongly_connected_components(plans):
    for seed, graph, plan in plans:
        live = sorted(needed(graph))
        edges = [[live.index(n) for n in read_by(graph, node)] for node in live]
        expected = {frozenset(live[i] for i in group) for group in cycles(edges)}
        found = [c.nodes for c in plan.components if c.delay]
        assert len(found) == len(expected), seed
        for nodes in found:
            (group,) = [group for group in expected if nodes[0] in group]
            assert group.issuperset(nodes), seed
            # A scaled value, `a: b / 3`, is read as b by the others of its loop: a itself may stay outside.
            for node in group.difference(nodes):
                op = plan.ops[plan.roots[node]]
                assert op.kind == "sum" and len(op.args) == 1, (seed, node)
        if plan.parallel == "none":
            rest = [n for c in plan.components if not c.delay for n in c.nodes]
            loops = [n for group in expected for n in group]
            assert len(rest) == len(set(rest)) and not set(rest) & set(loops), seed


def made_by(plan: Plan, k: int) -> set[int]:
    """The ops whose values step k makes."""
    step = plan.steps[k]
    if isinstance(step, Map):
        return {step.op}
    if isinstance(step, Linear):
        return set(step.columns)
    return {at for at, _ in plan.components[step.component].outputs}


def read_in(plan: Plan, k: int) -> set[int]:
    """The ops whose values step k reads."""
    step = plan.steps[k]
    if isinstance(step, Map):
        op = plan.ops[step.op]
        return {plan.roots[op.name]} if op.kind == "shift" else set(op.args)
    if isinstance(step, Linear):
        return {a.source for a in step.addends if a.source >= 0}
    return set(plan.components[step.component].ext)


def test_steps_read_what_steps_before_them_made(plans):
    for seed, graph, plan in plans:
        made: set[int] = set()
        for k in range(len(plan.steps)):
            missing = {at for at in read_in(plan, k) - made if plan.ops[at].kind not in ("param", "const")}
            assert not missing, (seed, k, [plan.ops[at] for at in missing])
            fresh = made_by(plan, k)
            assert not fresh & made, (seed, k, "made twice")
            made |= fresh
            step = plan.steps[k]
            if isinstance(step, Loop) and step.pre >= 0:
                assert step.pre < k and isinstance(plan.steps[step.pre], Linear), seed
        assert {plan.roots[n] for n in graph.outputs.values()} <= made, seed


def test_what_is_on_no_cycle_is_in_no_loop(plans):
    """The ops of the loops are exactly those on a cycle: what depends on no loop is outside."""
    for seed, _, plan in plans:
        if plan.parallel == "none":
            continue
        inside = set().union(*(c.members for c in plan.components))
        edges = [[plan.roots[op.name]] if op.kind == "shift" else list(op.args) for op in plan.ops]
        cyclic = {v for g in components(edges) if len(g) > 1 or g[0] in edges[g[0]] for v in g}
        assert cyclic == inside, seed


def test_buffers_are_filled_without_gaps(plans):
    for seed, _, plan in plans:
        starts = {s.pre: plan.components[s.component] for s in plan.steps if isinstance(s, Loop)}
        for k, step in enumerate(plan.steps):
            if not isinstance(step, Linear):
                continue
            columns = list(step.columns.values())
            if k in starts:
                columns = [(t.lo, t.hi) for t in starts[k].targets]
            at = 0
            for lo, hi in sorted(columns):
                assert lo == at < hi, seed
                at = hi
            assert at == step.width, seed
            for a in step.addends:
                assert 0 <= a.lo < a.hi <= step.width, seed
                if a.pack and a.kind in ("full", "gather"):
                    pack = plan.packs[a.pack]
                    assert pack.shape[a.kind == "gather"] == a.hi - a.lo, seed


def test_every_product_of_a_loop_has_its_pack(plans):
    for seed, _, plan in plans:
        members = {pack.members: pack for pack in plan.packs.values()}
        for c in plan.components:
            for run in c.runs:
                assert members[run.weights].shape == (run.hi - run.lo, c.cell[run.source].size), seed
                assert run.phase <= c.phases, seed


def test_loops_of_a_group_do_not_wait_for_each_other(plans):
    for seed, _, plan in plans:
        maker = {at: k for k in range(len(plan.steps)) for at in made_by(plan, k)}
        above: list[set[int]] = []  # the steps that each step waits for
        for k, step in enumerate(plan.steps):
            direct = {maker[at] for at in read_in(plan, k) if at in maker}
            if isinstance(step, Loop) and step.pre >= 0:
                direct.add(step.pre)
            above.append(direct.union(*(above[j] for j in direct)))
        for group in plan.groups:
            assert len(group) > 1 and all(isinstance(plan.steps[k], Loop) for k in group), seed
            assert not any(a in above[b] for a in group for b in group), seed


def unfolded(text: str) -> str:
    """l/{i,f.sum} -> l/i l/f.sum."""
    return re.sub(r"(\S*?)\{([^}]*)\}", lambda m: " ".join(m[1] + tail for tail in m[2].split(",")), text)


def test_a_value_without_a_name_is_written_before_it_is_read(plans):
    """`l/i.sum` and `l/i.2` stand left of an arrow before they stand right of one."""
    named = re.compile(r"(?<![\w/.)])([A-Za-z_][\w/]*\.[a-z]*\d*)(?![\w(])")
    seen = 0
    for seed, _, plan in plans:
        written: set[str] = set()
        for line in str(plan).splitlines():
            written |= set(named.findall(unfolded(line.partition("also gives ")[2])))
            if not re.match(r" *\d+ (gemm|gather|add|map) ", line):
                continue
            left, arrow, right = unfolded(line[11:].split("  ")[0]).partition(" <- ")
            if not arrow:
                left, arrow, right = left.partition(" += ")
            if arrow:
                reads = set(named.findall(right))
                assert reads <= written, (seed, line, reads - written)
                written |= set(named.findall(left))
                seen += len(reads)
    assert seen > 100 or plans[0][2].parallel == "none"


def test_every_node_is_in_the_text(plans):
    for seed, graph, plan in plans:
        text = unfolded(str(plan))
        for name in needed(graph):
            # Of long lists the end is not printed.
            assert re.search(rf"(?<![\w/]){re.escape(name)}(?!\w)", text) or " more" in text, (seed, name)


@pytest.mark.parametrize("seed", range(30))
def test_components_and_order_of_plain_graphs(seed):
    """scc.py against the matrix: groups, dependencies first, and an order of the zero-delay edges."""
    pick = random.Random(seed)
    n = pick.randint(1, 14)
    edges = [[pick.randrange(n) for _ in range(pick.randint(0, 3))] for _ in range(n)]
    groups = components(edges)
    assert sorted(v for g in groups for v in g) == list(range(n)) and all(g == sorted(g) for g in groups)
    cyclic = {frozenset(g) for g in groups if len(g) > 1 or g[0] in edges[g[0]]}
    assert cyclic == cycles(edges)
    place = {v: i for i, g in enumerate(groups) for v in g}
    assert all(place[w] <= place[v] for v in range(n) for w in edges[v]), "what is read comes first"
    down = [[w for w in edges[v] if w < v] for v in range(n)]
    order = topological(range(n), down)
    at = {v: i for i, v in enumerate(order)}
    assert sorted(order) == list(range(n))
    assert all(at[w] < at[v] for v in range(n) for w in down[v])


def test_long_chains_need_no_deep_stack():
    n = 20_000
    assert len(components([[v - 1] if v else [] for v in range(n)])) == n
    assert components([[(v - 1) % n] for v in range(n)]) == [list(range(n))]
    assert topological(range(n), [[v + 1] if v + 1 < n else [] for v in range(n)]) == list(range(n))[::-1]

"""What the planner takes out of the loops, how it packs weights, which loops may run together."""

from __future__ import annotations

import pytest

from framework.load import load_graph
from framework.plan import Linear, Loop, Map, Pack, Plan, make_plan
from tests.framework.small_graphs import graph


def names(pack: Pack) -> list[str]:
    return [name for name, _, _ in pack.members]


def pack_of(plan: Plan, weight: str) -> Pack:
    (found,) = [pack for pack in plan.packs.values() if weight in names(pack)]
    return found


def hoisted(plan: Plan) -> set[str]:
    """The nodes that a step other than a loop computes."""
    done = {step.op for step in plan.steps if isinstance(step, Map)}
    done |= {op for step in plan.steps if isinstance(step, Linear) for op in step.columns}
    return {name for name, root in plan.roots.items() if root in done}


def test_outputs_that_feed_nothing_back_are_outside():
    plan = make_plan(graph({
        "h": {"size": 4, "is": "tanh(full(x) + full(h[t-1]) + bias)"},
        "gate": {"size": 4, "is": "sigmoid(full(h) + diag(h[t-1]))"},
        "y": {"size": 4, "is": "gate * h"},
    }))  # fmt: skip
    assert [c.nodes for c in plan.components] == [("h",)]
    assert {"gate", "y"} <= hoisted(plan)


def test_the_half_of_a_node_that_no_loop_needs_is_outside():
    """h is in the loop; the gate over x that it multiplies, and its own product with x, are not."""
    text = "sigmoid(full(x) + bias) * tanh(full(x) + full(h[t-1]))"
    plan = make_plan(graph({"h": {"size": 4, "is": text}}))
    (c,) = plan.components
    kinds = [op.kind for op in c.cell]
    assert "sigmoid" not in kinds and kinds.count("full") == 1 and "tanh" in kinds
    assert any(isinstance(s, Map) and plan.ops[s.op].kind == "sigmoid" for s in plan.steps)


def test_sru_keeps_nothing_but_its_state_in_the_loop():
    plan = make_plan(load_graph("stack", cell="sru", layers=1))
    assert [set(c.nodes) for c in plan.components] == [{"l/f", "l/c"}]
    assert {"l/w", "l/k", "l/r", "l/h"} <= hoisted(plan)
    assert not plan.components[0].runs, "no matrix in the loop"


@pytest.mark.parametrize("cell", ["mingru", "minlstm"])
def test_gates_that_read_no_state_are_outside(cell):
    plan = make_plan(load_graph("stack", cell=cell, layers=1))
    assert plan.components[0].nodes == ("l/h",)


def test_dead_nodes_are_dropped_with_their_weights():
    g = graph({
        "h": {"size": 4, "is": "tanh(full(x) + full(h[t-1]))", "init": "learned"},
        "dead": {"size": 3, "is": "full(h) + full(dead[t-1]) + bias", "init": "learned"},
        "deader": {"size": 2, "is": "full(dead)"},
    }, outputs=["h"])  # fmt: skip
    plan = make_plan(g)
    assert set(plan.roots) == {"x", "h"}
    packed = sorted(n for p in plan.packs.values() for n in names(p))
    assert packed == ["h:full(h[t-1])", "h:full(x)", "h:init"]
    assert "dropped, no output needs them: {dead,deader}" in str(plan)
    assert "dropped" not in str(make_plan(load_graph("lstm")))


def test_terms_of_one_source_lie_side_by_side_in_one_pack():
    plan = make_plan(load_graph("stack", cell="lstm", layers=1, size=6, input={"size": 5}))
    for term, columns in (("full(x)", 5), ("full(l/h[t-1])", 6)):
        pack = pack_of(plan, f"l/i:{term}")
        assert sorted(names(pack)) == sorted(f"l/{gate}:{term}" for gate in "ifzo")
        assert pack.shape == (24, columns)
        assert [(lo, hi) for _, lo, hi in pack.members] == [(0, 6), (6, 12), (12, 18), (18, 24)]
    assert sorted(names(pack_of(plan, "l/i:bias"))) == sorted(f"l/{gate}:bias" for gate in "ifzo")
    loops = [step for step in plan.steps if isinstance(step, Loop)]
    starts = plan.steps[loops[0].pre]
    assert isinstance(starts, Linear) and starts.width == 24
    products = [a for a in starts.addends if a.kind == "full"]
    assert len(products) == 1 and (products[0].lo, products[0].hi) == (0, 24), "one product for all gates"


def test_several_sources_add_up_in_one_buffer():
    plan = make_plan(graph({
        "h": {"size": 4, "is": "tanh(full(x) + full(z) + full(x[t-1]) + full(h[t-1]) - 0.5)"},
        "y": {"size": 4, "is": "h"},
    }, {"x": {"size": 3}, "z": {"size": 2}}))  # fmt: skip
    linear = [step for step in plan.steps if isinstance(step, Linear)]
    assert len(linear) == 1 and linear[0].width == 4
    assert [a.kind for a in linear[0].addends] == ["full"] * 3
    assert linear[0].const == ((0, 4, -0.5),)


def test_directions_and_independent_loops_may_run_together():
    plan = make_plan(load_graph("blstm"))
    together = [[plan.components[plan.steps[k].component].name for k in group] for group in plan.groups]
    assert together == [["l1/fwd", "l1/bwd"], ["l2/fwd", "l2/bwd"]]
    assert not make_plan(load_graph("lstm")).groups, "stacked layers wait for each other"
    wide = make_plan(graph({f"n{i}": {"size": 2, "is": f"full(x) + full(n{i}[t-1])"} for i in range(5)}
                           | {"y": {"size": 2, "is": "n0 + n1 + n2 + n3 + n4"}}))  # fmt: skip
    assert len(wide.groups) == 1 and len(wide.groups[0]) == 5


@pytest.mark.parametrize("model", ["lstm_variant", "blstm", "tdnn_lstm", "feedback", "dilated"])
def test_without_parallelism_nothing_is_hoisted(model):
    g = load_graph(model)
    plan = make_plan(g, parallel="none")
    assert not any(isinstance(step, Linear) and step.addends for step in plan.steps)
    moved = [plan.ops[step.op].kind for step in plan.steps if isinstance(step, Map)]
    assert set(moved) <= {"input", "index", "shift"}, "inputs, and their reads at other steps"
    in_loops = [n for c in plan.components for n in c.nodes]
    assert sorted(in_loops) == sorted(g.nodes), "every node is in a loop, once"
    products = {w for c in plan.components for run in c.runs for w, _, _ in run.weights}
    assert products == {name for name, w in g.weights.items() if w.kind == "full"}
    usual = make_plan(g)
    assert [c.name for c in usual.components] == [c.name for c in plan.components if c.delay]
    facts = [(c.direction, c.delay, c.factor) for c in plan.components if c.delay]
    assert facts == [(c.direction, c.delay, c.factor) for c in usual.components]


def test_a_shared_part_is_computed_once():
    plan = make_plan(graph({
        "a": {"size": 4, "is": "tanh(x) + sigmoid(tanh(x))"},
        "y": {"size": 4, "is": "tanh(x) * a"},
    }))  # fmt: skip
    assert sum(op.kind == "tanh" for op in plan.ops) == 1


def test_one_product_for_all_that_one_source_gives_a_loop():
    """The candidate of gru_cudnn has two sums, one of them inside; x and h are each multiplied once."""
    plan = make_plan(load_graph("stack", cell="gru_cudnn", layers=1, size=6))
    (start,) = [step for step in plan.steps if isinstance(step, Linear) and step.loop]
    products = [a for a in start.addends if a.kind == "full"]
    assert [(a.lo, a.hi) for a in products] == [(0, 18)]
    assert [(run.lo, run.hi) for run in plan.components[0].runs] == [(6, 24)]

"""docs/planner.md: its plans are the golden ones, its commands run, its wrong graphs are refused."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from framework.errors import GraphError
from framework.plan import make_plan
from scripts import show_plan
from scripts.bench.planning import SHAPES
from tests.conftest import GOLDEN
from tests.framework.small_graphs import graph

TEXT = (Path(__file__).parents[2] / "docs" / "planner.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"python (scripts/show_plan\.py [^#`\n]*)", TEXT)
REFUSED = re.findall(r"^\| (a loop .*?|delays .*?|a read .*?) \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("name", ["lstm_variant", "stack_sru", "stack_sru_cuda"])
def test_printed_plans_are_golden(name):
    assert (GOLDEN / "plans" / f"{name}.txt").read_text(encoding="utf-8") in BLOCKS


def test_the_excerpt_is_golden():
    (excerpt,) = [block for block in BLOCKS if "gradients:" in block]
    assert excerpt in (GOLDEN / "plans" / "lstm_large_cuda.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, capsys):
    arguments = shlex.split(command)[1:]
    while "--png" in arguments:
        at = arguments.index("--png")
        del arguments[at : at + 2]
    if "model=my/graph.yaml" not in arguments:
        show_plan.main(arguments)
        assert re.search(r" 1 (gemm|loop) ", capsys.readouterr().out)


def nodes_of(code: str) -> dict[str, dict[str, object]]:
    """`a: full(h)`, `h: tanh(a)` -> two nodes of 4 units."""
    pairs = [text.partition(": ") for text in re.findall(r"`(\w: .*?)`", code)]
    return {name: {"size": 4, "is": f"{formula} + x"} for name, _, formula in pairs}


@pytest.mark.parametrize(("error", "example", "way_out"), REFUSED, ids=[row[0] for row in REFUSED])
def test_table_of_errors(error, example, way_out):
    nodes = nodes_of(example)
    with pytest.raises(GraphError) as caught:
        make_plan(graph(nodes))
    causes = {"both ways": "backward in time and a loop forward", "against": "against the direction",
              "add up": "add up to 0", "without": "a loop without delay"}  # fmt: skip
    (cause,) = [text for word, text in causes.items() if word in error]
    assert cause in caught.value.cause
    if better := nodes_of(way_out):
        assert len(make_plan(graph(nodes | better)).components) == 1


def test_the_table_has_every_error():
    assert len(REFUSED) == 4


def test_numbers_of_the_text():
    assert "ten shapes" in TEXT and len(SHAPES) == 10
    first, second = BLOCKS[1:3]
    assert "[T*B, 5] x [5, 32]" in first and "[B, 8] x [8, 32]" in first
    assert "l/r.sum" in second and "\n 4 map     diag(l/c[t-1])   for l/r" in second

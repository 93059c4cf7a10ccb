"""Generated cells under the interpreter: equal to torch's forms, their derivatives to torch's autograd."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.cell import Op
from framework.component import Component
from framework.derivative import derive
from framework.load import load_graph
from framework.ops import POINTWISE, TABLE
from framework.plan import make_plan
from framework.runners.elementwise_code import FORMS, source_of, widened
from kernels.codecache import load, module_name, write
from kernels.codegen import function, names_of, number
from scripts import show_plan
from tests.kernels.cell_kernel import run, source

LEAVES = ("pre", "ext", "param", "shift")
DOMAIN = {name: "square({0}) + 0.5" for name in ("log", "log1p", "sqrt", "reciprocal")}
UNITS = 37


def components(nodes: dict[str, str]) -> tuple[Component, ...]:
    inputs = {"x": {"size": 3}, "y": {"size": 3}}
    graph = {"inputs": inputs, "nodes": {n: {"size": 3, "is": text} for n, text in nodes.items()}}
    return make_plan(load_graph(graph | {"outputs": [next(iter(nodes))]})).components


def of_cell(name: str) -> Component:
    nodes = {"l": {"cell": name, "size": 4, "in": "x"}}
    graph = load_graph({"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": ["l"]})
    (found,) = make_plan(graph).components
    return found


def evaluate(c: Component, leaves: dict[int, Tensor]) -> dict[int, Tensor]:
    """All ops of a cell by their torch forms."""
    v = dict(leaves)
    for at, op in enumerate(c.cell):
        args = [v[a] for a in op.args]
        if op.kind == "const":
            v[at] = torch.tensor(op.value, dtype=torch.float64)
        elif op.kind == "sum":
            v[at] = sum((k * a for k, a in zip(op.coefs, args, strict=True)), torch.tensor(float(op.value)))
        elif op.kind == "prod":
            v[at] = torch.stack(torch.broadcast_tensors(*args)).prod(0)
        elif op.kind in ("copy", "expand"):
            v[at] = args[0]
        elif op.kind == "stop":
            v[at] = args[0].detach()
        elif op.kind not in LEAVES:
            text = TABLE[op.kind].torch.format(*(f"a[{i}]" for i in range(len(args))))
            v[at] = eval(text, {"torch": torch, "a": args})
    return v


def check(c: Component, folder: Path, seed: int = 0) -> None:
    """Values and adjoints of one step of `c`, in float64."""
    c = widened(c)
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(UNITS, generator=generator, dtype=torch.float64)

    given = [at for at, op in enumerate(c.cell) if op.kind in LEAVES]
    leaves = {at: draw().requires_grad_() for at in given}
    outputs = sorted({*c.roots.values()} - set(given))
    exact = evaluate(c, leaves)
    text = source(c.cell, given, outputs, c.roots, FORMS)
    got = run(text, folder, [leaves[at].detach() for at in given], len(outputs))
    for at, value in zip(outputs, got, strict=True):
        torch.testing.assert_close(value, exact[at].detach(), rtol=1e-6, atol=1e-6)

    d = derive(c)
    arrive = [at for at, op in enumerate(d.ops) if op.kind in ("grad", "back")]
    sent = {at: draw() for at in arrive}
    loss = torch.zeros((), dtype=torch.float64)
    for at, g in sent.items():
        op = d.ops[at]
        loss = loss + (exact[op.lo if op.kind == "grad" else c.roots[c.cell[op.lo].name]] * g).sum()
    place = {op.lo: at for at, op in enumerate(c.cell) if op.kind == "ext"}
    weights = {op.name: at for at, op in enumerate(c.cell) if op.kind == "param"}
    adjoints = {c.cell[t.op].args[0]: g for t, g in zip(c.targets, d.pre, strict=True) if g is not None}
    adjoints |= {place[i]: g for i, g in enumerate(d.ext) if g is not None}
    adjoints |= {weights[n]: g for n, g in d.params.items()} | dict(d.shifts)
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    want = dict(zip(leaves, slopes, strict=True))
    inputs = {**{at: leaves[at].detach() for at in given}, **sent}
    text = source(d.ops, list(inputs), list(adjoints.values()), c.roots, FORMS)
    results = dict(zip(adjoints, run(text, folder, list(inputs.values()), len(adjoints)), strict=True))
    for at, slope in want.items():
        torch.testing.assert_close(results.get(at, torch.zeros_like(slope)), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(POINTWISE))
def test_function(name: str, tmp_path: Path):
    first = DOMAIN.get(name, "{0}").format("a")
    call = f"{name}({first})" if POINTWISE[name].arity == 1 else f"{name}({first}, b)"
    nodes = {"h": f"0.3 * tanh({call}) + 0.2 * x", "a": "diag(h[t-1]) + x", "b": "0.7 * h[t-1] - y"}
    (c,) = components(nodes)
    assert c.kind == "elementwise" and name in {op.kind for op in c.cell}
    check(c, tmp_path)


PARTS = [
    f"{n}({DOMAIN.get(n, '{0}')})" for n, op in sorted(POINTWISE.items()) if op.arity == 1 and n != "exp"
]
PARTS += ["exp(-square({0}))", "maximum({0}, {1})", "minimum({0}, {1})"]
PARTS += ["{0} * {1}", "1 - {0}", "stop({0}) * {1}"]


@pytest.mark.parametrize("seed", range(8))
def test_random_cell(seed: int, tmp_path: Path):
    pick = random.Random(seed)
    terms = ["x", "y", "full(x)", "diag(a[t-1])", "b[t-2]", "diag(b[t-1]) + bias"]
    terms += ["0.5 * a[t-1]", "x[0:1] * b[t-1]"]

    def text(depth: int) -> str:
        if not depth:
            return pick.choice(terms)
        return f"({pick.choice(PARTS).format(text(depth - 1), text(depth - 1))} + {text(depth - 1)})"

    nodes = {"a": f"sigmoid({text(3)} + b[t-1])", "b": f"tanh({text(2)} - a + y) * 0.5 + 0.1 * x"}
    (c,) = components(nodes)
    check(c, tmp_path, seed)


@pytest.mark.parametrize("name", ["sru", "mingru", "indrnn"])
def test_text(name: str, golden: Any):
    c = of_cell(name)
    golden(f"triton/{name}.txt", source_of(c))
    golden(f"triton/{name}_masked.txt", source_of(c, masked=True))


def test_show_plan_prints_it(capsys: pytest.CaptureFixture[str]):
    show_plan.main(["model=stack", "cell=sru", "size=4", "--code"])
    shown = capsys.readouterr().out
    assert "# l1, Triton, forward and backward\nimport triton\n" in shown and "# l2, Triton" in shown
    assert "def cell_bwd(pre, ext, par, past, now, grad, back):" in shown
    show_plan.main(["model=stack", "cell=gru", "size=4", "--code"])
    assert "Triton" not in capsys.readouterr().out


def test_generated_text_is_python_and_does_not_depend_on_the_run(tmp_path: Path):
    text = source_of(of_cell("minlstm"), masked=True)
    assert text == source_of(of_cell("minlstm"), masked=True)
    module = load(text, "minlstm", tmp_path)
    assert module is load(text, "minlstm", tmp_path)
    assert sys.modules[module.__name__] is module and Path(module.__file__).parent == tmp_path


def test_names_are_safe(tmp_path: Path):
    """Of nodes that are called like modules, functions, tuples and other values of the source."""
    (c,) = components(
        {"past": "0.5 * tl[t-1] + y", "tl": "tanh(v4) + x", "v4": "diag(past) * ext0[t-2]", "ext0": "v4 * y"}
    )
    names = names_of(c.cell, c.roots)
    assert [names[c.roots[n]] for n in ("past", "tl", "v4", "ext0")] == ["past_", "tl_", "v4", "ext0"]
    assert len(set(names.values())) == len(names)
    text = source_of(c)
    assert "\n    past_ = " in text and "\n    past = " not in text
    compile(text, "names", "exec")
    check(c, tmp_path)


def test_an_op_without_a_form_is_named():
    (c,) = components({"h": "tanh(full(h[t-1]) + x + y)"})
    names = names_of(c.cell, c.roots)
    start = [at for at, op in enumerate(c.cell) if op.kind in LEAVES]
    with pytest.raises(ValueError, match=r"op 'full' has no Triton form and was not given. Forms: sigmoid"):
        function("f", "-", c.cell, {"given": start}, {"out": [c.roots["h"]]}, names, FORMS)


def test_numbers():
    assert [number(0.1), number(-2), number(float("inf"))] == ["0.1", "-2.0", 'float("inf")']


def test_a_damaged_file_is_written_again(tmp_path: Path):
    path = tmp_path / "cells" / "one.py"
    write("x = 1\n", path)
    path.write_text("x = ")
    assert write("x = 1\n", path).read_text() == "x = 1\n"
    assert [p.name for p in path.parent.iterdir()] == ["one.py"]


WRITER = """
import sys
from pathlib import Path
from kernels.codecache import module_name, write
text = "x = 0\\n" + "".join(f"x += {i}\\n" for i in range(20000))
for turn in range(60):
    path = Path(sys.argv[1]) / f"{module_name(text, str(turn % 3))}.py"
    write(text, path)
    for seen in path.parent.glob("cell_*.py"):
        try:
            assert seen.read_text() == text, "half a file was seen"
        except FileNotFoundError:
            pass  # the other one has removed it
    if turn % 2:
        path.unlink(missing_ok=True)  # so that the other one must write again
print("done")
"""


def test_two_processes_write_at_once(tmp_path: Path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    root = Path(__file__).parents[2]
    both = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        out, error = process.communicate(timeout=250)
        assert process.returncode == 0 and out == "done\n", error
    assert not list(tmp_path.glob(".*")), "a temporary file is left"
    assert module_name("a", "b") != module_name("c", "b")


FORKER = """
import os, signal, sys, threading, types
from pathlib import Path
from kernels.codecache import load
folder = Path(sys.argv[1])
gate = sys.modules["gate"] = types.ModuleType("gate")
gate.inside, gate.go = threading.Event(), threading.Event()
slow = "import gate\\ngate.inside.set()\\nassert gate.go.wait(100)\\n"
thread = threading.Thread(target=load, args=(slow, "slow", folder))
thread.start()
assert gate.inside.wait(100)
threading.Timer(0.3, gate.go.set).start()  # the fork has to wait for it
child = os.fork()
if not child:
    signal.alarm(60)  # ends a child that waits for a thread that it does not have
    os._exit(load("x = 7", "other", folder).x)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), load("x = 8", "third", folder).x)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_may_fork_while_a_thread_loads(tmp_path: Path):
    command = [sys.executable, "-c", FORKER, str(tmp_path)]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=250)
    assert ran.stdout == "7 8\n", ran.stderr


def test_numbers_are_taken_together():
    """A variable that holds a number would be rounded to float32, whatever the blocks are."""
    ops = [
        Op("ext"),
        Op("const", value=0.9),
        Op("const", value=1.0),
        Op("prod", (1, 2)),
        Op("sum", (3, 1), coefs=(2.0, -1.0), value=0.1),
        Op("copy", (4,)),
        Op("prod", (0, 2)),
        Op("prod", (6, 3, 5)),
        Op("sum", (7, 5, 0), coefs=(1.0, 3.0, -0.5)),
        Op("prod", (8, 0)),
    ]
    text = function("f", "Folds.", ops, {"ext": [0]}, {"out": [9]}, names_of(ops, {"h": 9}), FORMS)
    assert text.split('"""\n')[1] == (
        "    ext0 = ext[0]\n"
        "    v6 = ext0\n"
        "    v7 = v6 * 0.9\n"
        "    v8 = v7 - 0.5 * ext0 + 3.0\n"
        "    h = v8 * ext0\n"
        "    return (h,)\n"
    )

"""scripts/show_plan.py as a user calls it: what it prints; for every mistake one line and exit code 2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from framework.errors import ConfigError, UserError
from framework.load import load_graph
from framework.machine import machine
from framework.plan import make_plan
from scripts import show_plan

ROOT = Path(__file__).parents[2]
MINE = """params: {input: {size: 80}, cell: mgu, classes: 3}
inputs: {x: "{input}"}
nodes:
  l: {cell: "{cell}", size: 4, in: x}
  y: {size: "{classes}", is: full(l)}
outputs: [y]
"""


def printed(capsys, *arguments: str) -> str:
    show_plan.main(arguments)
    out, err = capsys.readouterr()
    assert not err
    return out


def test_prints_the_plan(capsys):
    assert printed(capsys, "model=lstm_variant") == f"{make_plan(load_graph('lstm_variant'))}\n"


@pytest.mark.parametrize("spelling", ["size=24", "model.params.size=24"])
def test_params_in_both_spellings(capsys, spelling):
    expected = f"{make_plan(load_graph('lstm', size=24, classes=5))}\n"
    assert printed(capsys, "model=lstm", spelling, "classes=5") == expected


@pytest.mark.parametrize("spelling", ["input={vocab: 96}", "model.params.input={vocab:96}", "input.vocab=96"])
def test_an_input_of_indices(capsys, spelling):
    assert printed(capsys, "model=gru", spelling) == f"{make_plan(load_graph('gru', input={'vocab': 96}))}\n"


def test_cell_parallel_and_runner(capsys):
    plan = make_plan(load_graph("stack", cell="mgu", bidirectional=True), "none", "torch")
    given = ("model=stack", "cell=mgu", "bidirectional=true", "parallel=none", "runner=torch")
    assert printed(capsys, *given) == f"{plan}\n"


def test_a_gpu_that_is_not_here(capsys):
    given = ("model=gru", "device=cuda", "chip=sm_80", "dtype=fp16", "products=triton")
    plan = make_plan(load_graph("gru"), device=machine("cuda", "sm_80", "fp16"), products="triton")
    assert printed(capsys, *given) == f"{plan}\n"
    assert "for cuda sm_80 fp16: products by triton" in str(plan)
    where = machine("cuda")
    assert printed(capsys, "model=gru", "device=cuda") == f"{make_plan(load_graph('gru'), device=where)}\n"


def test_files_of_a_model_and_a_cell(capsys, tmp_path):
    model, cell = tmp_path / "mine.yaml", tmp_path / "leaky.yaml"
    model.write_text(MINE)
    assert "l/{f,n} <- full(x)" in printed(capsys, f"model={model}")
    cell.write_text("out: h\nnodes: {h: '0.5 * h[t-1] + tanh(full(x))'}\n")
    assert "loop    l/h  forward, linear" in printed(capsys, f"model={model}", f"cell={cell}", "classes=2")
    assert "loop    l1/h  forward, linear" in printed(capsys, "model=stack", f"cell={cell}")


def test_code_of_every_loop(capsys):
    out = printed(capsys, "model=blstm", "size=3", "layers=1", "--code")
    plan, _, code = out.partition("\n\n")
    assert plan == str(make_plan(load_graph("blstm", size=3, layers=1)))
    for name in ("l/fwd", "l/bwd"):
        for kind in ("forward", "backward"):
            assert f"# {name}, {kind}\ndef run(" in code
    compile(code, "code", "exec")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "model: which one is not said. Write model=NAME or model=FILE.yaml: blstm"),
        (("model=lsm",), "model: there is no 'lsm'. Choices of model: .* Did you mean 'lstm'"),
        (("model=none.yaml",), "model: there is no 'none.yaml'"),
        (("model=stack", "cell=mgv"), "cell: there is no 'mgv'. Choices of cell: .* Did you mean 'mgu'"),
        (("model=lstm", "cell=mgu"), "cell: this model has no param 'cell' to put mgu in. Use model=stack"),
        (("model=lstm", "siz=3"), "siz: model=lstm has no such param. Its params: .* Did you mean 'size'"),
        (("model=lstm", "model.size=3"), "model.size: only params of a model can be changed"),
        (("model=lstm", "parallel=no"), "parallel: 'no' is not known. There are: intra, none"),
        (("model=lstm", "runner=cuda"), "runner: no runner 'cuda'"),
        (("model=lstm", "device=gpu"), "device: no device 'gpu'. There are: cpu, cuda."),
        (("model=lstm", "device=cuda", "chip=h200"), "chip: no chip 'h200'. There are: sm_80, sm_90"),
        (("model=lstm", "products=ours"), "products: 'ours' is not known. There are: auto, triton, torch."),
        (("model=lstm", "size=big"), "nodes.l.size: "),
        (("model=lstm", "input={size: }}"), "input: '{size: }}' is no value"),
        (("lstm",), "lstm: there is no value"),
        (("model=lstm", "--pgn", "x"), "command line: unrecognized arguments: --pgn"),
        (("model=lstm", "--png"), "command line: argument --png: expected one argument"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        show_plan.main(arguments)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_no_text(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="model: cannot read"):
        show_plan.main([f"model={path}"])


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(ROOT / "scripts" / "show_plan.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env={**os.environ, **environment})


def test_as_a_command(tmp_path):
    """From any folder; a plan needs no torch, and leaves nothing behind."""
    hidden = tmp_path / "torch.py"
    hidden.write_text("raise ImportError('planning needs no torch')\n")
    done = run("model=lstm", "size=8", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{make_plan(load_graph('lstm', size=8))}\n"
    gpu = run("model=lstm", "size=8", "device=cuda", "products=triton", PYTHONPATH=str(tmp_path))
    assert (gpu.returncode, gpu.stderr) == (0, "") and "by triton" in gpu.stdout
    bad = run("model=lstm", "sizes=8")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("ConfigError: sizes: ") and bad.stderr.count("\n") == 1
    file = tmp_path / "m.yaml"
    file.write_text(MINE.replace('inputs: {x: "{input}"}', 'inputs: {x: "{input}", unread: {size: 3}}'))
    warned = run(f"model={file}")
    assert warned.returncode == 0 and warned.stderr.startswith("warning: inputs.unread: nobody reads it.")


def test_without_graphviz(tmp_path):
    done = run("model=lstm", "--svg", str(tmp_path / "x.svg"), PATH=str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("ConfigError: --svg: the program 'dot' of graphviz is not installed")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_draws(tmp_path):
    done = run("model=lstm", "--svg", str(tmp_path / "x.svg"), "--png", str(tmp_path / "x.png"))
    assert done.returncode == 0 and "gemm" in done.stdout
    assert "<svg" in (tmp_path / "x.svg").read_text() and (tmp_path / "x.png").stat().st_size > 1000


def test_help():
    done = run("--help")
    assert done.returncode == 0 and "model=lstm_variant" in done.stdout and "--png" in done.stdout

"""The command line: what it offers, and that every mistake is one line, exit code 2, and nothing written."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "data=adding",
    "data.length=24",
    "data.train=8",
    "data.dev=4",
    "data.test=4",
    "data.batch_size=4",
    "model=lstm",
    "model.params.size=4",
    "train=smoke",
    "train.max_steps=2",
    "logger=none",
    "train.threads=1",
]


MISTAKES = {
    "unknown option": (["train.epoch=3"], ["train.epoch:", "Did you mean 'epochs'?"]),
    "unknown top-level option": (["foo=1"], ["foo: there is no such option", "run_dir"]),
    "an option without its group": (["epochs=3"], ["epochs: it stands in a group. Write train.epochs."]),
    "a data option without its group": (["data=text", "chunk=3"], ["chunk:", "Write data.chunk."]),
    "a param without its place": (["size=3"], ["size:", "Write model.params.size."]),
    "a flag": (["--batch-size", "4"], ["--batch-size: there is no such flag", "data.batch_size=VALUE"]),
    "an unknown flag": (["--foo=4"], ["--foo: there is no such flag", "KEY=VALUE"]),
    "a param that the data fill": (["model.params.input.size=3"], ["model.params.input.size: the data fill"]),
    "added option": (["+foo=1"], ["foo: there is no such option"]),
    "added train option": (["+train.foo=1"], ["train.foo: there is no such option"]),
    "several values": (["optimizer.lr=1,2"], ["optimizer.lr: '1,2' is several", "-m 'optimizer.lr=1,2'"]),
    "a sweep without -m": (["seed=range(1,3)"], ["seed: 'range(1,3)' is several", "-m 'seed=range(1,3)'"]),
    "not a number": (["train.epochs=abc"], ["train.epochs: 'abc' is not a whole number"]),
    "a number out of range": (["train.log_steps=0"], ["train.log_steps: 0 is too small"]),
    "a group as value": (["train=big"], ["train: there is no 'big'", "smoke"]),
    "unknown model": (["model=grru"], ["model: there is no 'grru'", "Did you mean 'gru'?"]),
    "no such model file": (["model=my/net.yaml"], ["model: there is no file 'my/net.yaml'"]),
    "unknown data": (["data=timid"], ["data: there is no 'timid'", "Did you mean 'timit'?"]),
    "unknown data option": (
        ["data=text", "data.chunks=3"],
        ["data.chunks: data=text has no such option", "'chunk'"],
    ),
    "wrong data value": (["data=text", "data.chunk=abc"], ["data.chunk: 'abc' is not"]),
    "unknown model param": (["model.params.sise=3"], ["model.params.sise:", "Did you mean 'size'?"]),
    "wrong model param": ([*TINY, "model.params.size=large"], ["GraphError", "large"]),
    "unknown cell": (["model=stack", "cell=lstmm"], ["cell: there is no 'lstmm'", "Did you mean 'lstm'?"]),
    "a model without a cell": ([*TINY, "cell=gru"], ["cell: this model has no param 'cell' to put gru in"]),
    "unknown optimizer": (["optimizer=adamm"], ["optimizer: there is no 'adamm'", "'adam'"]),
    "an option of another optimizer": (
        ["optimizer.momentum=0.9"],
        ["optimizer.momentum: optimizer=adam has no"],
    ),
    "an optimizer that refuses": ([*TINY, "optimizer.eps=-1"], ["optimizer: adam refuses its options"]),
    "an optimizer's list that is too short": (
        [*TINY, "optimizer.betas=[0.9]"],
        ["optimizer: adam refuses its options"],
    ),
    "a number for a list": (["optimizer.betas=0.9"], ["optimizer.betas: it is no list", "[0.9,0.999]"]),
    "a last rate above the first": (["train.min_lr=1"], ["train.min_lr: 1.0 is above the rate"]),
    "no learning rate": (["optimizer.lr=0"], ["optimizer.lr: 0.0 is no learning rate"]),
    "unknown task": (["task=speech"], ["task: there is no 'speech'"]),
    "a task that does not fit": ([*TINY, "task=framewise"], ["task: 'framewise' does not fit data=adding"]),
    "unknown schedule": (["train.schedule=linear"], ["train.schedule: 'linear' is not known", "cosine"]),
    "cosine without an end": (
        [*TINY, "train.max_steps=0", "train.max_minutes=1", "train.schedule=cosine"],
        ["train.schedule: cosine needs to know how many updates"],
    ),
    "never over": ([*TINY, "train.max_steps=0"], ["train: nothing would ever end this run"]),
    "unknown experiment": (["experiment=quick"], ["experiment: there is no 'quick'", "quickstart"]),
    "unknown device": ([*TINY, "train.device=warp"], ["train.device: there is no kind of device 'warp'"]),
    "unparsable": (["data.path=a=b.txt"], ["command line:", "quotes"]),
    "timit without its data": (["data=timit"], ["LDC93S1", "data.root=", "TIMIT_ROOT", "data=synth_speech"]),
    "no such text": (["data=text", "data.path=/nowhere/x.txt"], ["data.path: there is no file"]),
    "resume of nothing": (["resume=auto"], ["resume: there is no run in runs/"]),
    "resume of a missing run": (["resume=runs/x"], ["resume: there is no checkpoint runs/x/last.pt"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(cli, tmp_path, name):
    arguments, expected = MISTAKES[name]
    code, out, err = cli(*arguments)
    assert code == 2, (out, err)
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    for each in expected:
        assert each in lines[0]
    assert lines[0].split(":")[0] in ("ConfigError", "GraphError", "DataError")
    assert list(tmp_path.iterdir()) == []


def test_help_shows_groups_examples_and_the_config(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for expected in (
        "model: blstm",
        "cell: ",
        "data: adding",
        "experiment: ",
        "resume=",
        "-m ",
        "max_minutes: 0",
    ):
        assert expected in out


def test_every_choice_of_every_group_composes(cli):
    for group in ("model", "cell", "data", "task", "optimizer", "train", "logger", "experiment", "sweep"):
        for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
            code, out, err = cli(f"{group}={path.stem}", "--cfg", "job")
            assert code == 0, (group, path.stem, err)
            assert "optimizer:" in out


def test_yaml_and_dataclasses_agree():
    """Every option of conf/train and conf/optimizer stands in its file: what it means is written there."""
    import dataclasses

    import yaml

    from framework.options import OPTIMIZERS, LoggerConfig, TaskConfig, TrainConfig

    kinds = {"train/default": TrainConfig, "task/auto": TaskConfig, "logger/auto": LoggerConfig}
    kinds |= {f"optimizer/{name}": kind for name, kind in OPTIMIZERS.items()}
    for file, kind in kinds.items():
        written = yaml.safe_load((ROOT / "conf" / f"{file}.yaml").read_text())
        assert sorted(written) == sorted(each.name for each in dataclasses.fields(kind)), file


def test_a_graph_warning_is_one_line(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "params: {input: {size: 1}, classes: 1}\n"
        'inputs: {x: "{input}"}\n'
        'nodes: {logits: {size: "{classes}", is: bias}}\n'
        "outputs: [logits]\n"
    )
    code, _, err = cli(*TINY[:6], "model=mine.yaml", *TINY[8:])
    assert code == 0, err
    assert "warning: inputs.x: nobody reads it" in err
    assert "mine" in next((tmp_path / "runs").iterdir()).name


@pytest.mark.parametrize(
    "text, expected",
    {
        "a key twice": ("nodes:\n  h: full(x)\n  h: bias\n", "mine.yaml, line 3: the key 'h' is there twice"),
        "brackets": ("params: {a: 3}\nnodes: {{a}: full(x)}\n", "mine.yaml, line 2: curly or square"),
        "no YAML": ("nodes:\n  h: [1\n", "mine.yaml, line 3: not YAML"),
        "no mapping": ("just text\n", "mine.yaml: no mapping"),
        "no text": (b"\xff\xfe\x00", "model: cannot read mine.yaml"),
        "a cell": (None, "cell: cannot read mine.yaml"),
    }.values(),
)
def test_a_file_of_ones_own_is_read_with_care(cli, tmp_path, text, expected):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text or b"\xff")
    code, _, err = cli(*TINY, "model=mine.yaml" if text else "cell=mine.yaml")
    assert code == 2 and expected in err and len(err.splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == [path]


def test_options_of_a_file_of_ones_own_are_known(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text("params: {depth: 2}\nnodes: {}\n")
    for given, expected in (
        (
            "model.params.dept=3",
            "model.params.dept: model=mine.yaml has no such param. There are: depth. Did",
        ),
        ("depth=3", "depth: it stands in a group. Write model.params.depth."),
    ):
        code, _, err = cli("model=mine.yaml", given)
        assert code == 2 and expected in err and len(err.splitlines()) == 1, err


def test_a_model_that_does_not_fit_the_data(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "inputs: {x: {size: 3}}\nnodes: {h: {size: 1, is: full(x)}}\noutputs: [h]\n"
    )
    code, _, err = cli(*TINY[:6], "model=mine.yaml", *TINY[8:])
    assert code == 2 and "model.inputs.x: it is {size: 3}, data=adding gives {size: 2}" in err
    (tmp_path / "mine.yaml").write_text(
        "inputs: {x: {size: 2}}\nnodes: {h: {size: 7, is: full(x)}}\noutputs: [h]\n"
    )
    code, _, err = cli(*TINY[:6], "model=mine.yaml", *TINY[8:])
    assert code == 2 and "model.outputs.h: it has 7 units" in err
    (tmp_path / "gru.yaml").write_text("inputs: {x: {size: 2}}\n")
    code, _, err = cli(*TINY[:6], "model=gru.yaml")
    assert code == 2 and "has the name of a shared one" in err


def test_a_run_leaves_its_folder(cli, tmp_path):
    code, out, err = cli(*TINY)
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("_lstm_adding")
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "plan.txt", "metrics.jsonl", "curves.png", "best.pt", "last.pt"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert "test: " in out and "scripts/eval.py" in out and "end:  2 updates done, " in out
    assert f"resume=runs/{folder.name} train.max_steps=...   (goes on)" in out
    assert (folder / "plan.txt").read_text().strip()


def test_a_run_dir_is_not_written_over(cli, tmp_path):
    assert cli(*TINY, "run_dir=here")[0] == 0
    before = (tmp_path / "here" / "metrics.jsonl").read_bytes()
    code, _, err = cli(*TINY, "run_dir=here")
    assert code == 2 and "here holds a run already" in err
    assert (tmp_path / "here" / "metrics.jsonl").read_bytes() == before


def test_a_sweep_goes_on_after_a_failure(cli, tmp_path):
    code, _, err = cli("-m", *TINY, "task=framewise,regression")
    assert code == 1
    assert "job 0 failed: ConfigError: task: 'framewise' does not fit data=adding" in err
    assert "job 1: mse " in err
    (sweep,) = (tmp_path / "runs").glob("*_sweep")
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["1"]
    assert (sweep / "1" / "best.pt").exists()
    assert not (tmp_path / "multirun.yaml").exists()


def test_a_model_that_sees_the_answer_is_refused(cli, tmp_path):
    code, _, err = cli("data=text", "model=blstm", "train=smoke", "logger=none")
    assert code == 2
    assert "model: it reads later characters" in err
    assert not (tmp_path / "runs").exists()


def test_a_runner_for_gpus_is_refused_on_a_cpu(cli, tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # tests of kernels, in the same process, set it
    code, _, err = cli(*TINY[:6], "model=stack", "cell=mingru", *TINY[7:], "runner=elementwise")
    assert code == 2
    assert "'elementwise' runs on GPUs" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("who", "message"),
    [("triton", "products: 'triton' multiplies on GPUs"), ("mkl", "products: 'mkl' is not known. There are")],
)
def test_who_multiplies_is_checked_before_anything_is_written(cli, tmp_path, monkeypatch, who, message):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    code, _, err = cli(*TINY, f"products={who}")
    assert code == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_a_cells_own_params(cli, tmp_path):
    code, _, err = cli(*TINY[:6], "model=stack", "cell=rhn", "cell.params.depth=2", *TINY[7:], "run_dir=a")
    assert code == 0, err
    assert "depth: 2" in (tmp_path / "a" / "config.yaml").read_text()
    if (plan := (tmp_path / "a" / "plan.txt").read_text()) != "double plan\n":
        assert "rhn" in plan or "l1" in plan

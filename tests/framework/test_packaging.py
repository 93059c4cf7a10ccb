"""The shape of the project: which module may import which, and that what is installed is what is declared."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Imports go down this ladder or stay on a rung, never up. A module that is not named here belongs to the
# language and the planner (rung 1), which import no torch: a new one that belongs higher gets its rung here.
LADDER = {
    "framework.errors": 0,
    "framework.plan": 2,
    "framework.plan_text": 2,
    "framework.draw": 2,
    "framework.state": 3,
    "framework.random": 3,
    "framework.runners": 3,
    "framework.runners.emit": 1,  # text of generated source, by which times are predicted
    "framework.runners.source": 1,
    "framework.runners.source_forward": 1,
    "framework.runners.source_backward": 1,
    "framework.runners.source_backward_places": 1,
    "framework.plain": 3,
    "framework.plain_writer": 3,
    "framework.step": 4,
    "framework.export": 5,
    "framework.call": 4,
    "framework.call_inputs": 4,
    "framework.chunks": 4,
    "framework.overlap": 4,
    "framework.start": 4,
    "framework.peak": 4,
    "framework.peak_loops": 4,
    "framework.peak_tensors": 4,
    "framework.network": 4,
    "framework.convert": 4,
    "framework.data": 4,
    "framework.task": 4,
    "framework.ctc": 4,
    "framework.anomaly": 4,
    "framework.regression": 4,
    "framework.align": 4,
    "framework.decode": 4,
    "framework.checkpoint": 4,
    "framework.logging": 4,
    "framework.wandb_log": 4,
    "framework.optim": 4,
    "framework.report": 4,
    "framework.card": 4,
    "framework.console": 4,
    "framework.history": 1,  # reads logs without torch
    "framework.dashboard": 2,
    "framework.evaluate": 4,
    "framework.confusion": 4,
    "framework.sample": 4,
    "framework.parallel": 4,
    "framework.parallel_data": 4,
    "framework.parallel_checkpoint": 4,
    "framework.parallel_gradients": 5,
    "framework.use": 4,
    "framework.parallel_run": 6,
    "framework.parallel_worker": 6,
    "framework.trainer": 5,
    "framework.training_state": 5,
    "framework.bptt": 5,
    "framework.compute": 5,
    "framework.options": 6,
    "framework.mistakes": 6,
    "framework.config": 6,
    "framework.sweep": 6,
    "framework.plugins.hydra_plugins.intrastream": 6,
    "framework.sweep_space": 1,
    "framework.sweep_state": 2,
    "framework.sweep_report": 3,
    "framework.charts": 2,
    "framework.plan_code": 4,
    "framework.showcase": 5,
    "framework.sweep_jobs": 1,
    "framework.assemble": 6,
    "framework.folder": 6,
    "framework.run": 6,
    "framework.restore": 6,
    "framework": 7,  # __init__ exports the public names
    "scripts": 7,
    "train": 7,
}
TORCH_FREE = 2  # rungs up to this one know no torch
CONFIG_EDGE = {  # hydra and omegaconf stop here
    "framework.options",
    "framework.mistakes",
    "framework.config",
    "framework.sweep",
}
# Data and text without torch and triton, which plans read lazily.
TABLES = {
    "kernels.launch",
    "kernels.persistent_cell",
    "kernels.persistent_layout",
    "kernels.persistent_source",
    "kernels.persistent_forward",
    "kernels.persistent_backward",
    "kernels.persistent_choice",
    "kernels.persistent_joint_choice",
    "kernels.persistent_tuned",
    "kernels.tuning",
}
DISTRIBUTIONS = {  # import name -> what pyproject.toml calls it, where they differ
    "yaml": "pyyaml",
    "hydra": "hydra-core",
    "omegaconf": "hydra-core",  # its configuration objects
    "huggingface_hub": "datasets",  # the client that it reaches the Hub by
    "pyarrow": "datasets",  # its tables
    "kaldi_native_fbank": "kaldi-native-fbank",
    "accelerated_scan": "accelerated-scan",
    "fla": "fla-core",
}
OURS = {"framework", "kernels", "scripts", "train", "tests"}


def rung(module: str) -> int:
    if module == "framework":
        return LADDER["framework"]
    parts = module.split(".")
    known = [".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in LADDER]
    return LADDER[known[0]] if known and known[0] != "framework" else 1


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """(module, is it imported when the file is) of every import; those for type checkers are left out."""
    tree = ast.parse(source)
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.walk(node)
    }
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            # `from framework import checkpoint` reads a module, `from framework import Network` the package
            for alias in node.names:
                path = ROOT / module.replace(".", "/") / alias.name
                whole = path.is_dir() or path.with_suffix(".py").is_file()
                yield f"{module}.{alias.name}" if whole else module, node not in inside


def mistakes(module: str, source: str) -> list[str]:
    """What a module imports against the rules."""
    found = []
    mine = rung(module)
    for name, eager in imports(source):
        top = name.split(".")[0]
        if module.split(".")[0] == "kernels":
            if top in OURS - {"kernels"} or (
                top not in sys.stdlib_module_names | {"torch", "triton", "kernels"}
            ):
                found.append(f"{module} imports {name}: kernels know torch and triton only")
            continue
        if top in ("framework", "train", "scripts") and rung(name) > mine:
            found.append(f"{module} (rung {mine}) imports {name} (rung {rung(name)}): imports go down")
        if top == "torch" and mine <= TORCH_FREE:
            found.append(f"{module} imports torch: the language and the planner do without")
        if top in ("kernels", "triton") and top != module.split(".")[0] and mine < 7:
            if name in TABLES and not eager:
                continue
            if not module.startswith("framework.runners"):
                found.append(f"{module} imports {name}: only runners reach the kernels")
            elif eager:
                found.append(
                    f"{module} imports {name} at the top: kernels are imported lazily, triton may be absent"
                )
        if top in ("hydra", "omegaconf") and module not in CONFIG_EDGE and mine < 7:
            found.append(f"{module} imports {name}: the configuration stops at the edge")
        slow = ("wandb", "datasets", "huggingface_hub", "pyarrow", "soundfile", "matplotlib")
        if top in slow and eager and mine < 7:
            found.append(f"{module} imports {name} at the top: it is slow, import it where it is used")
    return found


def modules() -> dict[str, Path]:
    """Every module of the project but the tests."""
    files = [
        ROOT / "train.py",
        *(p for d in ("framework", "kernels", "scripts") for p in (ROOT / d).rglob("*.py")),
    ]
    named = {}
    for path in files:
        if path.is_file():
            parts = path.relative_to(ROOT).with_suffix("").parts
            named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def test_imports_go_one_way():
    found = [m for name, path in modules().items() for m in mistakes(name, path.read_text(encoding="utf-8"))]
    assert not found, "\n" + "\n".join(found)


def test_tables_need_no_kernels():
    """Neither they nor what importing them brings along."""
    for table in TABLES:
        check = f"import sys, {table}; sys.exit(bool({{'torch', 'triton'}} & sys.modules.keys()))"
        assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0, table


def test_modules_on_the_ladder_exist():
    """A name that nothing bears any more would be a rule about nothing."""
    import_names = set(modules()) | {name.rsplit(".", 1)[0] for name in modules() if "." in name}
    gone = {name for name in LADDER if name not in import_names}
    assert not gone


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("framework.plan", "from framework.network import Network"),
        ("framework.scc", "import framework.plan"),
        ("framework.graph", "import torch.nn as nn"),
        ("framework.newcomer", "def f():\n    from torch import Tensor"),
        ("framework.errors", "from framework.graph import Graph"),
        ("framework.data.text", "from framework.trainer import Trainer"),
        ("framework.data.text", "from framework import trainer"),
        ("framework.trainer", "from omegaconf import DictConfig"),
        ("framework.trainer", "from framework.config import Config"),
        ("framework.network", "from kernels.gemm import matmul"),
        ("framework.runners.persistent", "from kernels.gemm import matmul"),
        ("framework.plan", "from kernels.launch import GEMM_TABLE"),
        ("framework.wandb_log", "import wandb"),
        ("kernels.gemm", "from framework.errors import GraphError"),
        ("kernels.gemm", "import numpy"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert len(mistakes(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("framework.runners.persistent", "def f():\n    from kernels.gemm import matmul"),
        ("framework.plan", "def f():\n    from kernels.launch import GEMM_TABLE"),
        ("framework.trainer", "from framework.task import Task\nimport torch"),
        ("framework.wandb_log", "def start():\n    import wandb"),
        (
            "framework.plan",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor",
        ),
        ("train", "import hydra\nfrom framework.trainer import Trainer"),
        ("kernels.gemm", "import torch\nimport triton.language as tl"),
    ],
)
def test_a_right_import_passes(module, source):
    assert mistakes(module, source) == []


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _plain(name: str) -> str:
    """The package's name alone, as the index spells it."""
    return re.split(r"[\s\[<>=!~;]", name, maxsplit=1)[0].lower().replace("_", "-")


def test_every_package_that_is_imported_is_declared():
    declared = {_plain(d) for d in _project()["dependencies"]}
    # a script may use what only developers have
    extras = _project()["optional-dependencies"]
    for_developers = {_plain(d) for name in ("dev", "bench") for d in extras[name]}
    # in functions alone, which say what is missing
    on_demand = {_plain(d) for name in ("export", "sweep") for d in extras[name]}
    missing = []
    for name, path in modules().items():
        allowed = declared | (for_developers if name.split(".")[0] == "scripts" else set())
        for module, at_once in imports(path.read_text(encoding="utf-8")):
            top = module.split(".")[0]
            if not at_once and top in on_demand:
                continue
            if top in sys.stdlib_module_names or top in OURS or top == "__future__":
                continue
            if DISTRIBUTIONS.get(top, top) not in allowed:
                missing.append(f"{name} imports {top}, which pyproject.toml does not declare")
    assert not missing, "\n" + "\n".join(missing)


def test_every_dependency_has_a_reason_and_a_tested_version():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pinned = {
        _plain(line)
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line[:1].isalpha()
    }
    for requirement in [*_project()["dependencies"], *_project()["optional-dependencies"]["dev"]]:
        line = next(line for line in text.splitlines() if f'"{requirement}"' in line)
        assert "#" in line.split(f'"{requirement}",')[1], f"{requirement}: why?"
        assert _plain(requirement) in pinned, f"{requirement}: constraints.txt has no tested version"


def test_the_tested_versions_are_allowed_and_installed():
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import Requirement

    tested = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line[:1].isalpha():
            requirement = Requirement(line)
            tested[_plain(requirement.name)] = requirement
    for text in _project()["dependencies"]:
        wanted = Requirement(text)
        try:
            installed = version(wanted.name)
        except PackageNotFoundError:
            assert wanted.marker is not None, f"{wanted.name} is not installed"
            continue
        assert wanted.specifier.contains(installed, prereleases=True), f"{wanted}: {installed} is installed"
        exact = [s.version for s in tested[_plain(wanted.name)].specifier if s.operator == "=="]
        for number in exact:
            assert wanted.specifier.contains(number, prereleases=True), (
                f"{wanted} forbids the tested {number}"
            )


def test_data_files_are_packaged():
    import fnmatch

    globs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    for package, patterns in globs.items():
        folder = ROOT / package.replace(".", "/")
        data = [p.name for p in folder.iterdir() if p.is_file() and p.suffix != ".py"]
        assert data
        assert all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in data), data


@pytest.mark.skipif(sys.platform == "win32", reason="make and bash")
def test_make_and_ci_are_sound():
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([.a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for target in {".venv", "train", "test", "lint", "bench"}:
        assert target in targets and f"make {target}" in help_text
        subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=True)
    assert os.access(ROOT / ".ci/run", os.X_OK)
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)

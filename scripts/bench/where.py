"""What a row of measurements belongs to: the code, the machine, the versions."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
# What decides how fast a network of ours runs. The harness is not in it: a new page must not make rows old.
CODE = (("framework", "*.py"), ("kernels", "*.py"), ("conf/cell", "*.yaml"), ("conf/model", "*.yaml"))


def git(*args: str) -> str:
    """What git answers; "" without git or a repository."""
    try:
        run = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return run.stdout.strip()


@cache
def code(root: Path = ROOT) -> str:
    """A short hash of all files that decide how fast we are; needs no git, and changes with every edit."""
    digest = hashlib.sha256()
    for folder, pattern in CODE:
        for path in sorted((root / folder).rglob(pattern)):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def cpu() -> str:
    """The model of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def package(name: str) -> str:
    """The installed version, or ""."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def here(device: str, commit: str = "") -> dict[str, str | int | bool]:
    """The fields that all rows of a run share. `commit`: given by hand where no repository can be asked."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or git("rev-parse", "--short", "HEAD"),
        "dirty": not commit and bool(git("status", "--porcelain", "-uno", "--", *(f for f, _ in CODE))),
        "code": code(),
        "cpu": cpu(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip or "",
        "triton": package("triton"),
        "python": platform.python_version(),
    }

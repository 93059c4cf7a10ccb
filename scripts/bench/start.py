"""How long until the first step is done: imports, plan, building, compiling; with empty and warm caches.

Every measurement is a process of its own (`python -m scripts.bench.start CASE ENTRY DEVICE` is that process),
which must not import torch before it looks at the clock: hence the imports inside functions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("import torch", "import ours", "plan", "build", "first step", "second step")
TURNS = 2
LIMIT = 300.0  # seconds that one process may take


def child(values: dict[str, Any], entry: str, device: str) -> dict[str, Any]:
    """In the fresh process: seconds of each part, and what was timed."""
    seconds: list[float] = []
    last = time.perf_counter()

    def lap(counts: bool = True) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds.extend([now - last] if counts else [])
        last = now

    import torch

    lap()
    from framework.network import Network

    assert Network
    lap()
    from scripts.bench import cases, peers
    from scripts.bench.system import OURS, network

    values["passes"], values["systems"] = tuple(values["passes"]), tuple(values["systems"])
    values["options"] = tuple((k, v) for k, v in values["options"])
    case = cases.Case(**values)
    graph = None
    lap(counts=False)
    if entry.split()[0] == OURS:
        from framework import make_plan

        graph = cases.graph(case)
        make_plan(graph)
    lap()
    system = network(entry, graph, device, case.kind, "") if graph else peers.build(entry, case, device)
    lap()
    x = torch.randn(case.T, case.B, case.F, device=device, dtype=case.kind, requires_grad=True)
    for _ in range(2):
        system.run(x).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        lap()
    return {"name": system.name, "version": system.version} | dict(zip(PARTS, seconds, strict=True))


def spawn(values: dict[str, Any], entry: str, device: str, caches: Path, threads: int) -> dict[str, Any]:
    """Run the child with all caches of generated and compiled code in a folder.

    Raises Declined when the entry does not take part, RuntimeError for any other end.
    """
    from scripts.bench.system import Declined

    folders = {"XDG_CACHE_HOME": "", "TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor",
               "NUMBA_CACHE_DIR": "numba"}  # fmt: skip
    env = {**os.environ, **{key: str(caches / name) for key, name in folders.items()}}
    env |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "scripts.bench.start", json.dumps(values), entry, device]
    begun = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    whole = time.perf_counter() - begun
    if done.returncode == 3:
        raise Declined(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError(f"{entry} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "process": whole - found["second step"]}


def start(case: Any, bench: Any) -> list[Any]:
    """Rows of a case; option `caches`: cold or warm. Timed is the process up to the first step."""
    import torch

    from scripts.bench.bench import Entrant
    from scripts.bench.system import OURS, Declined

    turns = 1 if bench.tiny else TURNS
    found: dict[str, list[dict[str, Any]]] = {}
    declined: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as top:

        def once(entry: str, number: int) -> dict[str, Any]:
            cold = case.option("caches") == "cold"
            folder = Path(top) / (f"{entry} {number}" if cold else entry).replace(" ", "_")
            return spawn(asdict(case), entry, bench.device.kind, folder, torch.get_num_threads())

        for number in range(turns + (case.option("caches") == "warm")):
            for entry in case.systems:
                if entry in declined:
                    continue
                try:
                    found.setdefault(entry, []).append(once(entry, number))
                except Declined as why:
                    declined[entry] = str(why)
    rows = []
    kept = {entry: runs[-turns:] for entry, runs in found.items() if runs}  # the first one warms the caches
    times = {runs[0]["name"]: [1e3 * r["process"] for r in runs] for runs in kept.values()}
    for entry, runs in kept.items():
        version = bench.version if entry.split()[0] == OURS else runs[0]["version"]
        figures = {f"{part} s": round(median(r[part] for r in runs), 4) for part in PARTS}
        one = Entrant(runs[0]["name"], entry, version)
        rows.append(bench.row(case, one, "start", times, (0.0, 0.0), figures=figures, declined=declined))
    return rows


def main(arguments: Sequence[str]) -> int:
    """The child. Returns 3 when the entry does not take part."""
    values, entry, device = arguments
    try:
        print(json.dumps(child(json.loads(values), entry, device)))
    except Exception as why:
        from scripts.bench.system import Declined  # imports torch: not before the clock runs

        if not isinstance(why, Declined):
            raise
        print(why, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Compiles what it is asked to, for chips that are not there: requests come in and reports go out as lines of
JSON.

A request names a function that launches kernels on CPU tensors, its options and a chip; the report has one
entry for each launch. Run by the `compiled` fixture as `python -m tests.kernels.compile_worker`.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from typing import Any

from tests.kernels.fake_driver import CHIPS, FakeDriver, Launch
from tests.kernels.inspect_code import (
    amd_loops,
    amd_resources,
    disassemble,
    loads_by_depth,
    offset_types,
    ptx_events,
    resources,
    sass_loops,
)


def report(launch: Launch, arguments: list[str]) -> dict[str, Any]:
    """What there is to know about a launched kernel, as plain data; `arguments`: whose loads to count."""
    ttgir = launch.files["ttgir"].read_text()
    if "cubin" in launch.files:
        used = resources(launch.files["cubin"])
        loops = sass_loops(disassemble(launch.files["cubin"]))
        events = ptx_events(launch.files["ptx"].read_text())
    else:
        assembly = launch.files["amdgcn"].read_text()
        used, loops, events = amd_resources(assembly), amd_loops(assembly), []
    return {
        "name": launch.name,
        "grid": launch.grid,
        "warps": launch.metadata.num_warps,
        "cooperative": launch.metadata.launch_cooperative_grid,
        "shared": launch.metadata.shared,
        "registers": used["REG"],
        "stack": used["STACK"],
        "loops": [{"first": x.first, "last": x.last, "counts": x.counts} for x in loops],
        "loads": {name: loads_by_depth(ttgir, name) for name in arguments},
        "events": events,
        "offsets": offset_types(ttgir),
    }


def serve() -> None:
    """Answer requests until the input ends. The answers' stream is kept from prints of compilers."""
    answers, sys.stdout = sys.stdout, sys.stderr
    drivers = {
        name: FakeDriver(name) for name in CHIPS
    }  # kept: a kernel that was loaded once launches by its own
    for line in sys.stdin:
        request = json.loads(line)
        try:
            driver = drivers[request["chip"]]
            driver.activate()
            driver.launches.clear()
            module, name = request["call"].split(":")
            getattr(importlib.import_module(module), name)(**request["options"])
            if not driver.launches:
                raise AssertionError(f"{request['call']} has launched nothing")
            answer = {"launches": [report(launch, request["arguments"]) for launch in driver.launches]}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()

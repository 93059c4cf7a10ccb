"""The compiler that tests ask: who was not waited for answers nobody else."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.kernels import compiled
from tests.train.meanwhile import once

# Says what was asked; one request takes longer than anybody waits.
WORKER = """
import json, pathlib, sys, time
for line in sys.stdin:
    call = json.loads(line)["call"]
    if call == "slow":
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(3)
    print(json.dumps({"launches": [], "call": call}), flush=True)
"""


def test_an_answer_that_was_not_waited_for_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begun = tmp_path / "begun"
    monkeypatch.setattr(compiled, "WORKER", [sys.executable, "-c", WORKER, str(begun)])
    compiler = compiled.Compiler(tmp_path)
    thread = once(begun.exists, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        compiler._ask(json.dumps({"call": "slow"}))
    thread.join()
    assert json.loads(compiler._ask(json.dumps({"call": "quick"})))["call"] == "quick"
    compiler.close()

"""Run one file of tests/gpu in several processes: compiling takes a core, and a fault ends one process only.

    python -m scripts.bench.gpu_tests test_networks.py [--limit 150] [--shards 8] [--logs .cache/gpu_check]

Tests of one cell by one runner stay together, so that no kernel is compiled twice. What does not end in time
is killed, and the test that it was at is named.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Shard:
    """A process, and where its output goes."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait(self, end: float) -> int:
        """Its exit status; 124 when it had to be killed at `end` (of time.monotonic)."""
        try:
            return self.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return 124

    def lines(self) -> list[str]:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()


def start(file: str, number: int, of: int, logs: Path, options: list[str]) -> Shard:
    """Begin with part `number` of `of`."""
    log = logs / f"{Path(file).stem}.{number}.log"
    command = [sys.executable, "-m", "pytest", "-c", "tests/gpu/pytest.ini", f"tests/gpu/{file}", "-m", "gpu"]
    command += ["-vv", "--tb=short", "--maxfail=10", "--shard", f"{number}/{of}", *options]
    with log.open("wb") as f:
        return Shard(subprocess.Popen(command, cwd=ROOT, stdout=f, stderr=subprocess.STDOUT), log)


def main() -> int:
    """Returns 0 when all passed, 124 when some did not end, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="a file of tests/gpu")
    parser.add_argument("--limit", type=float, default=150, help="seconds for all")
    parser.add_argument("--shards", type=int, default=min(8, max(1, (os.cpu_count() or 2) - 1)))
    parser.add_argument("--logs", type=Path, default=ROOT / ".cache" / "gpu_check")
    args, options = parser.parse_known_args()
    args.logs.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.limit
    shards = [start(args.file, k + 1, args.shards, args.logs, options) for k in range(args.shards)]
    worst = 0
    for shard in shards:
        status = shard.wait(end)
        lines = shard.lines()
        if status in (0, 5):  # 5: no test fell to it
            print(lines[-1] if lines else "")
            continue
        if status == 124:
            at = next((line for line in reversed(lines) if "::" in line), "no test yet")
            print(f"{shard.log}: killed after {args.limit:.0f} s, it was at {at}")
        else:
            print(f"{shard.log}: status {status}", *lines[-25:], sep="\n")
        worst = max(worst, 124 if status == 124 else 1)
    return worst


if __name__ == "__main__":
    sys.exit(main())

"""Run tests/gpu in several processes: compiling takes a core, and a fault ends one process only.

    python -m scripts.bench.gpu_tests test_long.py test_fused.py [--limit 150] [--shards 8] [--logs FOLDER]
    python -m scripts.bench.gpu_tests --full --progress FILE     all of them, from where FILE ends

Without files: all but `ALONE`. Tests of one cell by one runner stay together, so that no kernel is compiled
twice. What does not end in time is killed, and the test that it was at is named. With --progress nothing
begins in the last minute, and the exit status 75 says that there is more to do (tests/gpu/progress.py).
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
ALONE = "test_large.py"  # several at once would not fit the memory of a GPU: --shards 2
LEFT = 75  # of tests/gpu/progress.py, which needs pytest


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


def start(files: list[str], number: int, of: int, logs: Path, options: list[str]) -> Shard:
    """Begin with part `number` of `of`."""
    log = logs / f"{Path(files[0]).stem if files else 'all'}.{number}.log"
    paths = [f"tests/gpu/{file}" for file in files] or ["tests/gpu", f"--ignore=tests/gpu/{ALONE}"]
    command = [sys.executable, "-m", "pytest", "-c", "tests/gpu/pytest.ini", *paths, "-vv", "--tb=short"]
    command += ["--shard", f"{number}/{of}", *options]
    with log.open("wb") as f:
        return Shard(subprocess.Popen(command, cwd=ROOT, stdout=f, stderr=subprocess.STDOUT), log)


def main() -> int:
    """Returns 0 when all passed, 124 when some did not end, 75 when the time was over, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help=f"files of tests/gpu; else all but {ALONE}")
    parser.add_argument("--full", action="store_true", help="also those that are marked slow")
    parser.add_argument("--progress", type=Path, help="rows of what has passed; goes on from there")
    parser.add_argument("--limit", type=float, default=150, help="seconds for all")
    parser.add_argument("--shards", type=int, default=min(12, max(1, (os.cpu_count() or 2) - 1)))
    parser.add_argument("--logs", type=Path, default=ROOT / ".cache" / "gpu_check")
    args, options = parser.parse_known_args()
    args.logs.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.limit
    options += ["-m", "gpu" if args.full else "gpu and not slow"]
    if args.progress:
        options += ["--progress", str(args.progress), "--until", str(max(args.limit - 60, args.limit / 2))]
    else:
        options += ["--maxfail=10"]
    shards = [start(args.files, k + 1, args.shards, args.logs, options) for k in range(args.shards)]
    worst = 0
    for shard in shards:
        status = shard.wait(end)
        lines = shard.lines()
        if status in (0, 5, LEFT):  # 5: no test fell to it
            print(lines[-1] if lines else "")
            worst = worst or (LEFT if status == LEFT else 0)
            continue
        if status == 124:
            at = next((line for line in reversed(lines) if "::" in line), "no test yet")
            print(f"{shard.log}: killed after {args.limit:.0f} s, it was at {at}")
        else:
            print(f"{shard.log}: status {status}", *lines[-25:], sep="\n")
        worst = 124 if 124 in (status, worst) else 1
    return worst


if __name__ == "__main__":
    sys.exit(main())

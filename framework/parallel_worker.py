"""One of the processes that `framework.parallel_launch` starts: `python -m framework.parallel_worker`."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from pathlib import Path

from framework.errors import UserError
from framework.parallel_launch import ENDED, FOLDER, MISTAKE, RESULT, Job
from framework.parallel_place import Ended
from framework.parallel_run import run_in


def work(job: Job) -> int:
    """Do a job and write its result down; returns the exit code."""

    def tell(name: str, content: bytes) -> None:
        partial = job.told / f".{name}.{job.place.rank}"
        partial.write_bytes(content)
        partial.rename(job.told / name)

    def folder_known(folder: Path) -> None:
        if job.place.rank == 0:
            tell(FOLDER, str(folder).encode())

    values = dict(job.values)
    train = dict(values["train"])
    if not train["threads"]:  # torch would take all cores in each of the workers
        train["threads"] = max(1, len(os.sched_getaffinity(0)) // job.place.local_world)
    values["train"] = train
    result, code = None, 0
    try:
        result = run_in(job.place, values, folder_known)
    except UserError as error:
        result, code = error, MISTAKE
    except Ended as error:
        print(error, file=sys.stderr)
        return ENDED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    tell(f"{RESULT}{job.place.rank}", pickle.dumps(result))
    return code


def watch() -> None:
    """End when the process that started this one is gone: its end of the pipe closes with it."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(ENDED)


if __name__ == "__main__":
    job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=watch, daemon=True).start()
    sys.exit(work(job))

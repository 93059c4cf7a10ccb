"""A worker that plays: what framework.parallel_launch sees of one, without torch.

Each start takes the next act of its rank: words, done one after another.
"""

import os
import pickle
import signal
import sys
import time

from framework.errors import DataError
from framework.parallel_launch import ENDED, FOLDER, MISTAKE, RESULT


def signalled(number, frame):
    """Note a signal."""
    with open(folder / "signals", "a") as file:
        file.write(f"{rank}:{signal.Signals(number).name}\n")
    caught.append(number)


job = pickle.load(sys.stdin.buffer)
rank, folder, caught = job.place.rank, job.values["folder"], []
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, signalled)
starts = folder / "starts"
if rank == 0:
    with open(starts, "a") as file:
        file.write(f"{int(job.place.restarted)} {job.values['resume_from']}\n")
    (job.told / "begun").touch()
while not (job.told / "begun").exists():
    time.sleep(0.005)
acts = job.values["acts"][rank]
words = acts[min(len(starts.read_text().splitlines()), len(acts)) - 1].split()
for word in words:
    if word in ("folder", "save"):
        if word == "save":
            (folder / "last.pt").touch()
        (job.told / ".folder").write_text(str(folder))
        (job.told / ".folder").rename(job.told / FOLDER)
    elif word == "killed":
        other = job.values["acts"][0]
        told = any(w in " ".join(other) for w in ("save", "folder"))
        while told and not (job.told / FOLDER).exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "crash":
        os.write(2, b"why\n")
        os._exit(7)
    elif word == "abort":  # after its work, as torch's threads have done while the interpreter went down
        (job.told / f"{RESULT}{rank}").write_bytes(pickle.dumps(0.25 + rank))
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "lost":
        sys.exit(ENDED)
    elif word == "slow":
        time.sleep(0.3)
    elif word == "mistake":
        error = DataError("a.wav", f"worker {rank} cannot read it", "Mend it.")
        (job.told / f"{RESULT}{rank}").write_bytes(pickle.dumps(error))
        sys.exit(MISTAKE)
    elif word == "wait":
        time.sleep(600)  # until it is killed
    elif word == "signal":
        (folder / f"waits{rank}").touch()
        while not caught:
            time.sleep(0.01)
(job.told / f"{RESULT}{rank}").write_bytes(pickle.dumps(0.25 + rank))

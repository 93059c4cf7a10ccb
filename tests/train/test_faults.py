"""A run's disk, folder and screen go wrong: nothing is lost, and one line says what it was."""

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from framework import checkpoint
from framework.console import Console
from framework.errors import ConfigError
from framework.folder import new_folder, take_folder
from framework.logging import JsonLog, read_log
from tests.train.disks import full_disk

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
params: {input: {size: 1}, classes: 1}
inputs: {x: "{input}"}
nodes:
  h: {size: 12, is: "tanh(full(x) + full(h[t-1]) + bias)"}
  logits: {size: "{classes}", is: "full(h) + bias"}
outputs: [logits]
"""
TINY = ["data=adding", "data.length=24", "data.train=32", "data.dev=8", "data.test=8", "data.batch_size=8",
        "model=mine.yaml", "train.epochs=2", "train.log_steps=1", "train.threads=1", "logger=none",
        "optimizer.lr=0.01", "train.progress_seconds=0"]  # fmt: skip


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "mine.yaml").write_text(MODEL)
    return TINY


def losses(folder):
    """(update, loss) of all step records, and the kinds of the others."""
    records = read_log(folder / "metrics.jsonl")
    kinds = [r["kind"] for r in records if r["kind"] != "step"]
    return [(r["step"], r["loss"]) for r in records if r["kind"] == "step"], kinds


# ---- checkpoints


def test_a_flipped_bit_is_a_damaged_checkpoint(tmp_path):
    """torch reads such files without a word: another number in a weight. All that loads is what was saved."""
    seed = 11
    print("seed", seed)
    draw = random.Random(seed)
    file = tmp_path / "last.pt"
    for n in (1, 2):
        checkpoint.save(file, {"n": n, "weights": torch.arange(300.0) + n})
    whole, told = file.read_bytes(), 0
    for _ in range(150):
        broken = bytearray(whole)
        broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        file.write_bytes(broken)
        content, note = checkpoint.load(file)
        assert torch.equal(content["weights"], torch.arange(300.0) + content["n"])
        assert content["n"] == (1 if note else 2)
        told += "last.pt: the file is damaged" in note and "\n" not in note
    assert told > 75, "most bytes are weights"


def test_a_crash_between_the_renames_of_a_save_over_a_damaged_file(tmp_path, monkeypatch):
    """last.pt was damaged and its .prev was used; the next save dies half way: what it wrote is found."""

    class Died(BaseException):
        pass

    file = tmp_path / "last.pt"
    for n in (1, 2):
        checkpoint.save(file, {"n": n})
    file.write_bytes(b"damaged")
    real, calls = os.replace, []

    def dying(*names):
        if calls:
            raise Died
        calls.append(names)
        real(*names)

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(os, "replace", dying)
        checkpoint.save(file, {"n": 3})
    assert not file.exists()
    assert checkpoint.load(file)[0]["n"] == 3


def test_a_file_that_is_not_ours_to_read_is_named(tmp_path):
    (tmp_path / "last.pt").mkdir()
    with pytest.raises(ConfigError, match=r"last\.pt: the file cannot be read \(Is a directory\)"):
        checkpoint.load(tmp_path / "last.pt")


def test_a_checkpoint_without_a_config_is_named(cli, tmp_path):
    """As a Trainer in a program of one's own writes it."""
    checkpoint.save(tmp_path / "last.pt", {"weights": {}})
    code, _, err = cli("resume=last.pt")
    assert (code, err) == (
        2,
        "ConfigError: last.pt: it holds no config of train.py. Load it in your program.\n",
    )


def test_a_best_checkpoint_that_is_damaged_at_the_end_is_said(cli, tiny, tmp_path, monkeypatch):
    from framework import run

    real = run.Trainer.fit

    def fit(trainer, logs):
        why = real(trainer, logs)
        (tmp_path / "a" / "best.pt").write_bytes(b"damaged")
        return why

    monkeypatch.setattr(run.Trainer, "fit", fit)
    code, out, err = cli(*tiny, "run_dir=a")
    assert code == 0 and "test: " in out, err
    (line,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "best.pt: the file is damaged" in line and line.endswith("the checkpoint before it.")


def test_a_last_checkpoint_that_is_damaged_with_none_before_it_leaves_the_best(cli, tiny, tmp_path):
    assert cli(*tiny, "run_dir=a")[0] == 0
    folder = tmp_path / "a"
    (folder / "last.pt").write_bytes((folder / "last.pt").read_bytes()[:2000])
    (folder / "last.pt.prev").unlink()
    code, _, err = cli("resume=a", "train.epochs=3")
    assert code == 2 and err.startswith("ConfigError: a/last.pt: the file is damaged (")
    assert err.endswith(". An older one is a/best.pt: resume from it.\n") and err.count("\n") == 1
    code, out, err = cli("resume=a/best.pt", "train.epochs=3")
    assert code == 0 and "test: " in out, err
    assert losses(folder)[0][-1][0] == 12


# ---- a full disk


def test_a_log_that_meets_a_full_disk_stops_the_run_and_it_can_go_on(cli, tiny, tmp_path):
    """The disk is full in the middle of a line; with room again the run is the one that met no full disk."""
    given = [*tiny, "data.train=400", "train.epochs=3"]
    assert cli(*given, "run_dir=whole")[0] == 0
    size = (tmp_path / "whole" / "metrics.jsonl").stat().st_size
    free = size * 3 // 4  # lines hold times: no two logs are of one size
    assert free > (tmp_path / "whole" / "last.pt").stat().st_size, "checkpoints fit"
    with full_disk(free):
        code, out, err = cli(*given, "run_dir=full")
    log = tmp_path / "full" / "metrics.jsonl"
    assert code == 1 and out == "" and log.stat().st_size == free
    assert err.splitlines()[-1] == (
        "TrainingError: full/metrics.jsonl: cannot write the log: File too large. "
        "Make room and resume the run."
    )
    assert "Traceback" not in err
    assert not list((tmp_path / "full").glob(".*")), "half a picture takes no room"
    assert cli("resume=full")[0] == 0
    assert losses(tmp_path / "full")[0] == losses(tmp_path / "whole")[0]


def test_a_checkpoint_that_meets_a_full_disk_stops_the_run_and_it_can_go_on(cli, tiny, tmp_path):
    assert cli(*tiny, "train.epochs=3", "run_dir=whole")[0] == 0
    assert cli(*tiny, "train.epochs=1", "run_dir=full")[0] == 0
    before = (tmp_path / "full" / "last.pt").read_bytes()
    with full_disk(len(before) - 4_000):
        code, _, err = cli("resume=full", "train.epochs=3")
    last = err.splitlines()[-1]
    assert code == 1 and "Traceback" not in err
    assert last.startswith("TrainingError: full/") and "cannot write the checkpoint of 0.0 MB: " in last
    assert last.endswith("is untouched: make room and resume from it.")
    assert (tmp_path / "full" / "last.pt").read_bytes() == before
    assert not list((tmp_path / "full").glob(".*")), "half a checkpoint takes no room"
    assert cli("resume=full", "train.epochs=3")[0] == 0
    assert losses(tmp_path / "full")[0] == losses(tmp_path / "whole")[0]


def test_what_ended_before_its_first_checkpoint_says_what_to_do(cli, tiny, tmp_path):
    with full_disk(4_000):
        code, _, err = cli(*tiny, "run_dir=a")
    assert code == 1 and err.splitlines()[-1].endswith("Nothing was saved yet.")
    code, _, err = cli(*tiny, "run_dir=a")
    assert code == 2 and "a run that ended before its first checkpoint. Remove the folder" in err


class Gone:
    """A screen whose line was cut: it takes `left` writes."""

    def __init__(self, left, terminal=True):
        self.left, self.terminal = left, terminal

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "Input/output error")

    def flush(self):
        if self.left < 0:
            raise OSError(5, "Input/output error")


def test_a_screen_that_is_gone_ends_no_run(cli, tiny, tmp_path, monkeypatch):
    screens = [Gone(3, terminal=False), Gone(0, terminal=False)]
    with monkeypatch.context() as patch:
        for name, screen in zip(("stderr", "stdout"), screens, strict=True):
            patch.setattr(sys, name, screen)
        code, _, _ = cli(*tiny, "run_dir=a")
    assert code == 0
    assert losses(tmp_path / "a")[1] == ["start", "eval", "eval", "end"]
    assert all(screen.left < 0 for screen in screens), "nothing was refused"


@pytest.mark.parametrize("left", range(1, 12, 3))
def test_a_bar_on_a_terminal_that_is_gone(left, monkeypatch):
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # no thread that draws
    step = {"kind": "step", "epoch": 0, "loss": 1.0, "frames_per_s": 1.0}
    console = Console(total=100, stream=Gone(left))
    for n in range(1, 9):
        console.tick(n)
        console.write(step | {"step": n})
        console.write(step | {"kind": "eval", "split": "dev", "step": n})
    console.close()
    assert console.stream.left < 0


# ---- folders


def test_of_two_runs_in_a_folder_the_second_is_refused(cli, tiny, tmp_path):
    """By a lock that goes with its process: test_train_resume kills runs and resumes them at once."""
    assert cli(*tiny, "run_dir=a")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    running = JsonLog(tmp_path / "a" / "metrics.jsonl", len(before[tmp_path / "a" / "metrics.jsonl"]))
    code, _, err = cli("resume=a", "train.epochs=3")
    assert code == 2
    assert err == (
        "ConfigError: a: another run is writing into this folder. "
        "Wait until it is over, or give this one another folder: run_dir=FOLDER.\n"
    )
    assert {path: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    running.close()
    assert cli("resume=a", "train.epochs=3")[0] == 0


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    choices = {"model": "m", "data": "d"}
    folders = [new_folder(tmp_path / "runs", "now", choices, None) for _ in range(3)]
    assert [f.name for f in folders] == ["now_m_d", "now_m_d-2", "now_m_d-3"]
    assert all(f.is_dir() for f in folders)


def test_a_folder_is_taken_once_at_a_time(tmp_path):
    log = take_folder(tmp_path / "a", {"config.yaml": "one"})
    with pytest.raises(ConfigError, match="another run is writing"):
        take_folder(tmp_path / "a", {"config.yaml": "two"})
    assert (tmp_path / "a" / "config.yaml").read_text() == "one"
    log.close()
    take_folder(tmp_path / "a", {"config.yaml": "two"}).close()
    assert (tmp_path / "a" / "config.yaml").read_text() == "two"


def test_a_folder_that_cannot_be_written_is_named(cli, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/under", "/proc/none"):  # even the administrator can make nothing in /proc
        code, _, err = cli(*tiny, f"run_dir={place}")
        assert code == 2 and len(err.splitlines()) == 1 and "Traceback" not in err
        assert err.startswith("ConfigError: run_dir: ") and "run_dir=FOLDER" in err
    with full_disk(10), pytest.raises(ConfigError, match=r"run_dir: .*plan\.txt cannot be written"):
        take_folder(tmp_path / "b", {"plan.txt": "longer than ten bytes"})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "metrics.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: it cannot be written: Is a directory"):
        JsonLog(tmp_path / "c" / "metrics.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="everything can be written by the administrator")
def test_a_read_only_folder(cli, tiny, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o500)
    code, _, err = cli(*tiny, "run_dir=shut/a")
    assert code == 2 and "nothing can be written in" in err


# ---- Weights & Biases


KILLED = """
import os, signal, sys
from pathlib import Path
from framework.wandb_log import start_wandb
log = start_wandb("offline", Path(sys.argv[1]), name="n", project="p", config={}, init_seconds=250.0)
log.wait_seconds = 250.0
log.write({"kind": "step", "step": 0, "loss": 1.0})
parents = {}
for place in Path("/proc").iterdir():
    if place.name.isdigit():
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass  # it has just ended
services = [p for p, parent in parents.items() if parent == os.getpid()]
assert services, "wandb has a process of its own"
log.wait_seconds = 20.0
for each in services:
    os.kill(each, signal.SIGKILL)
for step in range(1, 200):
    log.write({"kind": "step", "step": step, "loss": 1.0})
log.close()
print("went on")
"""


@pytest.mark.slow
def test_a_wandb_process_that_is_killed_is_one_warning(tmp_path):
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    # Without what a run of wandb in this process has left behind: the address of its service.
    unset = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT,
        env=unset | {"WANDB__SERVICE_WAIT": "250"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0 and done.stdout == "went on\n", done.stderr
    assert done.stderr.startswith("warning: wandb log failed (") and done.stderr.count("\n") == 1, done.stderr


def test_a_run_asks_for_no_network(cli, tiny, tmp_path, monkeypatch):
    def refused(self, address):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket.socket, "connect_ex", refused)
    with socket.socket() as mine, pytest.raises(AssertionError, match="a connection"):
        mine.connect(("127.0.0.1", 9))
    code, _, err = cli(*tiny, "run_dir=a")
    assert code == 0, err


ONLINE = """
import sys
from pathlib import Path
from framework.wandb_log import start_wandb
log = start_wandb("online", Path(sys.argv[1]), name="n", project="p", config={}, init_seconds=15.0)
for step in range(5):
    log.write({"kind": "step", "step": step, "loss": 1.0})
log.close()
print("went on")
"""


@pytest.mark.slow
def test_the_real_wandb_without_its_server_is_one_warning(tmp_path):
    """Nobody listens on the port: what was to go online lies on the disk."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free when it is closed
    there = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{port}", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ONLINE, str(tmp_path)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | there,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0 and done.stdout == "went on\n", done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "wandb.login" not in line]
    assert line.startswith("warning: wandb cannot go online (") and "logging offline" in line
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))

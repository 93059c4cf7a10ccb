"""What a run writes down: one JSON object per line, always; Weights & Biases beside it, when it can.

The JSON log is the truth of a run: it is flushed after every line, and a resumed run first cuts it back to
where its checkpoint was written, so no step is in it twice. Weights & Biases must never stop, hang or fail a
run: it starts online only with a key, every wait has a limit, and a failure is one warning.
"""

from __future__ import annotations

import contextlib
import fcntl
import html
import json
import math
import netrc
import os
import resource
import secrets
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

import torch

from framework.charts import Charts
from framework.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from framework.showcase import Showcase

Record = Mapping[str, Any]
WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # where keys are for: before and since wandb 0.31


class Log(Protocol):
    """Takes records; `kind` in a record says what it is: start, step, eval, resume or end."""

    def write(self, record: Record) -> None:
        """Write one record down."""
        ...

    def close(self) -> None:
        """Bring everything to its place; called once, also after a failure."""
        ...


class JsonLog:
    """`metrics.jsonl`: a JSON object per line, given to the system before `write` returns to the caller.

    `position` bytes of an earlier run are kept, what lies behind them is cut off (exact resume). The file is
    locked until it is closed or the process ends, whatever ends it: of two runs in a folder the second one is
    refused. Raises ConfigError for that, and where the file cannot be opened or is too short.
    """

    def __init__(self, path: Path, position: int = 0):
        self.path = path
        try:
            self.file = open(path, "ab", buffering=0)  # nothing is left to be written when it is closed
        except OSError as error:
            cause = f"it cannot be written: {error.strerror or error}"
            raise ConfigError(str(path), cause, "Give another folder: run_dir=FOLDER.") from error
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.close()
            fix = "Wait until it is over, or give this one another folder: run_dir=FOLDER."
            raise ConfigError(str(path.parent), "another run is writing into this folder", fix) from error
        except OSError as error:  # a file system without locks
            warn(f"{path} cannot be locked ({error.strerror}): start no other run in its folder.")
        if self.file.tell() < position:
            self.file.close()
            raise ConfigError(
                str(path),
                f"it has lost lines: the checkpoint was written at byte {position}",
                "Resume from a copy of the whole folder.",
            )
        self.file.truncate(position)

    def write(self, record: Record) -> None:
        """Append one line. Raises TrainingError when it cannot be written."""
        line = json.dumps(_plain(record), allow_nan=False).encode() + b"\n"
        with self._named():
            while line:  # a disk that fills up takes a part of a line, and refuses the next part
                line = line[self.file.write(line) :]

    def position(self) -> int:
        """Bytes written so far."""
        return self.file.tell()

    def sync(self) -> None:
        """Bring the lines to the disk itself, before a checkpoint points behind them."""
        with self._named():
            os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file, and let others lock it."""
        with self._named():
            self.file.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Turns what the system refuses into a TrainingError."""
        try:
            yield
        except OSError as error:
            raise TrainingError(
                str(self.path),
                f"cannot write the log: {error.strerror or error}",
                "Make room and resume the run.",
            ) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """All records of a JSON log; a last line that was cut short by a crash is left out."""
    records = []
    for line in path.read_bytes().split(b"\n"):
        if line:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


class WandbLog:
    """Weights & Biases in `folder`/wandb, as charts in groups. Make it by `start_wandb`.

    Its calls run with a time limit: after one that fails or hangs, a warning is printed and the rest of the
    run goes on without it.
    """

    def __init__(self, run: Any, wait_seconds: float = 20.0):
        self.run, self.wait_seconds = run, wait_seconds
        self.charts = Charts()

    def write(self, record: Record) -> None:
        """Send the numbers of a record, named by `Charts`; texts go to the run's summary."""
        run = self.run
        if run is None:
            return
        kind = record["kind"]
        step = record.get("step", 0)
        numbers = self.charts.of(record)
        texts = {f"{kind}/{k}": v for k, v in _flat(record).items() if isinstance(v, str) and k != "kind"}
        self._call("log", lambda: (run.log({**numbers, "step": step}), run.summary.update(texts)))

    def show(self, name: str, what: Showcase) -> None:
        """Send pictures and texts, and keep files as the artifact `name`."""
        run = self.run
        if run is None:
            return

        def send() -> None:
            import wandb

            shown: dict[str, Any] = {key: wandb.Image(str(path)) for key, path in what.pictures.items()}
            pages = {key: f"<pre>{html.escape(text)}</pre>" for key, text in what.texts.items()}
            shown |= {key: wandb.Html(page) for key, page in pages.items()}
            if shown:
                run.log(shown)
            if what.files:
                artifact = wandb.Artifact(f"{name}-{run.id}", type=name)
                for path in what.files:
                    artifact.add_file(str(path))
                run.log_artifact(artifact)

        self._call("pictures", send)

    def close(self) -> None:
        """Finish the run; waits a limited time."""
        if self.run is not None:
            self._call("finish", self.run.finish)
            self.run = None

    def _call(self, what: str, call: Callable[[], Any]) -> None:
        _, problem = within(self.wait_seconds, call)
        if problem is not None:
            warn(f"wandb {what} failed ({problem}): going on without it; metrics.jsonl has everything.")
            self.run = None
            # Else wandb calls its process once more at our exit: pages of traceback where that was killed.
            within(self.wait_seconds, _end_service)


def _end_service() -> None:
    import wandb

    wandb.teardown()


def start_wandb(
    mode: str, folder: Path, *, name: str, project: str, config: Record, init_seconds: float = 20.0
) -> WandbLog | None:
    """A wandb log in `folder`, or None when it cannot start (one warning says why).

    `mode` is online, offline, or auto: what the environment variable WANDB_MODE says, or else online with a
    key and offline without. An online start that fails goes on offline.
    """
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    if mode == "disabled":
        return None
    if mode == "online" and not has_key():
        warn("there is no wandb key (WANDB_API_KEY or `wandb login`): logging offline.")
        mode = "offline"  # wandb would ask for a key and wait for an answer
    try:
        import wandb  # lazily: it takes half a second
    except ImportError as error:
        warn(f"wandb is not to be had ({error}): only metrics.jsonl is written.")
        return None

    def begin(mode: Any) -> Any:
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=init_seconds,
            finish_timeout=init_seconds,
            disable_git=True,
            disable_code=True,
            save_code=False,
        )
        sweep = (folder.parent / "sweep.json").exists()
        run = wandb.init(
            project=project,
            name=name,
            group=folder.parent.name if sweep else None,
            dir=str(folder),
            mode=mode,
            config=dict(config),
            settings=settings,
            reinit="finish_previous",
            id=_run_id(folder),
            resume="allow",  # a resumed run goes on in the same place
        )
        run.define_metric("*", step_metric="step")
        return run

    run, problem = within(2 * init_seconds, lambda: begin(mode))
    if problem is not None and mode == "online":
        warn(f"wandb cannot go online ({problem}): logging offline; `wandb sync` sends it later.")
        within(init_seconds, _end_service)  # it may hold the run's id still
        run, problem = within(2 * init_seconds, lambda: begin("offline"))
    if problem is not None:
        warn(f"wandb cannot start ({problem}): only metrics.jsonl is written.")
        return None
    return WandbLog(run)


def _run_id(folder: Path) -> str:
    """The id of the run in `folder`: drawn once and kept, so that a resumed run goes on under it."""
    path = folder / "wandb" / "id.txt"
    known = path.read_text().strip() if path.exists() else ""
    if not known:  # nor in a file that a crash left empty
        path.parent.mkdir(parents=True, exist_ok=True)
        known = secrets.token_hex(4)
        path.write_text(known)
    return known


def has_key() -> bool:
    """True when a Weights & Biases key is set in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        hosts = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    own = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname
    return any(host in hosts for host in (*WANDB_HOSTS, own))


def within(seconds: float, call: Callable[[], Any]) -> tuple[Any, str | None]:
    """Run `call` for at most `seconds`: its result and None, or None and what went wrong in one line.

    A call that does not come back is left behind in its thread; it cannot keep the program alive.
    """
    result: list[Any] = []
    problem: list[str] = [f"no answer within {seconds:g} s"]

    def work() -> None:
        try:
            result.append(call())
            problem.clear()
        except BaseException as error:
            text = str(error).strip().splitlines()
            problem[:] = [text[0] if text else type(error).__name__]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return (None, problem[0]) if problem else (result[0], None)


def warn(text: str) -> None:
    """One line to the user on the error stream."""
    say(f"warning: {text}", sys.stderr)


def say(text: str, stream: TextIO) -> None:
    """Print for the user. A screen that is gone (a closed pipe or terminal, a full disk) ends no run."""
    with contextlib.suppress(OSError):  # there is nobody to tell
        print(text, file=stream, flush=True)


def _flat(record: Record, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{key}/"))
        else:
            found[prefix + key] = value
    return found


def peak_bytes(device: str) -> int:
    """Most memory used so far: the device's own, or this process's resident set."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, Linux KiB


class Logs:
    """The JSON log and whatever logs stand beside it, as one."""

    def __init__(self, json_log: JsonLog, *others: Log | None):
        self.json = json_log
        self.others = [log for log in others if log is not None]

    def write(self, record: Record) -> None:
        """Write to all; the JSON log comes first."""
        self.json.write(record)
        for log in self.others:
            log.write(record)

    def show(self, name: str, make: Callable[[], Showcase]) -> None:
        """Make pictures and texts where a log takes them; a failure is a warning, not the end of a run."""
        takers = [log for log in self.others if hasattr(log, "show")]
        if not takers:
            return
        try:
            made = make()
        except Exception as error:
            warn(f"nothing of {name} is shown ({type(error).__name__}: {error}): going on without it.")
            return
        for log in takers:
            cast(Any, log).show(name, made)

    def tick(self, step: int) -> None:
        """Update number `step` is done; only a progress bar wants to know."""
        for log in self.others:
            getattr(log, "tick", lambda step: None)(step)

    def sync(self) -> None:
        """Bring the JSON log to the disk."""
        self.json.sync()

    def position(self) -> int:
        """Bytes in the JSON log."""
        return self.json.position()

    def close(self) -> None:
        """Close all."""
        for log in self.others:
            log.close()
        self.json.close()


class SilentLogs(Logs):
    """Writes nothing: of several processes one has the logs."""

    def __init__(self) -> None:
        self.others = []

    def write(self, record: Record) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def position(self) -> int:
        """There are no bytes."""
        return 0

    def close(self) -> None:
        """Nothing."""

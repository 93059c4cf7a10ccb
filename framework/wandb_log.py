"""A run in Weights & Biases, which must never stop, hang or fail it.

It starts online only with a key, every wait has a limit, and a failure is one warning.
"""

from __future__ import annotations

import html
import netrc
import os
import secrets
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.charts import Charts
from framework.logging import Record, warn

if TYPE_CHECKING:
    from framework.showcase import Showcase

HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # where keys are for: before and since wandb 0.31


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
    return any(host in hosts for host in (*HOSTS, own))


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


def _flat(record: Record, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{key}/"))
        else:
            found[prefix + key] = value
    return found

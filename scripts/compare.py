"""Train one model under the conditions of the paper: hoisted or not, one stream or many; or what it costs.

    python scripts/compare.py model=lstm_variant [size=256 | model.params.size=256 ...] [cell=NAME]
                              [streams=16] [steps=128] [seconds=20] [device=auto] [threads=0]
                              [runner=auto] [memory=save] [out=FOLDER]
                              [--cost PRICE [frames=1000000] [room=GB]]

Hwang & Sung 2015, section 5, compare streams of training data (inter-stream parallelism) with products taken
out of the loops for all steps at once (intra-stream parallelism), and both. Here: parallel=none|intra times
streams=1|N. An update runs `steps` steps of every stream, forward and backward, with the state carried; the
conditions take turns for `seconds`, with cold caches, after they were seen to compute the same. A frame is
one step of one stream.

Prints a table and writes it as compare.md, compare.json and compare.png into `out`
(default: runs/compare_<model>).

With --cost, the price of an hour of the machine, the same model runs with `streams` lanes as an eager loop,
by torch's own layer where there is one (cuDNN on a GPU), and by us: time and money of an epoch of `frames`,
saving, memory, the largest batch whose update stays within `room`, and energy where the driver reports power.
Written as cost.html (one file), cost.md, cost.json and cost.png.

model, cell and params are those of scripts/show_plan.py.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import torch
from torch import Tensor

from framework.assemble import find_device
from framework.errors import ConfigError
from framework.graph import Graph
from framework.network import Network
from framework.plan import Memory, Parallel
from framework.script import command, out_folder
from framework.state import State
from framework.use import Gauge
from scripts.bench.measure import Device, quantile, speedup, take_turns
from scripts.compare_page import draw, text
from scripts.show_plan import graph, settings

OPTIONS = {
    "model": "", "cell": "", "streams": "16", "steps": "128", "seconds": "20", "device": "auto",
    "threads": "0", "runner": "auto", "memory": "save", "out": "", "cost": "", "frames": "1000000",
    "room": "0",
}  # fmt: skip
# float32: how far outputs of the same network may be apart when sums are taken in another order, of the
# largest; 6e-8 of each of some hundred terms and steps.
APART = 1e-4
SETTLE = 1.0  # s: the longest period that NVML counts over


@dataclass(frozen=True)
class Row:
    """One condition, measured. Times are of a whole update; low and high: a quarter of all lie beyond each.

    cores: CPU time over time that went by. gpu: share of time with work on the GPU (None: it does not say).
    """

    parallel: str
    streams: int
    runners: str
    updates: int
    milliseconds: float
    low: float
    high: float
    frame_us: float
    speedup: float
    peak_bytes: int
    cores: float
    gpu: float | None


class Condition:
    """A network and its streams: a call is one update, without the optimizer."""

    def __init__(self, net: Network, steps: int, streams: int, seed: int = 0):
        self.net, self.steps, self.streams = net, steps, streams
        self.random = torch.Generator().manual_seed(seed)
        self.state: State | None = None
        self.cpu = self.wall = 0.0
        self.inputs = self.fresh()

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"{self.net.plan.parallel}, {self.streams} stream{'s' * (self.streams > 1)}"

    def fresh(self) -> dict[str, Tensor]:
        """Random inputs by name: [steps, streams, size], or indices [steps, streams]."""
        lanes, device = (self.steps, self.streams), self.net.like.device
        found = {}
        for name, spec in self.net.graph.inputs.items():
            if spec.vocab is not None:
                found[name] = torch.randint(spec.vocab, lanes, generator=self.random).to(device)
            else:
                found[name] = torch.randn(*lanes, spec.size, generator=self.random).to(device)
        return found

    def outputs(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """All outputs of the next `steps` steps; the state goes on."""
        y, state = self.net(inputs if len(inputs) > 1 else next(iter(inputs.values())), state=self.state)
        self.state = state.detach()
        return list(y.values()) if isinstance(y, dict) else [y]

    def ready(self) -> Callable[[], None]:
        """New inputs, outside of what is timed; what it returns is timed."""
        self.inputs = self.fresh()
        return self.update

    def update(self) -> None:
        """Forward and backward."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.net.zero_grad(set_to_none=True)
        sum(y.square().mean() for y in self.outputs(self.inputs)).backward()  # type: ignore[union-attr]
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


def conditions(made: Graph, options: Mapping[str, Any]) -> list[Condition]:
    """The slowest one first, which the others are compared with. All have the same weights."""
    found: list[Condition] = []
    many = options["streams"]
    for streams in (1, many) if many > 1 else (1,):
        for parallel in ("none", "intra"):
            memory = "save" if parallel == "none" else options["memory"]
            net = Network(made, options["runner"], cast(Parallel, parallel), memory=cast(Memory, memory))
            net = net.to(options["device"])
            for loop in net.loops:
                loop.check_device(net.like.device.type)
            if found:
                net.load_state_dict(found[0].net.state_dict())
            found.append(Condition(net, options["steps"], streams))
    return found


def check_equal(found: Sequence[Condition]) -> None:
    """Two updates of each pair that differs only in what is hoisted. Raises ConfigError where they differ."""
    for none, intra in zip(found[::2], found[1::2], strict=True):
        for _ in range(2):
            inputs = none.fresh()
            for a, b in zip(none.outputs(inputs), intra.outputs(inputs), strict=True):
                apart = float((a - b).detach().abs().max()) / max(float(a.detach().abs().max()), 1e-30)
                if not apart <= APART:
                    cause = f"parallel=none and intra differ by {apart:.2g} of the largest output"
                    raise ConfigError("model", cause, "This is a bug: please report it.")


def measure(found: Sequence[Condition], seconds: float) -> list[Row]:
    """All conditions in turns, then the memory of each."""
    device = Device(found[0].net.like.device.type)
    systems = {c.name: c.ready for c in found}
    for c in found:  # what compiles and warms up is not their use of the machine
        c.ready()()
        c.cpu = c.wall = 0.0
    times = take_turns(device, systems, seconds)
    base = found[0]
    rows = []
    for c in found:
        middle = quantile(times[c.name], 0.5)
        frames = c.steps * c.streams
        rows.append(
            Row(
                c.net.plan.parallel, c.streams, ", ".join(sorted({x.runner for x in c.net.plan.choices})),
                len(times[c.name]), middle, quantile(times[c.name], 0.25), quantile(times[c.name], 0.75),
                middle * 1e3 / frames, speedup(times, c.name, base.name) * c.streams / base.streams,
                device.peak(c.ready()), c.cpu / c.wall, gpu_use(c, device),
            )
        )  # fmt: skip
    return rows


def gpu_use(c: Condition, device: Device) -> float | None:
    """Share of the time in which a kernel ran, as the driver counts, over updates one after another."""
    return None if device.kind != "cuda" else driver(Gauge("gpu_use", c.net.like.device), c.update, 1.0)[0]


def driver(
    gauge: Gauge, update: Callable[[], None], seconds: float, settle: float = SETTLE
) -> tuple[float | None, float]:
    """Mean of what a GPU's gauge says (None: nothing) while updates follow each other, and seconds of one.

    Those of `settle` seconds come first: what the gauge says is a mean over a time before it is asked.
    """
    begun, readings = time.perf_counter(), []
    while time.perf_counter() < begun + settle:
        update()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds or not readings:
        update()
        readings.append(gauge.read())
    torch.cuda.synchronize()
    told = [value for value in readings if value is not None]
    each = (time.perf_counter() - begun) / len(readings)
    return sum(told) / len(told) if told else None, each


def numbers(options: Mapping[str, str]) -> dict[str, Any]:
    """The options with their types. Raises ConfigError."""
    found: dict[str, Any] = dict(options)
    for key, least in (("streams", 1), ("steps", 1), ("threads", 0), ("frames", 1)):
        if not options[key].isdecimal() or int(options[key]) < least:
            raise ConfigError(key, f"'{options[key]}' is no number of {key}", f"Give {least} or more.")
        found[key] = int(options[key])
    for key in ("seconds", "cost", "room"):
        try:
            found[key] = float(options[key] or 0)
        except ValueError as error:
            raise ConfigError(key, f"'{options[key]}' is no number", "Give 20, say.") from error
        if not 0 <= found[key] < float("inf"):
            raise ConfigError(key, f"'{options[key]}' makes no sense", "Give a number from 0 on.")
    found["device"] = find_device(options["device"])
    return found


def spelled(given: Sequence[str]) -> list[str]:
    """`--cost 2.5` as `cost=2.5`. Raises ConfigError for other options with a dash."""
    out, at = [], iter(given)
    for each in at:
        key, equals, text = each.removeprefix("--").partition("=")
        if each.startswith("-") and key != "cost":
            raise ConfigError(each, "there is no such option", "Write --cost 2.5, or KEY=VALUE.")
        out.append(f"{key}={text if equals else next(at, '')}" if each.startswith("-") else each)
        if out[-1] == "cost=":
            raise ConfigError("cost", "the price of an hour is missing", "Write --cost 2.5.")
    return out


def main(given: Sequence[str]) -> None:
    """Compare as the arguments say. Raises UserError."""
    options, params = settings(spelled(given), OPTIONS)
    made, asked = graph(options["model"], options["cell"], params), numbers(options)
    out = Path(options["out"] or f"runs/compare_{Path(options['model']).stem}")
    out_folder(out)
    if asked["threads"]:
        torch.set_num_threads(asked["threads"])
    torch.set_flush_denormal(True)  # as train.py does
    torch.manual_seed(0)
    gpu = torch.cuda.get_device_name() if asked["device"].startswith("cuda") else "cpu"
    if options["cost"]:
        from scripts.compare_cost import report

        report(made, asked, Path(options["model"]).stem, gpu, out)
        return
    found = conditions(made, asked)
    check_equal(found)
    rows = measure(found, asked["seconds"])
    about = {
        "model": Path(options["model"]).stem, "cell": options["cell"] or "its own", "steps": asked["steps"],
        "weights": sum(w.numel() for w in found[0].net.weights().values()), "device": gpu,
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    page = text(rows, about)
    (out / "compare.md").write_text(page, encoding="utf-8")
    record = {**about, "params": params, "rows": [dataclasses.asdict(r) for r in rows]}
    (out / "compare.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(rows, f"{about['model']}, {gpu}", out / "compare.png")
    print(f"{page}\n{out}/compare.md, compare.json, compare.png")


if __name__ == "__main__":
    sys.exit(command(main, __doc__))

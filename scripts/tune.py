"""Measure on this GPU how loops are best spread over it, and who multiplies faster; plans then know it.

    python scripts/tune.py model=lstm size=1024 [cell=NAME] [dtype=bf16] [lanes=16,64] [steps=256]
                           [runner=persistent] [products=yes] [device=cuda] [file=FILE]

Every layout's results are compared with torch's first; one that errs more is left out. What was fastest goes
into FILE, by default intrastream/tuning.json in the user's cache folder, which all plans read: it holds for
this GPU, these kernels and this version of Triton, and for loops of the same content in any model.
model, cell and params of the model: as for show_plan.py. lanes: the batch sizes that you will use.
products=no leaves the products outside of loops out. runner=streamed measures that one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import torch

from framework import script
from framework.errors import ConfigError
from framework.names import known
from kernels.tuning import Tuning, TuningError, default_file, read, save
from scripts.show_plan import graph, settings

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OPTIONS = {"lanes": "16,64", "steps": "256", "products": "yes", "file": "", "dtype": "bf16", "device": "cuda"}
RUNNERS = ("persistent", "streamed")


def options(arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """What to measure, with numbers read; model, cell and runner; params of the model. Raises ConfigError."""
    own, rest = script.options(arguments, OPTIONS)
    model, params = settings(rest)
    out: dict[str, Any] = {**own, "lanes": _numbers("lanes", own["lanes"])}
    (out["steps"],) = _numbers("steps", own["steps"])[:1]
    if own["dtype"] not in DTYPES:
        raise ConfigError("dtype", f"no dtype '{own['dtype']}'", known("There are", own["dtype"], DTYPES))
    if own["products"] not in ("yes", "no"):
        raise ConfigError("products", f"'{own['products']}' is neither yes nor no", "Write products=no.")
    if model["runner"] == "auto":
        model["runner"] = RUNNERS[0]
    if model["runner"] not in RUNNERS:
        raise ConfigError(
            "runner", f"'{model['runner']}' has no layouts", known("There are", model["runner"], RUNNERS)
        )
    return out, model, params


def _numbers(key: str, text: str) -> list[int]:
    try:
        found = sorted({int(n) for n in text.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise ConfigError(key, f"'{text}' is no list of numbers from 1", f"Write {key}={OPTIONS[key]}.")
    return found


def measured(
    own: Mapping[str, Any], model: Mapping[str, str], params: Mapping[str, Any], **more: Any
) -> Tuning:
    """All rows of a model. more: of `LoopTuner`, for tests. Raises UserError."""
    from scripts.tune_loops import LoopTuner, on_device, product_rows

    made = graph(model["model"], model["cell"], params)
    name = " ".join([model["model"], model["cell"], *(f"{k}={v}" for k, v in params.items())]).replace(
        "  ", " "
    )
    more = {"clock": on_device, "report": lambda line: print(line, flush=True), **more}
    tuner = LoopTuner(made, own["device"], DTYPES[own["dtype"]], model["runner"], **more)
    loops = tuple(tuner.rows(name, own["lanes"], own["steps"]))
    products = []
    if own["products"] == "yes":
        for lanes in own["lanes"]:
            rows = own["steps"] * lanes
            products += product_rows(tuner.net, rows, more["clock"], more["report"])
    return Tuning(loops, tuple(products))


def main(arguments: Sequence[str]) -> None:
    """Measure and write. Raises UserError."""
    own, model, params = options(arguments)
    if own["device"] != "cuda" or not torch.cuda.is_available():
        raise ConfigError("device", "there is no GPU here to measure", "Run this where the network will run.")
    path = Path(own["file"]) if own["file"] else default_file()
    try:
        known_before = read(path)
    except TuningError as e:
        raise ConfigError(e.place, e.cause, e.fix) from e
    found = measured(own, model, params)
    save(known_before.joined(found), path)
    print(f"{len(found.loops)} loops and {len(found.products)} products measured, kept in {path}")


if __name__ == "__main__":
    sys.exit(script.command(main, __doc__))

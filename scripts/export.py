"""Write a trained network for other programs: torch.export and ONNX, one step of a stream or whole sequences.

    python scripts/export.py checkpoint=runs/NAME/best.pt [out=FOLDER] [what=torch,onnx] [form=step,sequence]
                             [check=true] [data.root=/elsewhere ...]

Writes step.pt2, sequence.pt2 (torch.export.load), step.onnx, sequence.onnx and export.json, which says names,
shapes and what states begin with, into `out` (default: export/ in the folder of the checkpoint). Steps and
lanes are free. check=true runs each of them beside the network on random inputs, and says how far apart they
are. A network that reads later steps has no step form: leave form=step out. ONNX needs
pip install 'intrastream[export]'. docs/export.md shows how to run what is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import torch

from framework.errors import ConfigError
from framework.export import (
    FORMS,
    KINDS,
    about,
    apart,
    example,
    export,
    need,
    run_onnx,
    run_torch,
    save_onnx,
    truth,
)
from framework.names import known
from framework.network import Network
from framework.restore import arguments, restore
from framework.script import command, out_folder

DEFAULTS = {"out": "", "what": "torch,onnx", "form": "", "check": True}
# float32: sums of some hundred terms in another order, over the steps that are checked.
APART = 1e-4


def chosen(option: str, given: str, there: Sequence[str]) -> list[str]:
    """A list with commas. Raises ConfigError for a name that does not exist."""
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in there:
            raise ConfigError(option, f"'{name}' is not known", known("There are", name, there))
    return names


def write(net: Network, form: str, kinds: Sequence[str], out: Path, check: bool) -> dict[str, float]:
    """Write one form; file name -> how far it is from the network (nothing where not checked)."""
    program = export(net, form)
    x, state = example(net, form, steps=7, lanes=3)
    want = truth(net, form, x, state) if check else {}
    far: dict[str, float] = {}
    if "torch" in kinds:
        path = out / f"{form}.pt2"
        torch.export.save(program, path)
        if check:
            far[path.name] = apart(run_torch(torch.export.load(path), x, state), want)
    if "onnx" in kinds:
        path = out / f"{form}.onnx"
        save_onnx(net, form, path, program)
        if check:
            far[path.name] = apart(run_onnx(path, x, state), want)
    for name, value in far.items():
        if not value <= APART:
            cause = f"{name} and the network differ by {value:.2g} of the largest output"
            raise ConfigError("export", cause, "This is a bug: please report it.")
    return far


def main(given: list[str]) -> None:
    """Export as the arguments say. Raises UserError."""
    options, changes = arguments(given, DEFAULTS)
    kinds = chosen("what", options["what"], KINDS)
    if "onnx" in kinds:
        need("onnx", "onnxscript")
    net = restore(options["checkpoint"], changes).net
    later = net.plan.looks_ahead
    forms = chosen("form", options["form"] or ("sequence" if later else ",".join(FORMS)), FORMS)
    out = Path(options["out"]) if options["out"] else options["checkpoint"].parent / "export"
    out_folder(out)
    told: dict[str, Any] = {}
    for form in forms:
        far = write(net, form, kinds, out, options["check"])
        told[form] = {**about(net, form), "apart": far}
        for name, value in far.items():
            print(f"{out / name}: {value:.1e} from the network, of the largest output")
    if later and not options["form"]:
        print("step: left out, since the network reads later steps")
    (out / "export.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: {', '.join(sorted(p.name for p in out.iterdir()))}")


if __name__ == "__main__":
    sys.exit(command(main, __doc__))

"""Text from a trained character network.

    python scripts/generate.py checkpoint=runs/NAME/best.pt prompt="def " [length=400] [temperature=0.8]
                               [seed=0] [check=false]

Prints the prompt and `length` characters after it, each drawn from what the network expects, sharpened by
`temperature` (0: always the likeliest). In the prompt \\n and \\t stand for a line break and a tab.
check=true also compares the logits of the frame-by-frame run with those of the whole text at once.
Options with a dot change the run's config, as data.path=book.txt or train.device=cpu.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import torch

from framework.errors import ConfigError
from framework.restore import arguments, restore
from framework.sample import difference, generate
from framework.script import command

DEFAULTS = {"prompt": "\n", "length": 400, "temperature": 0.8, "seed": 0, "check": False}


def main(given: list[str]) -> None:
    """Generate as the arguments say."""
    options, changes = arguments(given, DEFAULTS)
    parts = restore(options["checkpoint"], changes)
    if not hasattr(parts.dataset, "decode"):
        raise ConfigError(
            "checkpoint",
            f"it was trained on data={parts.dataset.name}, which is no text",
            "Train with data=text.",
        )
    prompt = options["prompt"].replace("\\n", "\n").replace("\\t", "\t")
    indices = parts.dataset.encode(prompt)
    found = generate(
        parts.net,
        indices,
        options["length"],
        temperature=options["temperature"],
        seed=options["seed"],
        device=parts.device,
    )
    if unknown := "".join(sorted(set(prompt) - set(parts.dataset.decode(indices)))):
        print(f"prompt: the vocabulary has no {unknown!r}: read as any other character", file=sys.stderr)
    print(prompt, end="", flush=True)
    written = []
    for index in found:
        written.append(index)
        print(parts.dataset.decode([index]), end="", flush=True)
    print()
    if options["check"]:
        _check(parts.net, torch.cat([indices, torch.tensor(written, dtype=torch.int64)]), parts.device)


def _check(net: torch.nn.Module, indices: torch.Tensor, device: str) -> None:
    """Say how far the two ways of running the network are apart; ConfigError beyond rounding."""
    apart, largest = difference(net, indices, device)
    # fp32 rounds to 6e-8; sums of some hundred terms and the steps let that grow.
    limit = 1e-4 * max(largest, 1.0)
    print(
        f"check: frame by frame and whole differ by {apart:.2g}, logits reach {largest:.3g}", file=sys.stderr
    )
    if apart > limit:
        cause = f"the two differ by {apart:.3g}, more than rounding ({limit:.2g})"
        raise ConfigError("check", cause, "This is a bug: please report it.")


if __name__ == "__main__":
    sys.exit(command(main, __doc__))

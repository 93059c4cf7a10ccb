"""All runs of a folder as one HTML page: curves, tables, comparisons; no account and no network.

    python scripts/dashboard.py runs/ [out=runs/dashboard.html] [title=TEXT]

The page is one file that any browser opens from the disk. It filters (`gru lr>0.001 model=lstm -unfinished`),
sorts (click on a column), groups (mean and deviation of each group) and compares (click on runs); the address
keeps the view. Curves of long runs are thinned out, with their highest and lowest values kept; lines of
metrics.jsonl that cannot be read are named. Run it again for what is new.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from framework.dashboard import build_page
from framework.errors import ConfigError
from framework.history import LOG
from framework.script import command, folder_and_options


def main(given: list[str]) -> None:
    """Write the page. Raises ConfigError when there is no run, or the page cannot be written."""
    root, options = folder_and_options(given, {"out": "", "title": ""})
    if not root.is_dir():
        raise ConfigError(str(root), "there is no such folder", "Give the one that holds the runs: runs/.")
    out = Path(options["out"]) if options["out"] else root / "dashboard.html"
    page, runs = build_page(root, f"{datetime.datetime.now():%Y-%m-%d %H:%M}", options["title"])
    if not runs:
        raise ConfigError(str(root), f"there is no run below it (no {LOG})", "Train one: python train.py.")
    try:
        partial = out.with_name(f".{out.name}.partial")
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, out)  # a browser that reloads never sees half a page
    except OSError as error:
        raise ConfigError(str(out), f"it cannot be written: {error.strerror}", "Give out=FILE.") from error
    for run in runs:
        for problem in run.problems:
            print(f"{run.folder}: {problem}", file=sys.stderr)
    print(f"{len(runs)} run{'s' * (len(runs) != 1)}: {out} ({len(page.encode()) / 1e6:.1f} MB)")


if __name__ == "__main__":
    sys.exit(command(main, __doc__))

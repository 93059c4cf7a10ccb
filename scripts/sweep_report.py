"""What a sweep has found: which job was best, which options mattered, and a table of all.

    python scripts/sweep_report.py runs/NAME_sweep [out=FOLDER]

Writes sweep_report.md, sweep_report.csv, sweep_paths.png (parallel coordinates: a line a job) and
sweep_importance.png (results over each option, with the part of their spread that it explains) into `out`
(default: the sweep's folder) and prints the best jobs. Works while the sweep runs, and on any folder of runs
of one task, by the options in which they differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from framework.errors import ConfigError
from framework.script import command, folder_and_options, out_folder
from framework.sweep_report import as_csv, as_markdown, draw, report, table

SHOWN = 10


def main(given: list[str]) -> None:
    """Write the report. Raises ConfigError."""
    folder, options = folder_and_options(given, {"out": ""})
    found = report(folder)
    out = out_folder(Path(options["out"]) if options["out"] else folder)
    try:
        pictures = draw(found, out)
        (out / "sweep_report.md").write_text(as_markdown(found, pictures), encoding="utf-8")
        (out / "sweep_report.csv").write_text(as_csv(table(found)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(out), f"cannot be written: {error.strerror}", "Give out=FOLDER.") from error
    lines = table(found)[: SHOWN + 1]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if len(found.rows) > SHOWN:
        print(f"... {len(found.rows) - SHOWN} more")
    for key, part in found.importance.items():
        print(f"{key} explains {part:.0%} of the spread")
    others = ["sweep_report.csv", *(picture.name for picture in pictures)]
    print(f"report: {out / 'sweep_report.md'} ({', '.join(others)})")


if __name__ == "__main__":
    sys.exit(command(main, __doc__))

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

from framework.errors import ConfigError, UserError
from framework.mistakes import near
from framework.sweep_report import as_csv, as_markdown, draw, report, table

SHOWN = 10


def main(given: list[str]) -> None:
    """Write the report. Raises ConfigError."""
    folder, out = None, None
    for each in given:
        key, equals, value = each.partition("=")
        if key == "out" and equals:
            out = Path(value)
        elif folder is not None or (equals and not Path(each).is_dir()):
            raise ConfigError(key, "there is no such option", near(key, ["out"]))
        else:
            folder = Path(each)
    if folder is None:
        raise ConfigError("folder", "which sweep is not said", "Give runs/NAME_sweep.")
    found = report(folder)
    out = out or folder
    try:
        out.mkdir(parents=True, exist_ok=True)
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
    print(f"report: {out / 'sweep_report.md'} (sweep_report.csv, {', '.join(p.name for p in pictures)})")


def command(arguments: list[str]) -> int:
    """Run on the arguments; returns the exit code, 2 after a mistake of the user."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0 if arguments else 2
    try:
        main(arguments)
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))

"""Generated modules of a user whose cache folder cannot be written, or who has no home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import codecache

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from pathlib import Path
from kernels.codecache import default_folder, load
if sys.argv[1] == "nobody":
    def home():
        raise RuntimeError("Could not determine home directory.")
    Path.home = home
module = load("x = 7\\n", "one")
place = Path(module.__file__)
assert module.x == 7 and load("x = 7\\n", "one") is module and place.is_file()
assert load("y = 8\\n", "two").__file__.startswith(str(place.parent))
if os.fork() == 0:
    sys.exit(0)  # with all that is done at a process's end
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0 and place.is_file()
print(place)
"""


@pytest.mark.parametrize("user", ["nobody", "a file in the way"])
def test_a_folder_of_the_process_takes_its_place(user: str, tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"}
    if user != "nobody":
        (tmp_path / "file").write_text("")
        environment["XDG_CACHE_HOME"] = str(tmp_path / "file")
    (tmp_path / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, user],
        cwd=ROOT,
        env=environment | {"TMPDIR": str(tmp_path / "temporary")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "temporary")
    assert not list((tmp_path / "temporary").iterdir()), "it goes with its process"


def test_a_folder_that_was_given_is_not_replaced(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        codecache.load("z = 9\n", "three", tmp_path / "file")

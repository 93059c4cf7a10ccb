"""framework/script.py: how the scripts read their arguments, and how they tell a mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from framework.errors import ConfigError
from framework.script import command, folder_and_options, guarded, no_option, options, out_folder

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {"out": "", "pairs": 10, "room": 0.5, "check": False}


def test_values_have_the_types_of_their_defaults():
    found, rest = options(["pairs=3", "room=2", "check=True", "out=a=b"], DEFAULTS)
    assert found == {"out": "a=b", "pairs": 3, "room": 2.0, "check": True} and not rest
    assert isinstance(found["room"], float) and options([], DEFAULTS) == (DEFAULTS, [])
    assert DEFAULTS["pairs"] == 10  # they stay as they are


def test_what_is_no_option_is_handed_on_in_order():
    assert options(["x", "data.root=/a", "out=b", "pair=1"], DEFAULTS)[1] == ["x", "data.root=/a", "pair=1"]
    assert str(no_option("pair=1", DEFAULTS)) == (
        "pair: there is no such option. There are: out, pairs, room, check. Did you mean 'pairs'?"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("pairs=2.5", "pairs: '2.5' is not a whole number"),
        ("room=wide", "room: 'wide' is not a number"),
        ("check=1", "check: '1' is not true or false"),
    ],
)
def test_values_of_the_wrong_type(given, said):
    with pytest.raises(ConfigError, match=said):
        options([given], DEFAULTS)


def test_one_folder(tmp_path):
    odd = tmp_path / "lr=0.1"  # a folder, although it looks like an option
    odd.mkdir()
    assert folder_and_options([str(odd), "out=x"], {"out": ""}) == (odd, {"out": "x"})
    for given, said in (
        ([], "folder: which one is not said"),
        (["a", "b"], "folder: 2 are given"),
        (["a", "oui=b"], "oui: there is no such option"),
    ):
        with pytest.raises(ConfigError, match=said):
            folder_and_options(given, {"out": ""})


def test_a_folder_for_results_is_made_or_refused(tmp_path):
    made = out_folder(tmp_path / "a" / "b")
    assert made.is_dir() and out_folder(made) == made
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"out: the folder .* cannot be made: .*Give another one"):
            out_folder(path)


def test_exit_codes(capsys):
    def main(given):
        if given == ["bad"]:
            raise ConfigError("x", "it is bad", "Try good.")
        if given == ["ctrl-c"]:
            raise KeyboardInterrupt
        assert given != ["bug"]
        print("ran", *given)

    assert command(main, "\nHow to.\n", []) == 2 and capsys.readouterr() == ("How to.\n", "")
    assert command(main, "How to.", ["good", "-h"]) == 0 and capsys.readouterr() == ("How to.\n", "")
    assert command(main, "", ["good"]) == 0 and capsys.readouterr() == ("ran good\n", "")
    assert guarded(main, []) == 0 and capsys.readouterr() == ("ran\n", "")
    assert command(main, "", ["bad"]) == 2
    assert capsys.readouterr() == ("", "ConfigError: x: it is bad. Try good.\n")
    assert command(main, "", ["ctrl-c"]) == 130 and capsys.readouterr() == ("", "interrupted\n")
    with pytest.raises(AssertionError):  # a bug of ours keeps its traceback
        command(main, "", ["bug"])


@pytest.mark.parametrize("name", ["dashboard", "sweep_report"])
def test_scripts_that_only_read_logs_need_no_torch(name, tmp_path):
    """They answer at once, also where torch cannot be imported."""
    code = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['hydra'] = None; "
        f"sys.argv = ['{name}', {str(tmp_path)!r}]; runpy.run_path('scripts/{name}.py', run_name='__main__')"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.startswith("ConfigError: ") and "no run" in ran.stderr

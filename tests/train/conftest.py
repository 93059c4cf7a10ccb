"""What the tests of training share."""

import sys
from importlib import util
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    """Run train.py's main in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TIMIT_ROOT", raising=False)

    def run(*arguments):
        spec = util.spec_from_file_location("train_main", ROOT / "train.py")
        train = util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "train_main", train)
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        spec.loader.exec_module(train)
        try:
            code = train.main(list(arguments))
        except SystemExit as error:
            code = error.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def one_thread():
    """Products as small as these gain nothing from a second thread, and wait for it where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

"""A user's folders `callbacks/` and `datamodules/`, which are called as packages of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_uniopd.cli.parse_errors import Complaint, wrong_class

ROOT = Path(__file__).parents[2]
PROBE = """
import sys
from lit_uniopd.__main__ import find_own_modules
find_own_modules()
import importlib
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        print(name, module.__file__)
    except ImportError as error:
        print(name, "missing", error)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for package in ("callbacks", "datamodules"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("from callbacks.my_file import Mine\n")
        (tmp_path / package / "my_file.py").write_text("class Mine: ...\n")
    (tmp_path / "callbacks/pair_writer.py").write_text("class Pairs: ...\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("how", ["uniopd", "python -m"])
@pytest.mark.thinned(2)
def test_each_file_is_found_behind_ours(mine, how):
    (mine / "probe.py").write_text(PROBE)
    command = [sys.executable, "-m", "probe"] if how == "python -m" else [sys.executable, "-P", "-c", PROBE]
    if how == "uniopd":  # its script stands in bin/
        command = [sys.executable, "-c", "import sys; sys.path.pop(0)\n" + PROBE]
    names = ["callbacks", "callbacks.my_file", "callbacks.pair_writer", "datamodules.my_file"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *names], cwd=mine, env=environment, capture_output=True, text=True, check=True)
    files = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert files == {
        "callbacks": str(ROOT / "callbacks/__init__.py"),
        "callbacks.my_file": str(mine / "callbacks/my_file.py"),
        "callbacks.pair_writer": str(ROOT / "callbacks/pair_writer.py"),
        "datamodules.my_file": str(mine / "datamodules/my_file.py"),
    }


def told(module: str, name: str) -> str | None:
    __import__(module)
    return wrong_class("trainer.callbacks", [Complaint((), (), f"module '{module}' has no attribute '{name}'")])


def test_a_message_says_which_file_was_looked_in_and_how_to_name_the_other(mine):
    ours = ROOT / "callbacks"
    assert told("callbacks", "Mine") == (
        f"--trainer.callbacks: there is no Mine in callbacks ({ours}/__init__.py); of your own {mine}/callbacks each file "
        "is found by its name, and __init__.py is not read: name a class as callbacks.my_file.MyClass."
    )
    assert told("callbacks.pair_writer", "Pairs") == (
        f"--trainer.callbacks: there is no Pairs in callbacks.pair_writer ({ours}/pair_writer.py) (did you mean "
        f"callbacks.pair_writer.PairingArgs?); it hides {mine}/callbacks/pair_writer.py, of the same name: rename that file."
    )
    absent = wrong_class("data", [Complaint((), (), "No module named 'datamodules.my_fil'")])
    assert absent is not None
    assert "name a class as datamodules.my_file.MyClass" in absent


def test_a_folder_that_hides_ours(mine, monkeypatch):
    class Theirs:
        __file__ = str(mine / "callbacks/__init__.py")

    monkeypatch.setitem(sys.modules, "callbacks", Theirs)  # type: ignore[arg-type]
    text = wrong_class("trainer.callbacks", [Complaint((), (), "module 'callbacks' has no attribute 'PairWriter'")])
    assert text is not None
    assert f"({mine}/callbacks/__init__.py)" in text
    assert f"it hides {ROOT}/callbacks, of the same name: rename the folder" in text


def test_without_such_a_folder_nothing_is_said_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(told("callbacks", "PairWrite")).endswith(
        "(did you mean callbacks.PairWriter?); name a class by its whole path."
    )

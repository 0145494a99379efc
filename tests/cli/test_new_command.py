"""`uniopd new`: a project that runs, and whose own tests pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from first_run import FirstRun

from lit_uniopd.cli import main
from lit_uniopd.cli.new_command import PROJECT

ROOT = Path(__file__).parents[2]


def new(directory: Path) -> None:
    with pytest.raises(SystemExit) as done:
        main(["new", str(directory)])
    assert done.value.code == 0


def test_what_is_written_is_what_comes_with_us(tmp_path):
    new(tmp_path / "mine")
    names = {file.name for file in PROJECT.iterdir() if file.is_file()}
    assert {file.name: file.read_text() for file in (tmp_path / "mine").iterdir()} == {
        name: (PROJECT / name).read_text() for name in names
    }
    readme = (tmp_path / "mine/README.md").read_text()
    parts = {name for name in names if name.startswith("my_")}
    assert len(parts) == 4
    assert all(f"`{name}`" in readme for name in parts)


def test_a_directory_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as done:
        main(["new", str(tmp_path)])
    assert done.value.code == 2
    assert "is there already; choose another directory" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_its_own_tests_pass(tmp_path, quickstart: FirstRun):
    new(tmp_path / "mine")
    quickstart.lend_playground(tmp_path / "mine")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path / "mine", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout

"""What a `fit` names at its end, tried as it is printed."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_uniopd.cli import next_commands as module
from lit_uniopd.cli.next_commands import advice, next_commands
from lit_uniopd.utils.jsonl import append_lines
from lit_uniopd.utils.programs import program
from lit_uniopd.utils.run_directory import run_directory

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 0.5, "step": 1, "domain": "d"}
WEIGHTS = {"w_quality": 1.0, "w_performance": 1.0, "score_chosen": None, "score_rejected": None}


def finished(root, logger):
    trainer = Trainer(default_root_dir=root, logger=logger, enable_progress_bar=False, accelerator="cpu")
    return trainer, run_directory(trainer)


def commands(text):
    """The printed lines without what is said about each."""
    head, *lines = text.splitlines()
    assert head == "What to look at next:"
    return [line.strip().split("  ")[0] for line in lines]


def test_every_command_works_as_it_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = TensorBoardLogger("my runs", name="it's")  # a place that a shell would take apart
    trainer, directory = finished(tmp_path, logger)
    logger.log_metrics({"val/accuracy": 0.5}, step=3)
    logger.finalize("success")
    append_lines(directory / "weighed_pairs.jsonl", [{**PAIR, **WEIGHTS}])
    (directory / "curves.png").write_bytes(b"")
    view, board, figure = commands(next_commands(trainer))
    assert Path(figure).is_file()
    done = subprocess.run(view, shell=True, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (directory / "view.html").exists()
    inspected = subprocess.run(f"{board} --inspect", shell=True, capture_output=True, text=True, timeout=120)
    assert "val/accuracy" in inspected.stdout, inspected.stderr


def test_what_a_run_has_not_left_is_not_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer, directory = finished(tmp_path, CSVLogger("runs", name="numbers"))
    assert next_commands(trainer) == ""
    append_lines(directory / "rollouts.jsonl", [{}])
    (command,) = commands(next_commands(trainer))
    assert command.endswith(f"view {directory}")


def test_the_notebook_on_the_method_is_named_in_a_clone_only(tmp_path, monkeypatch):
    trainer, _ = finished(tmp_path, False)
    trainer.strategy._lightning_module = LightningModule()
    clone = Path(module.__file__).parents[2]
    assert {path.stem for path in (clone / "notebooks").glob("*.ipynb")} >= set(module.NOTEBOOK_OF.values())
    monkeypatch.setattr(module, "NOTEBOOK_OF", {LightningModule: "reading_a_run"})
    monkeypatch.setattr(module.shutil, "which", lambda name: "/bin/" + name if name == "jupyter" else None)
    monkeypatch.chdir(clone)
    assert commands(next_commands(trainer)) == ["jupyter execute --inplace notebooks/reading_a_run.ipynb"]
    monkeypatch.chdir(tmp_path)
    assert next_commands(trainer) == ""


@pytest.mark.parametrize("where", ["on the path", "beside python", "nowhere"])
def test_a_program_is_called_so_that_this_environments_is_run(tmp_path, monkeypatch, where):
    python = tmp_path / "the env/bin/python"
    python.parent.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(python.parent if where == "on the path" else tmp_path))
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, *([] if where == "nowhere" else [python.parent])):  # another environment has it too
        (place / "uniopd").touch(mode=0o755)
    expected = {
        "on the path": "uniopd",
        "beside python": "'the env/bin/uniopd'",
        "nowhere": "'the env/bin/python' -m lit_uniopd",
    }
    assert program("uniopd", "lit_uniopd") == expected[where]
    assert shlex.split(program("uniopd", "lit_uniopd"))


def test_what_callbacks_have_to_say_is_printed_before_and_only_where_they_say_something(tmp_path):
    class Adviser(Callback):
        def __init__(self, *lines: str) -> None:
            self.lines = lines

        def advice(self, trainer: Trainer) -> list[str]:
            return list(self.lines)

    def said(*callbacks: Callback) -> str:
        return advice(Trainer(default_root_dir=tmp_path, logger=False, accelerator="cpu", callbacks=list(callbacks)))

    assert said(Callback(), Adviser()) == ""
    lines = said(Adviser("calibration: nothing."), Adviser("pairs: few.", "pairs: more.")).splitlines()
    assert lines == [
        "What its numbers say (docs/results.md):",
        *("  " + line for line in ("calibration: nothing.", "pairs: few.", "pairs: more.")),
    ]

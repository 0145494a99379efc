"""What to read when a `fit` has ended: what its numbers say, commands that work when they are pasted, and figures."""

import os
import shlex
import shutil
from pathlib import Path

from lightning import Trainer

from lit_uniopd.modules import OmniDPO, Sentinel, UniOPD
from lit_uniopd.monitoring.media import run_adapters
from lit_uniopd.utils.programs import program
from lit_uniopd.utils.run_directory import run_directory
from lit_uniopd.utils.trainer_data import TrainerData
from lit_uniopd.view.sources import shows_something

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
"""They are in a clone, and in no wheel."""
NOTEBOOK_OF = {UniOPD: "reading_a_run", OmniDPO: "omni_dpo_weights", Sentinel: "sentinel_one_picture"}


def next_commands(trainer: Trainer) -> str:
    """Lines that say what the run of this trainer has left to look at; empty where it has left nothing.

    Args:
        trainer: after its `fit`.
    """
    if not trainer.is_global_zero or not (directory := run_directory(trainer)).is_dir():
        return ""
    place = shlex.quote(_relative(directory))
    lines = [(f"{program('uniopd', 'lit_uniopd')} view {place}", "its answers or pairs, as a page for the browser")]
    lines = lines if shows_something(directory) else []
    commands = [command for adapter in run_adapters(trainer) if (command := adapter.view_command())]
    lines += [(command, "its curves, texts and settings") for command in dict.fromkeys(commands)]
    lines += [(_relative(figure), "a figure") for figure in sorted(directory.glob("*.png"))]
    lines += _notebook(trainer)
    width = max((len(command) for command, _ in lines), default=0)
    return "\n".join(["What to look at next:", *(f"  {c:<{width}}  {what}" for c, what in lines)]) if lines else ""


def advice(trainer: Trainer) -> str:
    """Lines of the callbacks that have a method ``advice``: what the run's numbers say; empty where they say nothing.

    Args:
        trainer: after its `fit`.
    """
    if not trainer.is_global_zero:
        return ""
    said = [line for callback in TrainerData(trainer).callbacks for line in getattr(callback, "advice", _none)(trainer)]
    return "\n".join(["What its numbers say (docs/results.md):", *(f"  {line}" for line in said)]) if said else ""


def _none(trainer: Trainer) -> list[str]:
    return []


def _notebook(trainer: Trainer) -> list[tuple[str, str]]:
    """The notebook on the method, where there is one and something that runs it."""
    name = NOTEBOOK_OF.get(type(trainer.lightning_module), "")
    path = NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file() or not path.is_relative_to(Path.cwd()) or shutil.which("jupyter") is None:
        return []
    runs = "lab" if shutil.which("jupyter-lab") else "execute --inplace"
    return [(f"jupyter {runs} {shlex.quote(_relative(path))}", "the method in a notebook")]


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.absolute().is_relative_to(Path.cwd()) else str(path)

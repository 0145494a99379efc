"""The directory of a run, where everything that it writes goes."""

from pathlib import Path

from lightning import Trainer


def run_directory(trainer: Trainer) -> Path:
    """Where a run's files go. A collective call."""
    return Path(trainer.log_dir or trainer.default_root_dir)

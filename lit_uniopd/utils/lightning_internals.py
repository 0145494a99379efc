"""The private parts of Lightning that the project touches; the test of this file fails when one of them changes."""

from typing import Any

from lightning import Trainer
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector as SignalConnector

__all__ = [
    "SignalConnector",
    "logged_step",
    "set_logged_step",
    "set_signal_connector",
    "signal_connector",
    "steps_next",
]


def logged_step(trainer: Trainer) -> int:
    """The step that Lightning's loggers write: training batches so far, also where a batch is several updates."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def set_logged_step(trainer: Trainer, step: int) -> None:
    """Count on from another step: a batch that was under way when a run stopped has not been logged yet."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def steps_next(trainer: Trainer) -> bool:
    """Whether the batch under way is the last of its optimizer step, of ``accumulate_grad_batches`` or the epoch."""
    return not trainer.fit_loop._should_accumulate()


def signal_connector(trainer: Trainer) -> Any:
    """What handles SIGTERM and the like while the trainer runs."""
    return trainer._signal_connector


def set_signal_connector(trainer: Trainer, connector: SignalConnector) -> None:
    """Let another one handle signals, from the trainer's next start on."""
    trainer._signal_connector = connector

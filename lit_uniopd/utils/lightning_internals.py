"""The private parts of Lightning that the project touches; the test of this file fails when one of them changes."""

from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector as SignalConnector
from torch.utils.data import DataLoader

__all__ = [
    "SignalConnector",
    "is_open",
    "logged_step",
    "restore_loaders",
    "set_logged_step",
    "set_signal_connector",
    "set_version",
    "signal_connector",
    "stated_version",
    "steps_next",
    "unwrapped_batch_sampler",
]


def logged_step(trainer: Trainer) -> int:
    """The step that Lightning's loggers write: training batches so far, also where a batch is several updates."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def set_logged_step(trainer: Trainer, step: int) -> None:
    """Count on from another step: a batch that was under way when a run stopped has not been logged yet."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def restore_loaders(trainer: Trainer) -> None:
    """Give training loaders their position in the checkpoint, if they were built before Lightning had read it.

    Whoever asks for ``trainer.estimated_stepping_batches`` in a setup hook builds them that early, and Lightning then
    trains on the first rows again, without a word.
    """
    trainer.fit_loop._load_combined_loader_states()


def steps_next(trainer: Trainer) -> bool:
    """Whether the batch under way is the last of its optimizer step, of ``accumulate_grad_batches`` or the epoch."""
    return not trainer.fit_loop._should_accumulate()


def signal_connector(trainer: Trainer) -> Any:
    """What handles SIGTERM and the like while the trainer runs."""
    return trainer._signal_connector


def set_signal_connector(trainer: Trainer, connector: SignalConnector) -> None:
    """Let another one handle signals, from the trainer's next start on."""
    trainer._signal_connector = connector


def unwrapped_batch_sampler(loader: DataLoader) -> Any:
    """A loader's batch sampler without the wrapper that notes the indices of predictions."""
    return getattr(loader.batch_sampler, "_batch_sampler", loader.batch_sampler)


def is_open(logger: TensorBoardLogger | CSVLogger) -> bool:
    """Whether the logger has its directory already: it makes it when its `experiment` is first asked for."""
    return logger._experiment is not None


def stated_version(logger: TensorBoardLogger | CSVLogger) -> int | str | None:
    """The version that a logger was given or has taken; None: it would take the next one when asked."""
    return logger._version


def set_version(logger: TensorBoardLogger | CSVLogger, version: int | str) -> None:
    """Let a logger that has no version yet write into this one."""
    logger._version = version

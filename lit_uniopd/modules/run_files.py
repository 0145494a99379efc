"""A run's directory from its setup to its end, on the command line and in plain Python alike."""

import logging

from lightning import Callback, LightningModule, Trainer

from lit_uniopd.modules.optimization import reached_limit
from lit_uniopd.utils.run_directory import (
    claim_directory,
    leave_directory,
    mark_begun,
    remove_failed_start,
    share_directory,
)

log = logging.getLogger(__name__)


class RunFiles(Callback):
    """Tells all ranks the run's directory; a run that is refused at its start, or writes nothing, leaves none."""

    def __init__(self) -> None:
        self._has_begun = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._has_begun = False
        share_directory(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._has_begun = True
        mark_begun(trainer)

    on_validation_start = on_train_start
    on_test_start = on_train_start
    on_predict_start = on_train_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            remove_failed_start(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            leave_directory(trainer)
            if stage == "fit" and not self._has_begun:
                if (reached := reached_limit(trainer)) is not None:
                    log.warning("There is nothing left to do: %s", reached)
                remove_failed_start(trainer)


def run_files(trainer: Trainer) -> list[Callback]:
    """What a module's ``configure_callbacks`` adds; nothing if the trainer has it from an earlier stage.

    The directory is made here, because soon after Lightning asks the first logger for its version, and then makes it.
    """
    claim_directory(trainer)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [] if any(isinstance(callback, RunFiles) for callback in callbacks) else [RunFiles()]

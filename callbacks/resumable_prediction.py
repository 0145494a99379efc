"""Prediction that writes something about each prompt as soon as it is known, and goes on where it was killed."""

import logging
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lit_uniopd.types import PromptBatch, Rollouts
from lit_uniopd.utils.jsonl import append_lines, rank_file, read_lines

log = logging.getLogger(__name__)


class ResumablePrediction(Callback):
    """Base of callbacks that append a line for each prompt; prompts that are in the file are not answered again.

    Args:
        path: the file; ranks beyond the first add their number. Each line has `prompt`, a hash of the prompt's content.
    """

    def __init__(self, path: str | Path) -> None:
        self.ledger = Path(path)
        self._done: set[str] = set()
        self._skipped = 0

    def lines(self, pl_module: LightningModule, rollouts: Rollouts) -> Iterable[Mapping[str, Any]]:
        """A line for each prompt of a batch."""
        raise NotImplementedError

    def finish(self) -> None:
        """Called on rank 0 when all lines of all ranks are there."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Of batches whose prompts are all known already.
        warnings.filterwarnings("ignore", message="predict returned None")
        self._done = {line["prompt"] for line in read_lines(self.ledger) if "prompt" in line}
        trainer.strategy.barrier("the ledger is read")

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        assert isinstance(batch, PromptBatch)
        left = tuple(prompt for prompt in batch if prompt.key not in self._done)
        self._skipped += len(batch) - len(left)
        batch.prompts = left

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Rollouts | None,  # pyright: ignore[reportIncompatibleMethodOverride]
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs is not None:
            append_lines(rank_file(self.ledger, trainer.global_rank), self.lines(pl_module, outputs))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("the ledger is written")
        if self._skipped:
            log.info("%d prompts were in %s already.", self._skipped, self.ledger)
        if trainer.is_global_zero:
            self.finish()

"""Pass counts of prompts, for offline difficulty-aware balancing (Uni-OPD)."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lit_uniopd.difficulty import append_difficulties, difficulties, prompt_key, rank_file, read_difficulties
from lit_uniopd.errors import UserError
from lit_uniopd.types import PromptBatch, Rollouts

log = logging.getLogger(__name__)


class DifficultyWriter(Callback):
    """Write how many of the student's answers to each prompt are right; prompts that are in the file are skipped.

    A killed `uniopd predict` goes on with the same command, on any number of ranks. Each line has `prompt` (hash of its
    messages), `id, domain, correct, attempts` and `unknown` (answers without a verdict, which count for nothing).

    Args:
        path: the file, which `--data.difficulty.path` takes; ranks beyond the first add their number.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._done: set[str] = set()
        self._skipped = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path.exists():
            try:
                self._done = set(read_difficulties(self.path))
            except UserError:  # a run that was killed before it had anything
                self._done = set()
        trainer.strategy.barrier("pass counts are read")

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        assert isinstance(batch, PromptBatch)
        left = tuple(prompt for prompt in batch if prompt_key(prompt) not in self._done)
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
            append_difficulties(rank_file(self.path, trainer.global_rank), difficulties(outputs))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("pass counts are written")
        if self._skipped:
            log.info("%d prompts had pass counts already.", self._skipped)
        if trainer.is_global_zero:
            found = read_difficulties(self.path).values()
            counts = Counter((entry.attempts, entry.correct) for entry in found)
            shown = ", ".join(f"{correct}/{attempts}: {n}" for (attempts, correct), n in sorted(counts.items()))
            log.info("%s has %d prompts. Right answers of those judged: %s.", self.path, len(found), shown)

"""Pass counts of prompts, for offline difficulty-aware balancing (Uni-OPD)."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from lightning import LightningModule, Trainer

from callbacks.resumable_prediction import ResumablePrediction
from lit_uniopd.scorers.pass_rates import difficulties, read_difficulties
from lit_uniopd.types import Rollouts

log = logging.getLogger(__name__)


class DifficultyWriter(ResumablePrediction):
    """Write how many of the student's answers to each prompt are right; prompts that are in the file are skipped.

    A killed `uniopd predict` goes on with the same command, on any number of ranks. Each line has `prompt` (hash of its
    messages), `id, domain, correct, attempts` and `unknown` (answers without a verdict, which are not counted).

    Args:
        path: the file, which `--data.difficulty.path` takes; ranks beyond the first add their number.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:  # type: ignore[override]
        sampling = pl_module.val_sampling
        option = sampling.greedy_option("model.val_sampling")
        if stage == "predict" and trainer.is_global_zero and (option is not None or sampling.n == 1):
            log.warning(
                "With %s a prompt is always right or always wrong, so none is of medium difficulty; set "
                "--model.val_sampling.n 8 and temperature 1.",
                option or "--model.val_sampling.n 1",
            )

    def lines(self, pl_module: LightningModule, rollouts: Rollouts) -> Iterable[Mapping[str, Any]]:
        return map(asdict, difficulties(rollouts))

    def finish(self) -> None:
        entries = read_difficulties(self.lines_file).values()
        prompts = Counter((entry.attempts, entry.correct) for entry in entries)
        histogram = ", ".join(f"{correct}/{attempts}: {n}" for (attempts, correct), n in sorted(prompts.items()))
        log.info("%s has %d prompts. Right answers of those judged: %s.", self.lines_file, len(entries), histogram)

"""Answers and outcomes of ``uniopd predict`` as JSON lines."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from lit_uniopd.errors import UserError, full_disk_named
from lit_uniopd.types import Rollouts
from lit_uniopd.utils.jsonl import rank_file
from lit_uniopd.utils.run_directory import run_directory

log = logging.getLogger(__name__)


class PredictionWriter(BasePredictionWriter):
    """Append every batch of answers to a file as soon as it is written, so that a killed run keeps its answers.

    Each line has `id, domain, prompt, answer, sample, text` (`answer` is the gold one), `images` if they are files, the
    verdict (`outcome, score, extracted, reason`; outcome 1 correct, 0 incorrect, -1 unknown), `tokens` and `finish`.

    Args:
        path: the file; null: `predictions.jsonl` in the run's directory. Ranks beyond the first add their number.
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__(write_interval="batch")
        self.path = path

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning warns that it cannot give row numbers; rows are named by their id here.
        warnings.filterwarnings("ignore", message="Couldn't infer the batch indices")
        if stage == "predict" and (file := self.file(trainer)).exists():
            raise UserError(f"{file} exists; remove it or give PredictionWriter another `path`.")

    def file(self, trainer: Trainer) -> Path:
        """This rank's file."""
        path = Path(self.path or run_directory(trainer) / "predictions.jsonl")
        return rank_file(path, trainer.global_rank)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Rollouts | None,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        if prediction is None:
            return
        file = self.file(trainer)
        file.parent.mkdir(parents=True, exist_ok=True)
        with full_disk_named(file), file.open("a", encoding="utf-8") as out:
            for line in records(prediction):
                out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        log.info("The answers are in %s.", self.file(trainer))


def records(rollouts: Rollouts) -> Iterator[dict[str, Any]]:
    """One JSON object per answer."""
    groups = rollouts.group_B.tolist()
    for row, (prompt, grade) in enumerate(zip(rollouts.prompts, rollouts.grades, strict=True)):
        # Absolute paths: the reader may run in another directory. Embedded pictures have no name.
        files = [str(Path(image).resolve()) for image in prompt.images if isinstance(image, str)]
        yield {
            "id": prompt.id,
            "domain": prompt.domain,
            "prompt": [dict(message) for message in prompt.messages],
            **({"images": files} if files else {}),
            "answer": prompt.gold,
            "sample": row - groups.index(groups[row]),
            "text": rollouts.text[row],
            "outcome": grade.outcome,
            "score": grade.score,
            "extracted": grade.extracted,
            "reason": grade.reason,
            "tokens": int(rollouts.lengths_B[row]),
            "finish": rollouts.finish[row],
        }

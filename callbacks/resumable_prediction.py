"""Prediction that writes a line for each prompt as soon as it is known, and goes on where it was killed."""

import logging
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lit_uniopd.benchmarks.records import content_hash
from lit_uniopd.benchmarks.weights_fingerprint import weights_fingerprint
from lit_uniopd.errors import UserError
from lit_uniopd.types import Prompt, PromptBatch, Rollouts
from lit_uniopd.utils.jsonl import append_lines, rank_file, read_lines
from lit_uniopd.utils.trainer_data import TrainerData

log = logging.getLogger(__name__)


class ResumablePrediction(Callback):
    """Base of callbacks that append a line for each prompt; prompts that are in the file are not answered again.

    Args:
        path: the file; ranks beyond the first add their number. Each line has `prompt`, a hash of the prompt's content,
            `settings`, one of the weights and the sampling that answered it, and `judged_by`, one of its gold answer
            and grader: with others a run is refused.
    """

    answers = "answers"
    """What lines are made of, for people."""

    def __init__(self, path: str | Path) -> None:
        self.lines_file = Path(path)
        self._settings = ""
        self._done: set[str] = set()
        self._skipped = 0

    def lines(self, pl_module: LightningModule, rollouts: Rollouts) -> Iterable[Mapping[str, Any]]:
        """A line for each prompt of a batch."""
        raise NotImplementedError

    def settings(self, pl_module: Any) -> str:
        """Names what a line depends on beside its prompt. A collective call."""
        sampling, policy = pl_module.val_sampling, pl_module.policy
        with policy.gathered():
            parts: list[Any] = [weights_fingerprint(policy.model)]
        parts += [getattr(sampling, name) for name in ("n", "max_new_tokens", "temperature", "top_p", "top_k")]
        parts += [sorted(policy.args.chat_template_kwargs.items()), policy.args.max_pixels]
        return content_hash(*parts)

    def finish(self) -> None:
        """Called on rank 0 when all lines of all ranks are there."""

    def written_lines(self) -> list[dict[str, Any]]:
        """One line of each prompt, the last where a killed run has written several."""
        return list({line["prompt"]: line for line in read_lines(self.lines_file)}.values())

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning would warn of batches whose prompts all have their line.
        warnings.filterwarnings("ignore", message="predict returned None")
        self._settings = self.settings(pl_module)
        lines = list(read_lines(self.lines_file))
        judged_by = {prompt.key: _judged_by(prompt) for prompt in TrainerData(trainer).prompts("predict")}
        for line in lines:  # older ones say nothing
            other = line.get("settings", self._settings) != self._settings
            verdict = judged_by.get(line.get("prompt", ""))
            if other or (verdict is not None and line.get("judged_by", verdict) != verdict):
                what = "of another policy or other settings" if other else "judged by another grader or gold answer"
                raise UserError(
                    f"{self.lines_file} has {self.answers} {what}; move it away, or give {type(self).__name__} another "
                    "path."
                )
        self._done = {line["prompt"] for line in lines if "prompt" in line}
        trainer.strategy.barrier("the lines are read")

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        assert isinstance(batch, PromptBatch)
        new_prompts = tuple(prompt for prompt in batch if prompt.key not in self._done)
        self._skipped += len(batch) - len(new_prompts)
        batch.prompts = new_prompts

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
            judged_by = {prompt.key: _judged_by(prompt) for prompt in outputs.prompts}
            lines = [
                {**line, "settings": self._settings, "judged_by": judged_by[line["prompt"]]}
                for line in self.lines(pl_module, outputs)
            ]
            append_lines(rank_file(self.lines_file, trainer.global_rank), lines)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("the lines are written")
        if self._skipped:
            log.info("%d prompts were in %s already.", self._skipped, self.lines_file)
        if trainer.is_global_zero:
            self.finish()


def _judged_by(prompt: Prompt) -> str:
    """Names what the outcomes of answers to a prompt depend on beside the answers."""
    return content_hash(prompt.grader, prompt.gold)

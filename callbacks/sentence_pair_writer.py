"""Sentence pairs of SENTINEL's bootstrapping."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from callbacks.resumable_prediction import ResumablePrediction
from lit_uniopd.diagnostics.advice import sentence_advice
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.bootstrap import Caption
from lit_uniopd.hallucination.records import caption_line, checked_prompts, pair_rows
from lit_uniopd.hallucination.report import bootstrap_report, format_report
from lit_uniopd.modules import SentenceBootstrap
from lit_uniopd.types import Prompt
from lit_uniopd.utils.jsonl import append_lines, rank_file, write_lines
from lit_uniopd.utils.write_json import write_json

log = logging.getLogger(__name__)


class SentencePairWriter(ResumablePrediction):
    """Write the pairs that ``SentenceBootstrap`` makes, in the form that ``SentencePairDataModule`` reads.

    Each caption is kept beside the pairs (`pairs.captions.jsonl` of `pairs.jsonl`) as soon as it is finished, so a
    killed run goes on with the same command and comes to the same pairs. The batch in which it was killed is captioned
    again as a whole: without its finished pictures, logits might differ in the last bit, and a sampled token with them.
    When all captions are finished, the pairs (in the order of their pictures' ids) and `pairs.report.json` are written,
    and `pairs.prompts.jsonl`: each picture with the objects of its candidates that are factual, for a teacher to read.

    A picture that cannot be read has a line with the reason; remove the line to try the picture again.

    Args:
        path: the file of pairs.
    """

    answers = "captions"

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        if self.path.suffix != ".jsonl":
            raise UserError(f"SentencePairWriter.path {path} must end in .jsonl.")
        super().__init__(self.path.with_suffix(".captions.jsonl"))
        self._detectors: list[str] = []
        self._captions: list[Mapping[str, Any]] = []

    def settings(self, pl_module: SentenceBootstrap) -> str:
        return pl_module.settings

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse another module."""
        if not isinstance(pl_module, SentenceBootstrap):
            raise UserError("SentencePairWriter writes what SentenceBootstrap finds; set --model to that module.")
        self._detectors = [detector.name for detector in pl_module.detectors]
        super().on_predict_start(trainer, pl_module)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Skip batches of which every picture has its line, but no part of a batch."""
        if all(prompt.key in self._done for prompt in batch):
            super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_caption_finished(self, trainer: Trainer, pl_module: SentenceBootstrap, caption: Caption) -> None:
        line = caption_line(caption, self._detectors)
        line["images"] = [str(Path(image).resolve()) for image in line["images"]]
        self._append(trainer, caption.prompt, line)
        self._captions.append(line)

    def on_picture_skipped(self, trainer: Trainer, pl_module: SentenceBootstrap, prompt: Prompt, reason: str) -> None:
        self._append(trainer, prompt, {"id": prompt.id, "images": list(prompt.images), "unreadable": reason})

    def _append(self, trainer: Trainer, prompt: Prompt, line: Mapping[str, Any]) -> None:
        """Write a line at once, unless a killed run has written it."""
        if prompt.key not in self._done:
            head = {"prompt": prompt.key, "settings": self._settings}
            append_lines(rank_file(self.lines_file, trainer.global_rank), [{**head, **line}])

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the progress; the captions are written already."""
        if self._captions:
            report = bootstrap_report(self._captions)
            shares = ", ".join(f"{name} {share:.0%}" for name, share in report["verdicts"].items())
            log.info("%d pictures, %d pairs; objects: %s", report["pictures"], report["pairs"], shares)

    def finish(self) -> None:
        lines = sorted(self.written_lines(), key=lambda line: (line["id"], line["prompt"]))
        captions = [line for line in lines if "unreadable" not in line]
        unreadable = [line["unreadable"] for line in lines if "unreadable" in line]
        rows = [row for caption in captions for row in pair_rows(caption)]
        prompts = checked_prompts(captions)
        report = {
            **bootstrap_report(captions, self._detectors),
            "unreadable_pictures": len(unreadable),
            "pictures_without_factual": len(captions) - len(prompts),
        }
        write_json(self.path.with_suffix(".report.json"), report)
        if unreadable and not captions:
            raise UserError(
                f"None of {len(unreadable)} pictures could be read; mend --data.predict.path (the first of them: "
                f"{unreadable[0].rstrip('.')})."
            )
        if unreadable:
            log.warning(
                "%d pictures were skipped, see %s; the first: %s", len(unreadable), self.lines_file, unreadable[0]
            )
        log.info("%s", format_report(report))
        if line := sentence_advice(report):
            log.info("%s", line)
        if not rows:
            raise UserError(
                f"None of {len(captions)} captions has a pair; sample more candidates (--model.sampling.n), or look at "
                f"the verdicts beside {self.path}: detectors that see all or nothing make no pairs."
            )
        write_lines(self.path, rows)
        log.info("%s has %d pairs.", self.path, len(rows))
        file = self.path.with_suffix(".prompts.jsonl")
        write_lines(file, prompts)
        log.info(
            "%s has %d pictures with their factual objects; %d more have none.",
            *(file, len(prompts), len(captions) - len(prompts)),
        )

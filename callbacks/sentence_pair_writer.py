"""Sentence pairs of SENTINEL's bootstrapping."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from callbacks.resumable_prediction import ResumablePrediction
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.bootstrap import Caption
from lit_uniopd.hallucination.records import caption_line, pair_rows
from lit_uniopd.hallucination.report import bootstrap_report, format_report
from lit_uniopd.modules import SentenceBootstrap
from lit_uniopd.types import Prompt
from lit_uniopd.utils.jsonl import append_lines, rank_file, read_lines, write_lines

log = logging.getLogger(__name__)


class SentencePairWriter(ResumablePrediction):
    """Write what ``SentenceBootstrap`` finds, in the form that ``SentencePairDataModule`` reads.

    Each caption is kept beside the pairs (`pairs.captions.jsonl` of `pairs.jsonl`) as soon as it is finished, so a
    killed run goes on with the same command and comes to the same pairs. The batch in which it was killed grows anew as
    a whole: with its finished pictures left out, logits might differ in the last bit, and a drawn token with them. When
    all are there, the pairs and `pairs.report.json` are written; pairs stand in the order of their pictures' ids.

    A picture that cannot be read has a line too, with the reason; take the line out to try the picture again.

    Args:
        path: the file of pairs.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        if self.path.suffix != ".jsonl":
            raise UserError(f"SentencePairWriter.path {path} must end in .jsonl.")
        super().__init__(self.path.with_suffix(".captions.jsonl"))
        self._settings = ""
        self._detectors: list[str] = []
        self._found: list[Mapping[str, Any]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to go on with captions of other settings, before any is written."""
        if not isinstance(pl_module, SentenceBootstrap):
            raise UserError("SentencePairWriter writes what SentenceBootstrap finds; set --model to that module.")
        self._settings = pl_module.settings
        self._detectors = [detector.name for detector in pl_module.detectors]
        if any(line.get("settings") != self._settings for line in read_lines(self.ledger)):
            raise UserError(
                f"{self.ledger} has captions of another policy, seed or other settings; move it away, or give "
                "SentencePairWriter another path."
            )
        super().on_predict_start(trainer, pl_module)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leave out batches of which every picture is known, but no part of a batch."""
        if all(prompt.key in self._done for prompt in batch):
            super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_caption_finished(self, trainer: Trainer, pl_module: SentenceBootstrap, caption: Caption) -> None:
        line = caption_line(caption, self._detectors)
        line["images"] = [str(Path(image).resolve()) for image in line["images"]]
        self._keep(trainer, caption.prompt, line)
        self._found.append(line)

    def on_picture_skipped(self, trainer: Trainer, pl_module: SentenceBootstrap, prompt: Prompt, reason: str) -> None:
        self._keep(trainer, prompt, {"id": prompt.id, "images": list(prompt.images), "unreadable": reason})

    def _keep(self, trainer: Trainer, prompt: Prompt, line: Mapping[str, Any]) -> None:
        """Append a line at once, unless the run that was killed has done so."""
        key = prompt.key
        if key not in self._done:
            head = {"prompt": key, "settings": self._settings}
            append_lines(rank_file(self.ledger, trainer.global_rank), [{**head, **line}])

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Tell how far it is; the captions are written already."""
        if self._found:
            rates = bootstrap_report(self._found)
            shares = ", ".join(f"{name} {share:.0%}" for name, share in rates["verdicts"].items())
            log.info("%d pictures, %d pairs; objects: %s", rates["pictures"], rates["pairs"], shares)

    def finish(self) -> None:
        known = {line["prompt"]: line for line in read_lines(self.ledger)}
        everything = sorted(known.values(), key=lambda line: (line["id"], line["prompt"]))
        lines = [line for line in everything if "unreadable" not in line]
        unreadable = [line["unreadable"] for line in everything if "unreadable" in line]
        report = {**bootstrap_report(lines, self._detectors), "unreadable_pictures": len(unreadable)}
        rows = [row for line in lines for row in pair_rows(line)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".report.json").write_text(json.dumps(report, indent=2) + "\n")
        if unreadable and not lines:
            raise UserError(
                f"None of {len(unreadable)} pictures could be read; mend --data.predict.path (the first of them: "
                f"{unreadable[0].rstrip('.')})."
            )
        if unreadable:
            log.warning("%d pictures were skipped, see %s; the first: %s", len(unreadable), self.ledger, unreadable[0])
        log.info("%s", format_report(report))
        if not rows:
            raise UserError(
                f"None of {len(lines)} captions has a pair; sample more candidates (--model.sampling.n), or look at "
                f"the verdicts beside {self.path}: detectors that see all or nothing make no pairs."
            )
        write_lines(self.path, rows)
        log.info("%s has %d pairs.", self.path, len(rows))

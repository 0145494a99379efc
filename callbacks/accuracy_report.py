"""Accuracy per domain: the student before and after, beside its teachers."""

import json
import os
import time
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from lit_uniopd import STARTED
from lit_uniopd.errors import UserError
from lit_uniopd.modules.averages import Averages
from lit_uniopd.modules.uni_opd import UniOPD
from lit_uniopd.types import PromptBatch, Rollouts

Scores = dict[str, float]


class AccuracyReport(Callback):
    """A table and `summary.json` at the end of a run; the teachers' scores as reference lines in TensorBoard.

    The sanity check before training is the first measurement, so `trainer.num_sanity_val_steps` must be -1. Teachers
    answer the same held-out prompts in the same way, each those that it teaches.
    """

    def __init__(self) -> None:
        self.before: Scores = {}
        self.after: Scores = {}
        self.teachers: Scores = {}
        self.after_step = 0
        self.earlier_seconds = 0.0
        self._teacher_averages = Averages()
        self._finished_run: Path | None = None

    def setup(self, trainer: Trainer, pl_module: UniOPD, stage: str) -> None:  # type: ignore[override]
        if stage == "fit" and trainer.num_sanity_val_steps != float("inf"):
            raise UserError("callbacks.AccuracyReport measures before training; set --trainer.num_sanity_val_steps -1.")

    def on_validation_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: UniOPD,
        outputs: Rollouts | None,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            return
        for name in pl_module.teachers:
            prompts = [prompt for prompt in batch if pl_module.teachers.route(prompt) == name]
            if prompts:
                self._grade_teacher(pl_module, name, PromptBatch(prompts), batch_idx)

    def _grade_teacher(self, module: UniOPD, name: str, batch: PromptBatch, batch_idx: int) -> None:
        answers = module.answer(module.teachers[name], batch, module.val_sampling, "val", batch_idx)
        for prompt, grade in zip(answers.prompts, answers.grades, strict=True):
            self._teacher_averages.add(prompt.domain, bool(grade.correct), grade.correct is not None)

    def on_validation_end(self, trainer: Trainer, pl_module: UniOPD) -> None:  # type: ignore[override]
        scores = pl_module.val_scores
        if trainer.sanity_checking:
            self._teacher_averages.expect(*pl_module.domains)
            self.before, self.teachers = scores, self._teacher_averages.reduce(pl_module)
        elif trainer.state.fn == "fit":
            self.after, self.after_step = scores, trainer.global_step
        logger = trainer.logger
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            if trainer.sanity_checking:
                logger.log_metrics({f"val/{domain}/accuracy": score for domain, score in scores.items()}, step)
            self._draw_teachers(Path(logger.log_dir), step)

    def _draw_teachers(self, log_dir: Path, step: int) -> None:
        if not self.teachers:
            return
        # A run of its own below the student's: TensorBoard draws equal tags of different runs into one chart.
        with SummaryWriter(log_dir / "teachers") as writer:
            for domain, score in self.teachers.items():
                writer.add_scalar(f"val/{domain}/accuracy", score, step)

    def on_train_end(self, trainer: Trainer, pl_module: UniOPD) -> None:  # type: ignore[override]
        if not trainer.is_global_zero or not self.after:
            return
        run = Path(trainer.log_dir or trainer.default_root_dir)
        summary = {
            "before": self.before,
            "after": self.after,
            "teachers": self.teachers,
            "step": self.after_step,
            "seconds": round(self.seconds, 1),
            "seed": pl_module.seed,
        }
        run.mkdir(parents=True, exist_ok=True)
        (run / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        self._finished_run = run

    def teardown(self, trainer: Trainer, pl_module: UniOPD, stage: str) -> None:  # type: ignore[override]
        if self._finished_run is not None:
            if trainer.progress_bar_callback is not None:  # it would draw itself once more, below the table
                trainer.progress_bar_callback.teardown(trainer, pl_module, stage)
            self.print_table(Console(), self._finished_run)
            self._finished_run = None

    @property
    def seconds(self) -> float:
        """Wall time of the run, with that of the runs it resumed."""
        return self.earlier_seconds + time.time() - STARTED

    def print_table(self, console: Console, run: Path) -> None:
        """Show the scores and how to look at the curves."""
        table = Table(title=f"Accuracy on held-out prompts (step {self.after_step}, {self.seconds:.0f} s)")
        for column in ("domain", "student before", "student after", "teacher"):
            table.add_column(column, justify="left" if column == "domain" else "right")
        for domain in sorted(self.after):
            scores = [source.get(domain) for source in (self.before, self.after, self.teachers)]
            table.add_row(domain, *("-" if score is None else f"{score:.1%}" for score in scores))
        console.print(table)
        console.print(f"Curves:  tensorboard --logdir {os.path.relpath(run)}", soft_wrap=True)

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before, "teachers": self.teachers, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before, self.teachers = state_dict["before"], state_dict["teachers"]
        self.earlier_seconds = state_dict["seconds"]

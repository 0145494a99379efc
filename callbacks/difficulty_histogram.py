"""How offline balancing changes the difficulty of the training prompts, as a figure."""

from lightning import Callback, LightningModule, Trainer

from lit_uniopd.diagnostics import difficulty_figure
from lit_uniopd.errors import UserError
from lit_uniopd.monitoring.media import log_figure, log_histogram
from lit_uniopd.utils.run_directory import run_directory
from lit_uniopd.utils.trainer_data import TrainerData


class DifficultyHistogram(Callback):
    """Draw prompts by difficulty before and after balancing, in the loggers and as `difficulty.png` of the run."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = run_directory(trainer)
        report = TrainerData(trainer).difficulty_report
        if report is None:
            raise UserError("DifficultyHistogram has nothing to draw: set --data.difficulty.path, or leave it out.")
        if not trainer.is_global_zero:
            return
        figure = difficulty_figure(report.before, report.after)
        directory.mkdir(parents=True, exist_ok=True)
        figure.savefig(directory / "difficulty.png", dpi=110)
        log_figure(trainer, "data/difficulty", figure)
        for when, counts in (("before", report.before), ("after", report.after)):
            right_answers = [answers for answers, prompts in enumerate(counts) for _ in range(prompts)]
            edges = [answers - 0.5 for answers in range(len(counts) + 1)]  # a bin for each number of right answers
            log_histogram(trainer, f"data/difficulty_{when}", right_answers, edges=edges)

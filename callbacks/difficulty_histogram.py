"""How offline balancing changes the difficulty of the training prompts, as a figure."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lit_uniopd.diagnostics import difficulty_figure
from lit_uniopd.errors import UserError
from lit_uniopd.utils.run_directory import run_directory
from lit_uniopd.utils.trainer_data import TrainerData


class DifficultyHistogram(Callback):
    """Draw prompts by difficulty before and after balancing, in TensorBoard and as `difficulty.png` of the run."""

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
        if isinstance(trainer.logger, TensorBoardLogger):
            writer = trainer.logger.experiment
            writer.add_figure("data/difficulty", figure, trainer.global_step)
            for when, counts in (("before", report.before), ("after", report.after)):
                # One bucket for each number of right answers.
                writer.add_histogram_raw(
                    f"data/difficulty_{when}",
                    min=0,
                    max=len(counts) - 1,
                    num=sum(counts),
                    sum=sum(i * n for i, n in enumerate(counts)),
                    sum_squares=sum(i * i * n for i, n in enumerate(counts)),
                    bucket_limits=[i + 0.5 for i in range(len(counts))],
                    bucket_counts=counts,
                    global_step=trainer.global_step,
                )

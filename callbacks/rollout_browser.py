"""A few rollouts as text in TensorBoard."""

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lit_uniopd.markdown import asked, cell, table
from lit_uniopd.types import Rollouts

OUTCOMES = {1: "correct", 0: "incorrect", -1: "unknown"}


class RolloutBrowser(Callback):
    """Show the best and the worst answer of each domain, by mean token advantage, every few steps.

    Args:
        every_n_steps: training steps between two looks.
        max_chars: longer prompts and answers are cut in the middle.
    """

    def __init__(self, every_n_steps: int = 10, max_chars: int = 1500) -> None:
        self.every_n_steps = every_n_steps
        self.max_chars = max_chars

    def on_rollouts_scored(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> None:
        """Write the table; the step is that of the curves."""
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        if step % self.every_n_steps or not isinstance(trainer.logger, TensorBoardLogger):
            return
        for domain in sorted(set(rollouts.domain)):
            rows = [row for row, name in enumerate(rollouts.domain) if name == domain]
            text = self.table(rollouts, rows)
            trainer.logger.experiment.add_text(f"rollout/{domain}", text, step)

    def table(self, rollouts: Rollouts, rows: list[int]) -> str:
        """Markdown table of the worst and the best of these rows."""
        sums_B = (rollouts.advantages_BT * rollouts.mask_BT).sum(dim=1)
        returns = (sums_B / rollouts.lengths_B.clamp(min=1)).tolist()
        ranked = sorted(rows, key=lambda row: returns[row])
        shown = []
        for row in dict.fromkeys([ranked[-1], ranked[0]]):
            prompt = rollouts.prompts[row]
            shown.append(
                [
                    f"{returns[row]:+.3f}",
                    OUTCOMES[int(rollouts.outcome_B[row])],
                    f"{int(rollouts.lengths_B[row])} ({rollouts.finish[row]})",
                    cell(asked(prompt), self.max_chars),
                    cell(rollouts.text[row], self.max_chars),
                    cell(str(prompt.gold), self.max_chars),
                ]
            )
        return table(["mean advantage", "outcome", "tokens", "prompt", "answer", "gold"], shown)

"""A few rollouts as text in TensorBoard."""

import re

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

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
        lines = ["| mean advantage | outcome | tokens | prompt | answer | gold |", "|---|---|---|---|---|---|"]
        for row in dict.fromkeys([ranked[-1], ranked[0]]):
            prompt = rollouts.prompts[row]
            cells = [
                f"{returns[row]:+.3f}",
                OUTCOMES[int(rollouts.outcome_B[row])],
                f"{int(rollouts.lengths_B[row])} ({rollouts.finish[row]})",
                self.cell(str(prompt.messages[-1]["content"])),
                self.cell(rollouts.text[row]),
                self.cell(str(prompt.gold)),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def cell(self, text: str) -> str:
        """Model text must neither break the table nor become markup."""
        if len(text) > self.max_chars:
            half = self.max_chars // 2
            text = f"{text[:half]} ... {len(text) - 2 * half} characters ... {text[-half:]}"
        return re.sub(r"[^\w\s.,:;=+/%()?'\"-]|_", lambda mark: f"&#{ord(mark[0])};", text).replace("\n", "<br>")

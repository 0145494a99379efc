"""A few rollouts as tables of the run's loggers."""

from lightning import Callback, LightningModule, Trainer
from transformers import PreTrainedTokenizerBase

from lit_uniopd.errors import UserError
from lit_uniopd.functional.grouped_returns import trajectory_returns
from lit_uniopd.modules import UniOPD
from lit_uniopd.monitoring.media import log_table, shows_media
from lit_uniopd.monitoring.step_interval import rollout_passes_multiple
from lit_uniopd.types import Rollouts
from lit_uniopd.utils.lightning_internals import logged_step
from lit_uniopd.utils.markdown import cell, last_message_text, table
from lit_uniopd.view.records import token_pieces

OUTCOMES = {1: "correct", 0: "incorrect", -1: "unknown"}


class RolloutBrowser(Callback):
    """Show the best and the worst answer of each domain, by mean token advantage, every few steps.

    A second table has the tokens of these answers on which teacher and student differ most.

    Args:
        every_n_steps: optimizer steps between two tables, of which a rollout may take several; the first rollout has
            one.
        max_chars: longer prompts and answers are cut in the middle.
        tokens: of each answer in the second table; 0: no such table.
    """

    def __init__(self, every_n_steps: int = 10, max_chars: int = 1500, tokens: int = 12) -> None:
        if every_n_steps < 1:
            raise UserError(f"RolloutBrowser.every_n_steps must be at least 1, got {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self.max_chars = max_chars
        self.tokens = tokens

    def on_rollouts_scored(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> None:
        """Write the table; the step is that of the curves."""
        step = logged_step(trainer)
        if not rollout_passes_multiple(trainer, self.every_n_steps) or not shows_media(trainer):
            return
        for domain in sorted(set(rollouts.domain)):
            rows = [row for row, name in enumerate(rollouts.domain) if name == domain]
            log_table(trainer, f"rollout/{domain}", self.table(rollouts, rows), step)
            if self.tokens and isinstance(pl_module, UniOPD):
                tokens = self.token_table(rollouts, rows, pl_module.policy.tokenizer)
                log_table(trainer, f"rollout_tokens/{domain}", tokens, step)

    def table(self, rollouts: Rollouts, rows: list[int]) -> str:
        """Markdown table of the worst and the best of these rows."""
        returns = trajectory_returns(rollouts.advantages_BT, rollouts.mask_BT).tolist()
        lines = []
        for row in _best_and_worst(rows, returns):
            prompt = rollouts.prompts[row]
            lines.append(
                [
                    f"{returns[row]:+.3f}",
                    OUTCOMES[int(rollouts.outcome_B[row])],
                    f"{int(rollouts.lengths_B[row])} ({rollouts.finish[row]})",
                    cell(last_message_text(prompt), self.max_chars),
                    cell(rollouts.text[row], self.max_chars),
                    cell(str(prompt.gold), self.max_chars),
                ]
            )
        return table(["mean advantage", "outcome", "tokens", "prompt", "answer", "gold"], lines)

    def token_table(self, rollouts: Rollouts, rows: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
        """Markdown table of the same answers' tokens with the largest advantages, in the order of the text."""
        returns = trajectory_returns(rollouts.advantages_BT, rollouts.mask_BT).tolist()
        lines = []
        for row in _best_and_worst(rows, returns):
            length = int(rollouts.lengths_B[row])
            pieces = token_pieces(tokenizer, rollouts.tokens_BT[row, :length].tolist())
            student, teacher, advantage = (
                values_BT[row, :length].tolist()
                for values_BT in (rollouts.student_logps_BT, rollouts.teacher_logps_BT, rollouts.advantages_BT)
            )
            for t in sorted(sorted(range(length), key=lambda t: -abs(advantage[t]))[: self.tokens]):
                lines.append(
                    [
                        f"{returns[row]:+.3f}",
                        str(t + 1),
                        cell("".join(pieces[max(0, t - 12) : t])),
                        cell(repr(pieces[t])),
                        f"{student[t]:.3f}",
                        f"{teacher[t]:.3f}" if rollouts.teacher_ok_B[row] and rollouts.scored_BT[row, t] else "none",
                        f"{advantage[t]:+.3f}",
                    ]
                )
        header = ["answer (mean advantage)", "token", "behind", "text", "log p student", "log p teacher", "advantage"]
        return table(header, lines)


def _best_and_worst(rows: list[int], returns: list[float]) -> list[int]:
    ranked = sorted(rows, key=lambda row: returns[row])
    return list(dict.fromkeys([ranked[-1], ranked[0]]))

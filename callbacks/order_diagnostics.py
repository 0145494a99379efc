"""Whether teachers rank right answers above wrong ones, before and after calibration."""

from dataclasses import asdict
from typing import Any

import torch
from lightning import Callback, Trainer

from lit_uniopd.diagnostics import Judged, judge, misjudged_table, order_figure, order_statistics
from lit_uniopd.diagnostics.advice import OrderTotals
from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd.uni_opd import UniOPD
from lit_uniopd.monitoring.media import log_figure, log_histogram, log_table, shows_media
from lit_uniopd.monitoring.step_interval import rollout_passes_multiple
from lit_uniopd.monitoring.step_log import log_values
from lit_uniopd.monitoring.tensorboard_layout import Charts
from lit_uniopd.types import CORRECT, INCORRECT, Rollouts
from lit_uniopd.utils.lightning_internals import logged_step
from lit_uniopd.utils.trainer_data import TrainerData


class OrderDiagnostics(Callback):
    """Log the quantities of Uni-OPD's argument: order consistency, inversions, margins, returns, misjudged answers.

    Put it behind `MarginCalibration`: `before` is what the teachers say, `after` what is trained on. Every step logs,
    over all ranks, `order/{mixed, all_correct, all_incorrect}` (shares of groups), `consistent` (share of mixed groups
    whose right answers all return at least as much as their wrong ones), `inversions` (share of pairs), `margin`,
    `return_correct` and `return_incorrect`, each `_before` and `_after`, and `shift` and `masked`; also for each
    domain, teacher and difficulty. Figures, histograms and the table of misjudged answers show rank 0's answers.
    When the run has ended, lines say whether calibration and balancing have something to do
    (`lit_uniopd/diagnostics/advice.py`).

    Args:
        every_n_steps: optimizer steps between two figures, of which a rollout may take several; each shows all rollouts
            since the last.
        examples: overestimated and underestimated answers in the table.
    """

    def __init__(self, every_n_steps: int = 10, examples: int = 3) -> None:
        if every_n_steps < 1:
            raise UserError(f"OrderDiagnostics.every_n_steps must be at least 1, got {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self.examples = examples
        self.totals = OrderTotals()
        self._judged: list[Judged] = []

    def essential_charts(self) -> Charts:
        """Order and margins, before and after calibration."""
        return {
            "Order consistency (share of mixed groups)": ["order/consistent_before", "order/consistent_after"],
            "Inverted pairs (share)": ["order/inversions_before", "order/inversions_after"],
            "Return of right and wrong answers (nats per token)": [
                *("order/return_correct_before", "order/return_incorrect_before"),
                *("order/return_correct_after", "order/return_incorrect_after"),
            ],
        }

    def on_rollouts_scored(self, trainer: Trainer, pl_module: UniOPD, rollouts: Rollouts) -> None:
        """Log this rollout. A collective call."""
        judged = judge(rollouts)
        prompts = [rollouts.prompts[row] for row in judged.rows.tolist()]
        labels = {"domain": [prompt.domain for prompt in prompts]}
        names: dict[str, Any] = {"domain": pl_module.domains}
        if pl_module.teachers:
            labels["teacher"] = [pl_module.teachers.route(prompt) for prompt in prompts]
            names["teacher"] = pl_module.teachers.names
        statistics = order_statistics(judged, labels, names)
        statistics.add("removed", (~rollouts.keep_B).sum(), len(rollouts))
        means = statistics.reduce(pl_module)
        removed = means.pop("removed", 0.0)  # a curve of its own, `rollout/removed`
        log_values(trainer, means)
        self.totals.add(means, groups=len(judged.group_B.unique()), removed=removed)
        if not trainer.is_global_zero:
            return
        self._judged.append(judged)
        step = logged_step(trainer)
        if rollout_passes_multiple(trainer, self.every_n_steps):
            if shows_media(trainer):
                self._write(trainer, rollouts, judged, step)
            self._judged.clear()

    def _write(self, trainer: Trainer, rollouts: Rollouts, judged: Judged, step: int) -> None:
        """Figures of all rollouts since the last time, and the table of the latest."""
        for when in ("before", "after"):
            for name, outcome in (("correct", CORRECT), ("incorrect", INCORRECT)):
                returns = [getattr(rollout, f"{when}_B")[rollout.outcome_B == outcome] for rollout in self._judged]
                log_histogram(trainer, f"order/returns_{name}_{when}", torch.cat(returns), step)
            margins = [r.order(r.rows >= 0, after=when == "after").margin_mean for r in self._judged]
            log_histogram(trainer, f"order/margins_{when}", torch.cat(margins), step)
        figure = order_figure(self._judged)
        if figure is not None:
            log_figure(trainer, "order/returns_and_margins", figure, step)
        text = misjudged_table(rollouts, judged, count=self.examples)
        if text:
            log_table(trainer, "order/misjudged", text, step)

    def advice(self, trainer: Trainer) -> list[str]:
        """What the run's order says of calibration and balancing."""
        calibrates = any(getattr(callback, "changes_advantages", False) for callback in TrainerData(trainer).callbacks)
        return self.totals.advice(calibrates=calibrates)

    def state_dict(self) -> dict[str, Any]:
        return {"totals": asdict(self.totals)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.totals = OrderTotals(**state_dict["totals"])

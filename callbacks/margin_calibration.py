"""Outcome-guided margin calibration of the teachers' token scores (Uni-OPD, section on margin calibration)."""

from typing import Any, Literal

import torch.distributed as dist
from lightning import Callback, Trainer
from torch import Tensor

from lit_uniopd.errors import UserError
from lit_uniopd.functional.margin import (
    Direction,
    MarginResult,
    Scope,
    Statistic,
    margin_discard,
    margin_mask,
    margin_shift,
)
from lit_uniopd.functional.opd import within_gap
from lit_uniopd.modules.opd.losses import never_gap_masked
from lit_uniopd.modules.opd.uni_opd import UniOPD
from lit_uniopd.monitoring.step_log import log_values
from lit_uniopd.monitoring.tensorboard_layout import Charts
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.types import Rollouts

Variant = Literal["shift", "mask", "discard"]
Samples = Literal["trained", "all"]


class MarginCalibration(Callback):
    """Make the teachers' aggregated scores rank right answers above wrong ones before the student learns from them.

    Where the correct answers to a prompt do not return ``delta`` more per token than the incorrect ones, the two sets
    are shifted apart by a constant, or the scores of the worst answers, or of all of them, are set to 0. Groups without
    correct or without incorrect answers stay as they are. The defaults are those of the paper's text experiments; its
    multimodal ones have `direction: correct_up, delta: 0.0`.

    Logs, over all ranks: `calibration/{violated, mixed, margin_before, margin_after, shift, masked}`.

    Args:
        variant: shift: move whole answers by a constant; mask: greedily drop the worst answers; discard: drop all
            answers to the prompt, as in the paper's first version.
        direction: which answers a shift moves: correct_up (Lift), incorrect_down (Drop) or both (Spread).
        delta: required margin in nats per token. Typical returns are about 0.3, so 0.4 shifts nearly every mixed group.
        scope: margins per prompt (group), or one over the whole rollout (global).
        statistic: mean: difference of mean returns (the paper's experiments); minmax: worst correct minus best
            incorrect (the paper's text).
        min_retain: smallest share of each set that a mask leaves.
        samples: whose returns make the margins. trained: answers and tokens that the loss uses; all: also those that
            balancing removed, that no teacher scored or whose tokens exceed the gap threshold, as in the released code.
            `loss.keep_tokens` chooses at the update, so margins are of all tokens in any case.
    """

    needs_outcomes = True
    """Without outcomes there is no margin: the module then stops or warns."""
    changes_advantages = True
    """Only the sampled loss reads them: the module refuses the others."""

    def __init__(
        self,
        variant: Variant = "shift",
        direction: Direction = "both",
        delta: float = 0.4,
        scope: Scope = "group",
        statistic: Statistic = "mean",
        min_retain: float = 0.25,
        samples: Samples = "trained",
    ) -> None:
        if not 0 <= min_retain <= 1:
            raise UserError(f"MarginCalibration.min_retain must be in [0, 1], not {min_retain}.")
        if variant == "mask" and min_retain == 1:
            raise UserError("MarginCalibration.min_retain 1 leaves every answer, so a mask does nothing; lower it.")
        if variant == "discard" and scope == "global":
            raise UserError(
                "MarginCalibration.variant discard would drop the whole rollout with scope global; set scope to group."
            )
        self.variant = variant
        self.direction: Direction = direction
        self.delta = delta
        self.scope: Scope = scope
        self.statistic: Statistic = statistic
        self.min_retain = min_retain
        self.samples = samples
        self.totals = {"rollouts": 0, "groups": 0, "mixed": 0, "violated": 0, "masked": 0}

    def on_rollouts_scored(self, trainer: Trainer, pl_module: UniOPD, rollouts: Rollouts) -> None:
        """Calibrate ``rollouts.advantages_BT`` in place. A collective call: groups may be split over ranks."""
        spared_BT = never_gap_masked(rollouts, pl_module.loss, pl_module.policy.eos_ids)
        result = self.calibrate(rollouts, gap_threshold=pl_module.loss.gap_threshold, never_gap_masked_BT=spared_BT)
        rollouts.advantages_BT = result.advantages
        self._log(trainer, pl_module, result)

    def calibrate(
        self, rollouts: Rollouts, *, gap_threshold: float | None = None, never_gap_masked_BT: Tensor | None = None
    ) -> MarginResult:
        """Calibrated advantages and margins of rollouts, which stay as they are.

        Args:
            rollouts: graded and scored.
            gap_threshold: tokens on which student and teacher differ by this much or more are not trained.
            never_gap_masked_BT: tokens that train in spite of the threshold; None: there are none.
        """
        mask_BT, include_B = self._trained(rollouts, gap_threshold, never_gap_masked_BT)
        common: dict[str, Any] = {
            "statistic": self.statistic,
            "delta": self.delta,
            "include_B": include_B,
            "process_group": dist.group.WORLD if dist.is_available() and dist.is_initialized() else None,
        }
        samples = (rollouts.advantages_BT, mask_BT, rollouts.outcome_B, rollouts.group_B)
        if self.variant == "discard":
            return margin_discard(*samples, **common)
        if self.variant == "mask":
            return margin_mask(*samples, min_retain=self.min_retain, scope=self.scope, **common)
        return margin_shift(*samples, direction=self.direction, scope=self.scope, **common)

    def _trained(
        self, rollouts: Rollouts, gap_threshold: float | None, never_gap_masked_BT: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.samples == "all":
            return rollouts.mask_BT, None
        mask_BT = rollouts.scored_BT
        if gap_threshold is not None:
            logps = (rollouts.student_logps_BT, rollouts.teacher_logps_BT)
            mask_BT = mask_BT & within_gap(*logps, gap_threshold, never_gap_masked_BT)
        # An answer with no token left has no return; the 0 of an empty mean would count as one.
        return mask_BT, rollouts.keep_B & rollouts.teacher_ok_B & mask_BT.any(dim=1)

    def essential_charts(self) -> Charts:
        """Margins before and after, and how often they were violated."""
        margins = ["calibration/margin_before", "calibration/margin_after"]
        return {
            "Margin of mixed groups, before and after calibration": margins,
            "Groups whose order the teachers violate (share of mixed ones)": ["calibration/violated"],
        }

    def _log(self, trainer: Trainer, module: UniOPD, result: MarginResult) -> None:
        mixed = len(result.groups)
        counts = {"rollouts": 1, "groups": result.n_groups, "mixed": mixed, "violated": result.violations}
        counts["masked"] = int(result.masked_B.sum())
        for name, count in counts.items():
            self.totals[name] += count
        values = {"calibration/mixed": mixed / max(result.n_groups, 1)}
        if mixed:
            values |= {
                "calibration/violated": result.violations / mixed,
                "calibration/margin_before": float(result.margin_before.mean()),
            }
        if len(result.margin_after):  # all mixed groups may have been discarded
            values["calibration/margin_after"] = float(result.margin_after.mean())
        # The margins are those of all ranks; shifts and masks are this rank's.
        means = WeightedMeans()
        means.add("calibration/shift", result.shift_B.abs().sum(), len(result.shift_B))
        means.add("calibration/masked", result.masked_B.sum(), len(result.masked_B))
        log_values(trainer, values | means.reduce(module))

    def state_dict(self) -> dict[str, Any]:
        return {"totals": dict(self.totals)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.totals = dict(state_dict["totals"])

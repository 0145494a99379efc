"""Do the teachers rank right answers above wrong ones? (Uni-OPD, App. B.3)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_uniopd.functional.grouped_returns import trajectory_returns
from lit_uniopd.functional.order import OrderReport, order_consistency
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.types import CORRECT, INCORRECT, UNKNOWN, Rollouts

BINS = ("hard", "medium", "easy")
"""Mixed groups with up to a third, up to two thirds, or more of their answers right."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The answers of a rollout that have an outcome and teacher scores; all tensors on the CPU."""

    rows: Tensor
    """Their places in the rollout."""
    before_B: Tensor
    """Return before calibration: the mean of ``log p_T - log p_S``."""
    after_B: Tensor
    """Return after calibration: the mean of the advantages that are trained on."""
    masked_B: Tensor
    """Bool: calibration masked the answer; every advantage is 0."""
    outcome_B: Tensor
    group_B: Tensor
    bin: list[str]
    """The difficulty of each answer's group: one of ``BINS``, or empty if all its answers are right, or all wrong."""

    def order(self, which: Tensor, *, after: bool) -> OrderReport:
        """Order consistency of some of the answers."""
        returns_B = self.after_B if after else self.before_B
        return order_consistency(returns_B[which], self.outcome_B[which], self.group_B[which])


def judge(rollouts: Rollouts) -> Judged:
    """The returns before and after calibration of every answer that has an outcome and was scored."""
    usable_B = rollouts.teacher_ok_B & (rollouts.outcome_B != UNKNOWN) & (rollouts.lengths_B > 0)
    log_ratio_BT = (rollouts.teacher_logps_BT - rollouts.student_logps_BT) * rollouts.scored_BT
    before_B = trajectory_returns(log_ratio_BT, rollouts.scored_BT)[usable_B].cpu()
    after_B = trajectory_returns(rollouts.advantages_BT, rollouts.scored_BT)[usable_B].cpu()
    masked_B = ((rollouts.advantages_BT == 0).all(dim=1) & (log_ratio_BT != 0).any(dim=1))[usable_B].cpu()
    outcome_B, group_B = rollouts.outcome_B[usable_B].cpu(), rollouts.group_B[usable_B].cpu()
    numbers, index_B = group_B.unique(return_inverse=True)
    right_G = torch.zeros(len(numbers)).index_add(0, index_B, (outcome_B == CORRECT).float())
    rate_G = (right_G / torch.zeros(len(numbers)).index_add(0, index_B, torch.ones(len(outcome_B)))).tolist()
    names = ["" if rate in (0.0, 1.0) else BINS[min(int(rate * 3 - 1e-6), 2)] for rate in rate_G]
    bins = [names[i] for i in index_B.tolist()]
    return Judged(usable_B.nonzero()[:, 0].cpu(), before_B, after_B, masked_B, outcome_B, group_B, bins)


def order_statistics(
    judged: Judged, labels: Mapping[str, Sequence[str]], names: Mapping[str, Iterable[str]]
) -> WeightedMeans:
    """Averages to log as ``order/...``, overall and for each value of each label.

    Args:
        judged: the answers.
        labels: kind (``domain``, ``teacher``) -> the value of each answer of ``judged``.
        names: kind -> every value there is, so that all ranks average the same names.
    """
    averages = WeightedMeans()
    every_B = torch.ones(len(judged.rows), dtype=torch.bool)
    _add(averages, "order", judged, every_B)
    for kind, values in {**labels, "difficulty": judged.bin}.items():
        for name in BINS if kind == "difficulty" else names[kind]:
            which_B = torch.tensor([value == name for value in values]).bool()
            _add(averages, f"order/{kind}/{name}", judged, which_B, kinds_of_groups=kind != "difficulty")
    return averages


def _add(averages: WeightedMeans, tag: str, judged: Judged, which_B: Tensor, *, kinds_of_groups: bool = True) -> None:
    """Shares of groups, order, returns and what calibration did, over the chosen answers."""
    before, after = judged.order(which_B, after=False), judged.order(which_B, after=True)
    mixed = len(before.groups)
    if kinds_of_groups:
        averages.add(f"{tag}/mixed", mixed, before.n_groups)
        averages.add(f"{tag}/all_correct", before.all_correct, before.n_groups)
        averages.add(f"{tag}/all_incorrect", before.all_incorrect, before.n_groups)
    for when, report, returns_B in (("before", before, judged.before_B), ("after", after, judged.after_B)):
        averages.add(f"{tag}/consistent_{when}", (report.margin_minmax >= 0).sum(), mixed)
        averages.add(f"{tag}/inversions_{when}", report.inversions.sum(), report.pairs.sum())
        averages.add(f"{tag}/margin_{when}", report.margin_mean.sum(), mixed)
        for name, outcome in (("correct", CORRECT), ("incorrect", INCORRECT)):
            rows = which_B & (judged.outcome_B == outcome)
            averages.add(f"{tag}/return_{name}_{when}", returns_B[rows].sum(), rows.sum())
    unmasked_B = which_B & ~judged.masked_B
    averages.add(f"{tag}/shift", (judged.after_B - judged.before_B)[unmasked_B].abs().sum(), unmasked_B.sum())
    averages.add(f"{tag}/masked", judged.masked_B[which_B].sum(), which_B.sum())

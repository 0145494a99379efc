"""What a run's own numbers say of the parts of its method, held against what the laboratories measured.

Every threshold is a number of a laboratory, on tiny models and made tasks (docs/results.md): it says what was seen
there at such a number, and no more. Callbacks hand these lines out by a method ``advice(trainer)``; a ``fit`` prints
them when it has ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INVERSIONS_WITHOUT_GAIN = 0.12
"""Share of misordered pairs, as a mean over the run, up to which calibration changed nothing in any world of Uni-OPD's
laboratory: plain distillation's by reliable teachers."""
INVERSIONS_WITHOUT_LONG_TRAINING = 0.28
"""The same of teachers that get worse, in 40 rollouts: calibration changed nothing there either."""
INVERSIONS_WITH_GAIN = (0.32, 0.39)
"""The same where calibration with delta 2 gained: of teachers that never saw half of what can be confused, in 40
rollouts, and of those that get worse, in 120."""
REMOVED_AT_A_LOSS = 0.25
"""Share of the answers that online balancing left out where accuracy came out lower: about a quarter."""
MIXED_ENOUGH = 0.5
"""Share of groups with right and wrong answers; balancing and calibration act on no others. Half is no measurement."""
QUALITY_ALIKE = 0.96
"""Effective share of the quality weights from which they made no difference of .025 in Omni-DPO's laboratory: .97 in
its three worlds."""
PAIRS_ENOUGH = 1000
"""Sentence pairs with which SENTINEL's laboratory removed 94 % of the hallucinated mentions (250: 72 %, 2700: 98 %)."""
ENOUGH = 100
"""Groups or pairs of which a share is worth speaking; a rule of thumb."""


@dataclass
class OrderTotals:
    """Running totals of what a run's rollouts were like: groups of this rank, shares of all ranks."""

    rollouts: int = 0
    groups: int = 0
    mixed: float = 0.0
    """Sum over rollouts of the share of groups that are mixed."""
    removed: float = 0.0
    """The same of the answers that are left out."""
    ordered: int = 0
    """Rollouts with a pair of a right and a wrong answer."""
    inversions: float = 0.0
    """Sum over those of the share of misordered pairs."""

    def add(self, logged: Mapping[str, float], *, groups: int, removed: float) -> None:
        """Count a rollout.

        Args:
            logged: ``order/...`` of the rollout, over all ranks.
            groups: with an outcome, of this rank.
            removed: share of the answers that were left out, over all ranks.
        """
        self.rollouts += 1
        self.groups += groups
        self.removed += removed
        self.mixed += logged.get("order/mixed", 0.0)
        if (share := logged.get("order/inversions_before")) is not None:
            self.ordered += 1
            self.inversions += share

    def advice(self, *, calibrates: bool) -> list[str]:
        """Lines for the owner of the run; none before there was enough of it.

        Args:
            calibrates: whether something of the run changes advantages.
        """
        if self.groups < ENOUGH:
            return []
        lines = [groups_advice(self.mixed / self.rollouts)]
        if self.ordered:
            lines.append(calibration_advice(self.inversions / self.ordered, calibrates=calibrates))
        lines.append(balancing_advice(self.removed / self.rollouts))
        return [line for line in lines if line]


def calibration_advice(inversions: float, *, calibrates: bool) -> str:
    """Whether margin calibration has something to do.

    Args:
        inversions: share of pairs of a right and a wrong answer that the teachers order wrongly.
        calibrates: whether the run does calibrate.

    Example:
        >>> calibration_advice(0.05, calibrates=True)
        'calibration: 5% of the graded pairs are misordered; it changes (almost) nothing here and can be left out.'
    """
    misordered = f"calibration: {inversions:.0%} of the graded pairs are misordered"
    if inversions <= INVERSIONS_WITHOUT_GAIN:
        verdict = "changes (almost) nothing here and can be left out" if calibrates else "would change (almost) nothing"
        return f"{misordered}; it {verdict}{'' if calibrates else ' here'}."
    if calibrates:
        return ""
    gained = " and ".join(f"{share:.0%}" for share in INVERSIONS_WITH_GAIN)
    return (
        f"{misordered}; callbacks.MarginCalibration would act on them. In the laboratory accuracy rose at {gained} "
        f"(delta 2), and not at {INVERSIONS_WITHOUT_LONG_TRAINING:.0%}."
    )


def groups_advice(mixed: float) -> str:
    """Whether most groups are out of reach of balancing and calibration.

    Args:
        mixed: share of groups with right and with wrong answers.

    Example:
        >>> groups_advice(0.9)
        ''
    """
    if mixed >= MIXED_ENOUGH:
        return ""
    return (
        f"groups: the answers to {1 - mixed:.0%} of the prompts are all right or all wrong; balancing and calibration "
        "leave those alone. More answers a prompt, or prompts of medium difficulty, make fewer of them."
    )


def balancing_advice(removed: float) -> str:
    """Whether online balancing leaves out as much as where it was seen to cost accuracy.

    Args:
        removed: share of the answers.

    Example:
        >>> balancing_advice(0.1)
        ''
    """
    if removed < REMOVED_AT_A_LOSS:
        return ""
    return (
        f"balancing: {removed:.0%} of the answers were left out. In the laboratory accuracy came out lower where "
        f"online balancing left out {REMOVED_AT_A_LOSS:.0%}; a run without it tells."
    )


def quality_advice(share: float, pairs: int) -> str:
    """Whether Omni-DPO's quality weights are as even as where they made no difference.

    Args:
        share: effective share of the quality weights, ``(sum w)^2 / (P sum w^2)``.
        pairs: that it is of; nothing is said of a few.

    Example:
        >>> quality_advice(0.5, 1000)
        ''
    """
    if share < QUALITY_ALIKE or pairs < ENOUGH:
        return ""
    return (
        f"quality weight: the pairs weigh almost the same (effective share {share:.0%}); in the laboratory it "
        "made no difference of .025 at 97%. --data.weighting.eta spreads the weights."
    )


def sentence_advice(report: Mapping[str, Any]) -> str:
    """Whether a bootstrapping has made enough pairs.

    Args:
        report: of `hallucination.report.bootstrap_report`.

    Example:
        >>> sentence_advice({"pairs": 2000})
        ''
    """
    pairs = report["pairs"]
    if pairs >= PAIRS_ENOUGH:
        return ""
    pictures, rejected = report["pictures"], report["candidates"].get("hallucinated", 0.0)
    more = f"; at this rate {-(-PAIRS_ENOUGH * pictures // pairs)} pictures make {PAIRS_ENOUGH}" if pairs else ""
    return (
        f"pairs: detectors reject {rejected:.0%} of the sentences, and {pictures} pictures make {pairs} pairs{more}. "
        "In the laboratory 250 pairs removed 72% of the hallucinated mentions, 1000 94%, 2700 98%."
    )

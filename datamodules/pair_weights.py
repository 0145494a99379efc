"""Quality weights of preference pairs: scores on a common scale, and weights of their differences."""

import logging
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_uniopd.errors import UserError
from lit_uniopd.functional.preference import quality_weights

log = logging.getLogger(__name__)

FLAT = 0.01
"""Quality weights whose standard deviation is below this treat all pairs alike."""


SATURATED = 0.95
"""Mean of such weights above which the scores differ too much for the slope, not too little."""


@dataclass
class PairWeightArgs:
    """How scores become weights."""

    eta: float = 0.7
    """Slope of the quality weight sigmoid(eta (score_chosen - score_rejected)), per unit of (normalised) score."""
    normalization: Literal["none", "zscore", "minmax", "rank"] = "none"
    """How scores are normalised first, over both sides of all training pairs: `none`: not, as in the released code;
    `zscore`: mean 0, standard deviation 1; `minmax`: 0 to 1; `rank`: share of scores below. The loss's tau_good is in
    the same unit."""
    min_gap: float | None = None
    """Leave out pairs whose (normalised) scores differ by less, or are in the wrong order. Default: none are."""

    def __post_init__(self) -> None:
        if self.eta < 0:
            raise UserError(f"--data.weighting.eta must not be negative, got {self.eta}.")


class ScoreScale:
    """A normalisation, fitted to the training pairs' scores and applied to any.

    Args:
        scores: of both sides of the training pairs, float64.
        kind: as in `PairWeightArgs.normalization`.

    Raises:
        UserError: if all scores are the same and the kind divides by their spread.
    """

    def __init__(self, scores: Tensor, kind: str) -> None:
        self.kind = kind
        self.sorted = scores.double().flatten().sort().values
        if kind in ("zscore", "minmax") and bool(self.sorted[0] == self.sorted[-1]):
            raise UserError(
                f"--data.weighting.normalization {kind} is not defined: all scores are {float(self.sorted[0]):g}; "
                "set it to none."
            )

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores on the scale, in float64."""
        scores, fitted = scores.double(), self.sorted
        if self.kind == "zscore":
            return (scores - fitted.mean()) / fitted.std(correction=0)
        if self.kind == "minmax":
            return (scores - fitted[0]) / (fitted[-1] - fitted[0])
        if self.kind == "rank":  # ties get the middle of their ranks
            below = torch.searchsorted(fitted, scores.contiguous())
            not_above = torch.searchsorted(fitted, scores.contiguous(), right=True)
            return (below + not_above).double() / (2 * len(fitted))
        return scores


@dataclass(frozen=True, slots=True)
class WeightReport:
    """Statistics of a source's weights."""

    pairs: int
    dropped: int
    """Left out by ``min_gap``."""
    tied: int
    reversed: int
    """Pairs whose rejected answer has the higher score."""
    mean: float
    """Of the quality weights."""
    spread: float
    """Their standard deviation."""
    only_gap: float | None
    """Difference of the (normalised) scores if it is the same for all pairs."""

    def __str__(self) -> str:
        notes = [f"quality weights {self.mean:.3f} (sd {self.spread:.3f})"]
        notes += [f"{self.tied} tied"] if self.tied else []
        notes += [f"{self.reversed} scored in the wrong order"] if self.reversed else []
        notes += [f"{self.dropped} dropped by min_gap"] if self.dropped else []
        return ", ".join(notes)


@dataclass(frozen=True, slots=True)
class WeighedScores:
    """The scores of a source's pairs on the scale of the loss, and what they weigh."""

    keep_P: Tensor
    """Bool; False for pairs that ``min_gap`` leaves out."""
    chosen_P: Tensor
    rejected_P: Tensor
    quality_P: Tensor
    report: WeightReport


def weigh(scores_P2: Tensor, args: PairWeightArgs, scale: ScoreScale, *, drop: bool) -> WeighedScores:
    """Normalise scores, and weigh pairs by them.

    Args:
        scores_P2: of the chosen and the rejected answers.
        args: how to weigh.
        scale: of the training pairs.
        drop: whether ``min_gap`` applies; validation pairs are all kept.

    Raises:
        UserError: if ``min_gap`` drops all pairs.
    """
    chosen, rejected = (scale(scores_P2[:, side]) for side in (0, 1))
    quality = quality_weights(chosen, rejected, eta=args.eta)
    gap = chosen - rejected
    keep_P = gap >= args.min_gap if drop and args.min_gap is not None else torch.ones(len(gap), dtype=torch.bool)
    if not keep_P.any():
        raise UserError(
            f"--data.weighting.min_gap {args.min_gap} leaves none of {len(gap)} pairs; their scores differ by "
            f"at most {float(gap.max()):g}; lower it."
        )
    kept = int(keep_P.sum())
    report = WeightReport(
        pairs=kept,
        dropped=len(gap) - kept,
        tied=int((gap == 0).sum()),
        reversed=int((gap < 0).sum()),
        mean=float(quality[keep_P].mean()),
        spread=float(quality[keep_P].std(correction=0)),
        only_gap=float(gap[keep_P][0]) if bool((gap[keep_P] == gap[keep_P][0]).all()) else None,
    )
    return WeighedScores(keep_P, chosen, rejected, quality, report)

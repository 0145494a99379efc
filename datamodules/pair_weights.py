"""Quality weights of preference pairs: scores on a common scale, and weights of their differences."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lit_uniopd.errors import UserError
from lit_uniopd.functional.preference import quality_weights
from lit_uniopd.types import PreferencePair

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
        pairs: the training pairs.
        kind: as in `PairWeightArgs.normalization`.

    Raises:
        UserError: if all scores are the same and the kind divides by their spread.
    """

    def __init__(self, pairs: Sequence[PreferencePair], kind: str) -> None:
        self.kind = kind
        scores = [(pair.score_chosen, pair.score_rejected) for pair in pairs]
        self.sorted = torch.tensor(scores, dtype=torch.float64).flatten().sort().values
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


def weigh(
    pairs: Sequence[PreferencePair], args: PairWeightArgs, scale: ScoreScale, *, drop: bool
) -> tuple[list[PreferencePair], WeightReport]:
    """Pairs with normalised scores and quality weights.

    Args:
        pairs: with scores.
        args: how to weigh.
        scale: of the training pairs.
        drop: whether ``min_gap`` applies; validation pairs are all kept.

    Raises:
        UserError: if ``min_gap`` drops all pairs.
    """
    chosen = scale(torch.tensor([pair.score_chosen for pair in pairs]))
    rejected = scale(torch.tensor([pair.score_rejected for pair in pairs]))
    quality = quality_weights(chosen, rejected, eta=args.eta)
    gap = chosen - rejected
    keep_P = gap >= args.min_gap if drop and args.min_gap is not None else torch.ones(len(pairs), dtype=torch.bool)
    weighed = [
        replace(pair, score_chosen=float(chosen[i]), score_rejected=float(rejected[i]), quality=float(quality[i]))
        for i, pair in enumerate(pairs)
        if keep_P[i]
    ]
    if not weighed:
        raise UserError(
            f"--data.weighting.min_gap {args.min_gap} leaves none of {len(pairs)} pairs; their scores differ by "
            f"at most {float(gap.max()):g}; lower it."
        )
    report = WeightReport(
        pairs=len(weighed),
        dropped=len(pairs) - len(weighed),
        tied=int((gap == 0).sum()),
        reversed=int((gap < 0).sum()),
        mean=float(quality[keep_P].mean()),
        spread=float(quality[keep_P].std(correction=0)),
        only_gap=float(gap[keep_P][0]) if bool((gap[keep_P] == gap[keep_P][0]).all()) else None,
    )
    return weighed, report

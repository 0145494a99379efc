"""Quality weights of preference pairs: scores on a common scale, and what a weight makes of their difference."""

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


@dataclass
class PairWeightArgs:
    """How scores become weights."""

    eta: float = 0.7
    """Slope of the quality weight sigmoid(eta (score_chosen - score_rejected)), per unit of (normalised) score."""
    normalization: Literal["none", "zscore", "minmax", "rank"] = "none"
    """What is done to scores first, over both sides of all training pairs: `none`: nothing, as in the released code;
    `zscore`: mean 0, standard deviation 1; `minmax`: 0 to 1; `rank`: share of scores below. The loss's tau_good is in
    the same unit."""
    min_gap: float | None = None
    """Leave out pairs whose (normalised) scores differ by less, or are in the wrong order. Default: none are."""

    def __post_init__(self) -> None:
        if self.eta < 0:
            raise UserError(f"--data.weighting.eta must not be negative, got {self.eta}.")


class ScoreScale:
    """What was learnt from the training pairs' scores, to be applied to others.

    Args:
        pairs: the training pairs.
        kind: as in `PairWeightArgs.normalization`.

    Raises:
        UserError: if there is nothing to normalise by.
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
        scores, known = scores.double(), self.sorted
        if self.kind == "zscore":
            return (scores - known.mean()) / known.std(correction=0)
        if self.kind == "minmax":
            return (scores - known[0]) / (known[-1] - known[0])
        if self.kind == "rank":  # ties get the middle of their places
            below = torch.searchsorted(known, scores.contiguous())
            upto = torch.searchsorted(known, scores.contiguous(), right=True)
            return (below + upto).double() / (2 * len(known))
        return scores


@dataclass(frozen=True, slots=True)
class WeightReport:
    """What the weights of a split are like."""

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
    """Difference of the (normalised) scores, where all pairs have the same."""

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
        UserError: if nothing is kept.
    """
    chosen = scale(torch.tensor([pair.score_chosen for pair in pairs]))
    rejected = scale(torch.tensor([pair.score_rejected for pair in pairs]))
    quality = quality_weights(chosen, rejected, eta=args.eta)
    gap = chosen - rejected
    kept = gap >= args.min_gap if drop and args.min_gap is not None else torch.ones(len(pairs), dtype=torch.bool)
    weighed = [
        replace(pair, score_chosen=float(chosen[i]), score_rejected=float(rejected[i]), quality=float(quality[i]))
        for i, pair in enumerate(pairs)
        if kept[i]
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
        mean=float(quality[kept].mean()),
        spread=float(quality[kept].std(correction=0)),
        only_gap=float(gap[kept][0]) if bool((gap[kept] == gap[kept][0]).all()) else None,
    )
    return weighed, report

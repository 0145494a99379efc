"""The losses of preference pairs as one choice of arguments."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from lit_uniopd.errors import UserError
from lit_uniopd.functional import preference
from lit_uniopd.functional.preference import PreferenceLoss

Kind = Literal["omni_dpo", "dpo", "robust", "hinge", "ipo", "simpo", "orpo", "dpo_positive", "kto_pair"]

SUMMED = ("dpo", "robust", "hinge", "dpo_positive", "kto_pair")
"""Losses that were published on sums of token log-probs; the others take means."""
WITHOUT_REFERENCE = ("simpo", "orpo")


@dataclass
class PairLossArgs:
    """Which loss, and its hyper-parameters. Those that a loss does not have are not used."""

    kind: Kind = "omni_dpo"
    """`omni_dpo`, or one of its baselines; length-normalised DPO is `dpo` with `average: true`."""
    average: bool | None = None
    """Take means (true) or sums (false) of an answer's token log-probs. Default: as published, sums for dpo, robust,
    hinge, dpo_positive and kto_pair, means for the others. Beta belongs to this choice."""
    beta: float = 2.0
    """Per nat. With sums, 0.01 to 0.1 is usual."""
    gamma: float = 3.0
    """omni_dpo: how sharply pairs that the policy has mastered lose weight."""
    tau_ref: float = 1.0
    """omni_dpo: margin, times beta, at which a pair counts as half mastered."""
    lam: float = 0.001
    """omni_dpo: weight of the calibrated NLL."""
    tau_good: float = 3.2
    """omni_dpo: least score of chosen answers that the NLL holds on to."""
    use_quality: bool = True
    """omni_dpo: weigh pairs by their scores (weights are the datamodule's)."""
    performance: Literal["calibrated", "focal", "off"] = "calibrated"
    """omni_dpo: weigh pairs by what the policy has mastered. `focal`: the naive form, from the summed DPO logit."""
    use_nll: bool = True
    """omni_dpo: hold on to good chosen answers that lose probability."""
    nll_per_token: bool = True
    """omni_dpo: divide the NLL by the answer's length also where the other log-probs are sums, as the paper does; the
    released code (false) does not."""
    detach_performance: bool = False
    """omni_dpo: no gradient through the performance weight. The released code has one."""
    label_smoothing: float = 0.0
    """dpo, simpo, dpo_positive, robust: assumed share of flipped pairs."""
    gamma_beta_ratio: float = 0.5
    """simpo: margin to reach, in nats per token."""
    penalty: float = 0.2
    """dpo_positive: weight of what a chosen answer has lost against the reference."""
    chosen_nll: float = 0.0
    """Any: add so much of the chosen answer's NLL per token, so that it stays likely while the rejected one falls."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError(f"--model.loss.beta must be positive, got {self.beta}.")
        for name in ("gamma", "lam", "penalty", "chosen_nll"):
            if getattr(self, name) < 0:
                raise UserError(f"--model.loss.{name} must not be negative, got {getattr(self, name)}.")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"--model.loss.label_smoothing must be in [0, 0.5), got {self.label_smoothing}.")

    @property
    def needs_reference(self) -> bool:
        return self.kind not in WITHOUT_REFERENCE

    @property
    def needs_scores(self) -> bool:
        return self.kind == "omni_dpo" and (self.use_quality or self.use_nll)

    @property
    def takes_means(self) -> bool:
        return self.kind not in SUMMED if self.average is None else self.average


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probs of whole answers, summed over their tokens; column 0 is chosen, column 1 rejected."""

    policy_P2: Tensor
    lengths_P2: Tensor
    """Tokens."""
    reference_P2: Tensor | None = None


def pair_loss(
    args: PairLossArgs, logps: PairLogps, *, score_chosen: Tensor, score_rejected: Tensor, quality: Tensor
) -> PreferenceLoss:
    """The chosen loss, with the chosen answers' NLL if it is wanted.

    Args:
        args: which one.
        logps: of the answers; with those of the reference if ``args.needs_reference``.
        score_chosen: ``[P]``, NaN where nobody judged.
        score_rejected: ``[P]``.
        quality: quality weights, ``[P]``.
    """
    result = _compared(args, logps, score_chosen, score_rejected, quality)
    if args.chosen_nll == 0:
        return result
    nll = -logps.policy_P2[:, 0] / logps.lengths_P2[:, 0]
    terms = {**result.terms, "chosen_nll": nll.detach()}
    return replace(result, per_pair=result.per_pair + args.chosen_nll * nll, terms=terms)


def _compared(
    args: PairLossArgs, logps: PairLogps, score_chosen: Tensor, score_rejected: Tensor, quality: Tensor
) -> PreferenceLoss:
    lengths_P2 = logps.lengths_P2
    policy = (logps.policy_P2 / lengths_P2 if args.takes_means else logps.policy_P2).unbind(dim=1)
    if args.kind == "simpo":
        return preference.simpo_loss(
            *policy,
            beta=args.beta,
            gamma_beta_ratio=args.gamma_beta_ratio,
            label_smoothing=args.label_smoothing,
        )
    if args.kind == "orpo":
        return preference.orpo_loss(*policy, beta=args.beta)
    assert logps.reference_P2 is not None
    reference_P2 = logps.reference_P2 / lengths_P2 if args.takes_means else logps.reference_P2
    four: Any = (*policy, *reference_P2.unbind(dim=1))
    match args.kind:
        case "dpo":
            return preference.dpo_loss(*four, beta=args.beta, label_smoothing=args.label_smoothing)
        case "robust":
            return preference.robust_dpo_loss(*four, beta=args.beta, label_smoothing=args.label_smoothing)
        case "hinge":
            return preference.hinge_loss(*four, beta=args.beta)
        case "ipo":
            return preference.ipo_loss(*four, beta=args.beta)
        case "dpo_positive":
            return preference.dpop_loss(
                *four, beta=args.beta, penalty=args.penalty, label_smoothing=args.label_smoothing
            )
        case "kto_pair":
            return preference.kto_pair_loss(*four, beta=args.beta)
    focal = None
    if args.performance == "focal":
        focal = args.beta * ((logps.policy_P2 - logps.reference_P2) * logps.policy_P2.new_tensor([1.0, -1.0])).sum(1)
    scores: Any = (score_chosen, score_rejected)
    return preference.omni_dpo_loss(
        *four,
        *scores,
        beta=args.beta,
        gamma=args.gamma,
        tau_ref=args.tau_ref,
        lam=args.lam,
        tau_good=args.tau_good,
        use_quality=args.use_quality,
        use_performance=args.performance != "off",
        use_nll=args.use_nll,
        detach_performance=args.detach_performance,
        quality=quality,
        performance_logit=focal,
        nll_chosen=logps.policy_P2[:, 0] / lengths_P2[:, 0] if args.nll_per_token else None,
    )

"""Preference losses over log-probs of whole answers: Omni-DPO's weights and the losses it is compared with.

Notation of the paper (arXiv 2506.10054): ``m`` is the policy's margin, ``m_ref`` the reference's, ``S`` a quality
score. Every loss takes one log-prob per answer, a tensor ``[P]`` over pairs. Whether that is the mean over the answer's
tokens or their sum is the caller's choice and part of the method: Omni-DPO, SimPO, IPO and ORPO take means; DPO took
sums.

All arithmetic is in float32 or better, and finite for any finite input.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from lit_uniopd.functional.pair_checks import (
    as_pairs,
    check_finite,
    check_not_nan,
    check_not_negative,
    check_smoothing,
    checked_pairs,
)


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """A loss and its terms. Only `loss` and `per_pair` carry gradients."""

    per_pair: Tensor
    """``[P]``."""
    chosen_rewards: Tensor
    """``[P]``: beta times the log-ratio to the reference; without a reference, beta times the log-prob."""
    rejected_rewards: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    """Further tensors ``[P]`` by name, such as weights."""

    @property
    def loss(self) -> Tensor:
        """Mean over pairs."""
        return self.per_pair.mean()

    @property
    def correct(self) -> Tensor:
        """``[P]``, bool: the chosen answer has the higher reward."""
        return self.chosen_rewards > self.rejected_rewards

    @property
    def margins(self) -> Tensor:
        """``[P]``: by how much."""
        return self.chosen_rewards - self.rejected_rewards


def quality_weights(score_chosen: Tensor, score_rejected: Tensor, *, eta: float = 0.7) -> Tensor:
    """How sure the judge is of each pair: ``sigmoid(eta (S_w - S_l))``.

    It lies between .5 and 1 where the chosen answer has the higher score; only pairs in the wrong order fall below.

    Args:
        score_chosen: quality of the chosen answers, ``[P]``.
        score_rejected: quality of the rejected answers, ``[P]``.
        eta: per unit of score; belongs to the scale of the scores.

    Returns:
        Weights ``[P]``; ``eta = 0`` makes all of them one half.

    Raises:
        ValueError: if shapes differ, a score is not finite, or eta is negative.

    Example:
        >>> quality_weights(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 2.0]), eta=0.7)  # sigmoid(1.4), sigmoid(0)
        tensor([0.8022, 0.5000])
    """
    chosen, rejected = as_pairs(score_chosen=score_chosen, score_rejected=score_rejected)
    check_not_negative(eta=eta)
    check_finite(score_chosen=chosen, score_rejected=rejected)
    return torch.sigmoid(eta * (chosen - rejected))


def omni_dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    score_chosen: Tensor,
    score_rejected: Tensor,
    *,
    beta: float,
    eta: float = 0.7,
    gamma: float = 3.0,
    tau_ref: float,
    lam: float = 0.001,
    tau_good: float = 3.2,
    use_quality: bool = True,
    use_performance: bool = True,
    use_nll: bool = True,
    detach_performance: bool = False,
    quality: Tensor | None = None,
    performance_logit: Tensor | None = None,
    nll_chosen: Tensor | None = None,
) -> PreferenceLoss:
    """DPO in which each pair counts by its quality and by how far the policy has not mastered it yet::

        w_quality     = sigmoid(eta (S_w - S_l))
        w_performance = (1 - sigmoid(beta m - tau_ref)) ^ gamma
        active        = [ref_w > policy_w] [S_w >= tau_good]
        loss          = -w_quality w_performance log sigmoid(beta (m - m_ref)) - lam active policy_w

    The performance weight has no reference in it and, as in the released code, is part of the graph: at the start of
    training it more than doubles the gradient. It is computed as ``exp(gamma log sigmoid(tau_ref - beta m))``, which
    equals the released ``1 - sigmoid`` where that is accurate and stays finite where that gives 0, or NaN for gamma
    below 1.

    Args:
        policy_chosen: mean log-probs of the chosen answers under the policy, ``[P]``.
        policy_rejected: those of the rejected answers.
        ref_chosen: mean log-probs of the chosen answers under the frozen reference.
        ref_rejected: those of the rejected answers.
        score_chosen: quality of the chosen answers, in the unit of `tau_good` and ``1 / eta``.
        score_rejected: quality of the rejected answers. Scores that no part reads may be NaN.
        beta: per nat.
        eta: slope of the quality weight.
        gamma: how sharply mastered pairs lose weight.
        tau_ref: the scaled margin at which a pair counts as half mastered.
        lam: weight of the calibrated NLL.
        tau_good: lowest score of a chosen answer that the NLL applies to.
        use_quality: False: every quality weight is 1.
        use_performance: False: every performance weight is 1.
        use_nll: False: no NLL.
        detach_performance: True: no gradient through the performance weight (neither paper nor code does so).
        quality: the quality weights, ``[P]``, if they are computed already; `eta` is then unused.
        performance_logit: in place of ``beta m - tau_ref``, ``[P]``. The naive focal weight of the paper's Eq. 7 is the
            DPO logit on summed log-probs.
        nll_chosen: in place of `policy_chosen` in the NLL term, ``[P]``: the paper divides it by the answer's length
            even where the other log-probs are sums, the released code does not.

    Returns:
        `terms` has ``w_quality``, ``w_performance`` and ``nll_active`` (0 or 1), also of parts that are switched off,
        for which they are 1, 1 and 0, ``mastery``, ``sigmoid(beta m - tau_ref)``, and ``nll_loss``, the NLL's part of
        `per_pair`.

    Raises:
        ValueError: if shapes differ, a score that is read is not finite, or a hyper-parameter is out of range.

    Example:
        >>> logps, scores = torch.tensor([[-1.0], [-2.0], [-1.5], [-1.5]]), torch.tensor([[4.0], [4.0]])
        >>> result = omni_dpo_loss(*logps, *scores, beta=1.0, tau_ref=1.0)
        >>> result.terms["w_quality"], result.terms["w_performance"], result.per_pair  # 0.5 * 0.5^3 * 0.3133
        (tensor([0.5000]), tensor([0.1250]), tensor([0.0196]))
    """
    chosen, rejected, ref_w, ref_l, score_w, score_l = checked_pairs(
        policy_chosen, policy_rejected, ref_chosen, ref_rejected, score_chosen, score_rejected, beta=beta
    )
    check_not_negative(eta=eta, gamma=gamma, lam=lam)
    check_not_nan(tau_ref=tau_ref, tau_good=tau_good)
    ones = torch.ones_like(chosen)

    for name, values in (("quality", quality), ("performance_logit", performance_logit), ("nll_chosen", nll_chosen)):
        if values is not None:
            as_pairs(policy_chosen=chosen, **{name: values})

    w_quality = ones
    if use_quality:
        if quality is not None:
            check_finite(quality=quality)
        w_quality = quality_weights(score_w, score_l, eta=eta) if quality is None else quality
        w_quality = w_quality.to(chosen.dtype)
    w_performance = ones
    logit = beta * (chosen - rejected) - tau_ref if performance_logit is None else performance_logit.to(chosen.dtype)
    if use_performance:
        w_performance = torch.exp(gamma * logsigmoid(-logit))
        w_performance = w_performance.detach() if detach_performance else w_performance
    preference = -logsigmoid(_logit(beta, chosen, rejected, ref_w, ref_l))
    loss = w_quality * w_performance * preference

    active = nll = torch.zeros_like(chosen)
    if use_nll:
        check_finite(score_chosen=score_chosen)
        # In the scores' own precision: the threshold is inclusive, and 3.2 is another number in bfloat16.
        active = ((ref_w > chosen) & (score_chosen >= tau_good)).to(chosen.dtype)
        nll_logps = chosen if nll_chosen is None else nll_chosen.to(chosen.dtype)
        nll = -lam * active * nll_logps
        loss = loss + nll
    terms = {
        "w_quality": w_quality,
        "w_performance": w_performance.detach(),
        "mastery": torch.sigmoid(logit.detach()),
        "nll_active": active,
        "nll_loss": nll.detach(),
    }
    return _result(loss, beta, (chosen, rejected, ref_w, ref_l), terms)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> PreferenceLoss:
    """``-log sigmoid(beta (m - m_ref))`` (arXiv 2305.18290); with smoothing, conservative DPO.

    Args:
        policy_chosen: log-probs of the chosen answers under the policy, ``[P]``; sums, or means for length-normalised
            DPO.
        policy_rejected: those of the rejected answers.
        ref_chosen: log-probs of the chosen answers under the reference.
        ref_rejected: those of the rejected answers.
        beta: per nat.
        label_smoothing: assumed share of flipped pairs, below one half.

    Raises:
        ValueError: if shapes differ, or a hyper-parameter is out of range.

    Example:
        >>> chosen, rejected, ref_chosen, ref_rejected = torch.tensor([[-1.0], [-2.0], [-1.5], [-1.5]])
        >>> result = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=1.0)
        >>> result.loss, result.margins  # log(1 + exp(-1))
        (tensor(0.3133), tensor([1.]))
    """
    logps = checked_pairs(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    return _result(_smoothed(_logit(beta, *logps), label_smoothing), beta, logps)


def robust_dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float,
) -> PreferenceLoss:
    """DPO that is unbiased if a share `label_smoothing` of the pairs is flipped (arXiv 2403.00409).

    Arguments and errors as of `dpo_loss`. Unlike every other loss here it can be negative.

    Example:
        >>> logps = torch.tensor([[-1.0], [-2.0], [-1.5], [-1.5]])
        >>> robust_dpo_loss(*logps, beta=1.0, label_smoothing=0.25).per_pair  # (0.75 * 0.3133 - 0.25 * 1.3133) / 0.5
        tensor([-0.1867])
    """
    logps = checked_pairs(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    check_smoothing(label_smoothing)
    logit = _logit(beta, *logps)
    believed, doubted = (1 - label_smoothing) * logsigmoid(logit), label_smoothing * logsigmoid(-logit)
    loss = (doubted - believed) / (1 - 2 * label_smoothing)
    return _result(loss, beta, logps)


def hinge_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float
) -> PreferenceLoss:
    """``max(0, 1 - beta (m - m_ref))`` (arXiv 2305.10425). Arguments and errors as of `dpo_loss`.

    Example:
        >>> logps = torch.tensor([[-1.0], [-2.0], [-1.5], [-1.5]])
        >>> hinge_loss(*logps, beta=0.25).per_pair
        tensor([0.7500])
    """
    logps = checked_pairs(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    return _result(relu(1 - _logit(beta, *logps)), beta, logps)


def ipo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float
) -> PreferenceLoss:
    """``(m - m_ref - 1 / (2 beta))^2`` (arXiv 2310.12036, its tau is our beta), on mean log-probs.

    Arguments and errors as of `dpo_loss`.

    Example:
        >>> logps = torch.tensor([[-1.0], [-2.0], [-1.5], [-1.5]])
        >>> ipo_loss(*logps, beta=0.125).per_pair  # (1 - 4)^2
        tensor([9.])
    """
    logps = checked_pairs(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    return _result((_logit(1.0, *logps) - 1 / (2 * beta)) ** 2, beta, logps)


def dpop_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    penalty: float,
    label_smoothing: float = 0.0,
) -> PreferenceLoss:
    """DPO-Positive: the logit is lowered by ``penalty max(0, ref_w - policy_w)``.

    As in the code that Omni-DPO is compared with, the penalty is not multiplied by beta; in arXiv 2402.13228 it is, so
    its lambda is our ``penalty / beta``. Other arguments and errors as of `dpo_loss`.

    Example:
        >>> logps = torch.tensor([[-1.0], [-2.0], [-0.5], [-0.5]])
        >>> dpop_loss(*logps, beta=1.0, penalty=2.0).per_pair  # -log sigmoid(1 - 2 * 0.5)
        tensor([0.6931])
    """
    logps = checked_pairs(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    check_not_negative(penalty=penalty)
    chosen, _, ref_w, _ = logps
    return _result(_smoothed(_logit(beta, *logps) - penalty * relu(ref_w - chosen), label_smoothing), beta, logps)


def kto_pair_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float
) -> PreferenceLoss:
    """KTO (arXiv 2402.01306) on pairs: each answer's log-ratio against the batch's mean of the other kind.

    ``per_pair`` is the mean of ``1 - sigmoid(beta (chosen - KL_rejected))`` and ``1 - sigmoid(beta (KL_chosen -
    rejected))``, where a KL is the mean log-ratio of the batch, at least 0 and, as in the paper, without gradient. It
    depends on the batch, so micro-batches change it. Arguments and errors as of `dpo_loss`.

    Example:
        >>> logps = torch.tensor([[-1.0], [-2.0], [-1.5], [-1.5]])
        >>> kto_pair_loss(*logps, beta=1.0).per_pair  # (1 - sigmoid(0.5 - 0) + 1 - sigmoid(0.5 + 0.5)) / 2
        tensor([0.3232])
    """
    logps = checked_pairs(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta)
    chosen, rejected = logps[0] - logps[2], logps[1] - logps[3]
    kl_chosen, kl_rejected = (ratio.detach().mean().clamp(min=0) for ratio in (chosen, rejected))
    loss = (torch.sigmoid(beta * (kl_rejected - chosen)) + torch.sigmoid(beta * (rejected - kl_chosen))) / 2
    return _result(loss, beta, logps)


def simpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    *,
    beta: float,
    gamma_beta_ratio: float = 0.5,
    kind: Literal["sigmoid", "hinge"] = "sigmoid",
    label_smoothing: float = 0.0,
) -> PreferenceLoss:
    """``-log sigmoid(beta (m - gamma_beta_ratio))`` on mean log-probs, without a reference (arXiv 2405.14734).

    Args:
        policy_chosen: mean log-probs of the chosen answers, ``[P]``.
        policy_rejected: those of the rejected answers.
        beta: per nat.
        gamma_beta_ratio: margin to reach, in nats per token; the paper's gamma divided by beta.
        kind: ``hinge``: ``max(0, 1 - logit)`` instead.
        label_smoothing: of the sigmoid.

    Raises:
        ValueError: if shapes differ, or a hyper-parameter is out of range.

    Example:
        >>> simpo_loss(torch.tensor([-1.0]), torch.tensor([-2.0]), beta=2.0, gamma_beta_ratio=1.0).per_pair
        tensor([0.6931])
    """
    logps = checked_pairs(policy_chosen, policy_rejected, beta=beta)
    check_not_nan(gamma_beta_ratio=gamma_beta_ratio)
    if kind not in ("sigmoid", "hinge"):
        raise ValueError(f"kind is {kind!r}; it must be 'sigmoid' or 'hinge'.")
    logit = beta * (logps[0] - logps[1] - gamma_beta_ratio)
    return _result(relu(1 - logit) if kind == "hinge" else _smoothed(logit, label_smoothing), beta, logps)


def orpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, *, beta: float) -> PreferenceLoss:
    """NLL of the chosen answer plus beta times ``-log sigmoid`` of the log odds ratio, on mean log-probs.

    The odds of an answer are ``p / (1 - p)`` with ``p`` its mean log-prob's exponential (arXiv 2403.07691; its lambda
    is our beta). Probabilities of 1, whose odds are infinite, count as one rounding error below it.

    Args:
        policy_chosen: mean log-probs of the chosen answers, ``[P]``, not above 0.
        policy_rejected: those of the rejected answers.
        beta: weight of the odds ratio.

    Raises:
        ValueError: if shapes differ, or beta is not positive.

    Example:
        >>> logps = torch.tensor([0.5]).log()
        >>> orpo_loss(logps, logps, beta=1.0).per_pair  # log 2 + log 2
        tensor([1.3863])
    """
    logps = checked_pairs(policy_chosen, policy_rejected, beta=beta)
    chosen, rejected = logps
    ratio = -logsigmoid(_log_odds(chosen) - _log_odds(rejected))
    return _result(beta * ratio - chosen, beta, logps, terms={"odds_ratio": ratio.detach()})


def _log_odds(logps: Tensor) -> Tensor:
    """``log(p / (1 - p))`` from ``log p``, accurate near 0 and 1."""
    below = logps.clamp(max=-torch.finfo(logps.dtype).eps)
    # Each form in the range where it does not cancel, with harmless inputs in the other for the sake of gradients.
    near_one = below > -math.log(2)
    log_rest = torch.where(
        near_one,
        torch.log(-torch.expm1(below.where(near_one, torch.full_like(below, -1.0)))),
        torch.log1p(-torch.exp(below.where(~near_one, torch.full_like(below, -1.0)))),
    )
    return below - log_rest


def _logit(beta: float, chosen: Tensor, rejected: Tensor, ref_w: Tensor, ref_l: Tensor) -> Tensor:
    return beta * ((chosen - rejected) - (ref_w - ref_l))


def _smoothed(logit: Tensor, label_smoothing: float) -> Tensor:
    check_smoothing(label_smoothing)
    if not label_smoothing:
        return -logsigmoid(logit)
    return -(1 - label_smoothing) * logsigmoid(logit) - label_smoothing * logsigmoid(-logit)


def _result(
    per_pair: Tensor, beta: float, logps: tuple[Tensor, ...], terms: Mapping[str, Tensor] | None = None
) -> PreferenceLoss:
    (chosen, rejected), (ref_w, ref_l) = logps[:2], logps[2:] or (0.0, 0.0)
    rewards = (beta * (chosen - ref_w)).detach(), (beta * (rejected - ref_l)).detach()
    return PreferenceLoss(per_pair, *rewards, terms or {})

"""On-policy distillation on sampled tokens: the advantage, the loss, and the extrapolated baseline.

Behaviour of the official code's ``on_policy_distillation`` branch (miles/backends/training_utils/loss.py of Uni-OPD).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_uniopd.functional.projection import check_positive, math_dtype


@dataclass(frozen=True, slots=True)
class OPDLoss:
    """The loss of one micro-batch and what happened inside; all but ``loss`` without gradient."""

    loss: Tensor
    """Scalar: sum over samples of their token means, divided by the denominator. Micro-batches' losses add up."""
    per_token: Tensor
    """``[B, T]``: loss per token; 0 at padding and at tokens that train nothing."""
    clipped_BT: Tensor
    """Bool ``[B, T]``: the clipped branch won, so that the token's gradient is 0."""
    active_BT: Tensor
    """Bool ``[B, T]``: response tokens that train: of samples that do, and not masked by the gap."""
    clip_fraction: Tensor
    """Share of ``kept_tokens`` that were clipped."""
    gap_fraction: Tensor
    """Share of ``tokens`` left out because student and teacher are too far apart."""
    kl: Tensor
    """Mean of ``old - current`` log-prob over ``kept_tokens``: an estimate of how far the policy has moved."""
    tokens: Tensor
    """Count of response tokens in samples that train (kept by balancing, scored by a teacher)."""
    kept_tokens: Tensor
    """Count of ``tokens`` that passed the gap mask; the weight for averaging ``kl`` over micro-batches."""


def opd_advantages(
    teacher_logps_BT: Tensor, student_logps_BT: Tensor, mask_BT: Tensor, *, teacher_ok_B: Tensor | None = None
) -> Tensor:
    """Advantages ``log pi_teacher - log pi_student`` of the sampled tokens, ``[B, T]``, without gradient.

    No discount, no baseline, no normalisation, no outcome reward. 0 at padding, and everywhere in a sample the teacher
    could not score.

    Args:
        teacher_logps_BT: Teacher's log-probs of the sampled tokens.
        student_logps_BT: The sampling policy's, at the same temperature.
        mask_BT: True on response tokens.
        teacher_ok_B: False where the teacher failed. None: it never did.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> teacher_logps_BT, student_logps_BT = torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -1.0]])
        >>> opd_advantages(teacher_logps_BT, student_logps_BT, torch.tensor([[True, True]]))
        tensor([[ 1., -2.]])
    """
    return extrapolated_advantages(
        teacher_logps_BT, student_logps_BT, student_logps_BT, mask_BT, scale=1.0, teacher_ok_B=teacher_ok_B
    )


@torch.no_grad()
def extrapolated_advantages(
    teacher: Tensor,
    student: Tensor,
    reference: Tensor,
    mask: Tensor,
    *,
    scale: float = 1.25,
    teacher_ok_B: Tensor | None = None,
) -> Tensor:
    """ExOPD's advantages (G-OPD): aim beyond the teacher, away from the reference; for comparisons.

    ``scale * log pi_teacher + (1 - scale) * log pi_reference - log pi_student``; scale 1 is plain OPD.

    Args:
        teacher: ``[B, T]`` teacher's log-probs of the sampled tokens.
        student: ``[B, T]`` the sampling policy's.
        reference: ``[B, T]`` those of the policy before training.
        mask: ``[B, T]``, True on response tokens.
        scale: 1 reproduces the teacher, more goes past it.
        teacher_ok_B: False where the teacher failed; such a sample gets 0 everywhere.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> teacher, student, reference = (torch.tensor([[logp]]) for logp in (-1.0, -2.0, -3.0))
        >>> extrapolated_advantages(teacher, student, reference, torch.tensor([[True]]), scale=2.0)  # -2 + 3 + 2
        tensor([[3.]])
    """
    _check_shapes(teacher_logps_BT=teacher, student_logps_BT=student, reference_logps_BT=reference, mask_BT=mask)
    scored = _mask_samples(mask.bool(), teacher_ok_B=teacher_ok_B)
    dtype = math_dtype(teacher, student)
    target = teacher.to(dtype)
    if scale != 1.0:  # not only to save work: 0 * -inf would be NaN
        target = scale * target + (1.0 - scale) * reference.to(dtype)
    return torch.where(scored, target - student.to(dtype), 0.0)


@torch.no_grad()
def importance_weights(logps_BT: Tensor, sampler_logps_BT: Tensor, mask_BT: Tensor, *, cap: float = 2.0) -> Tensor:
    """Truncated importance weights ``min(pi / mu, cap)`` of the sampled tokens, ``[B, T]``, without gradient.

    For tokens that another distribution ``mu`` drew than the policy ``pi`` that is trained: an inference engine with
    kernels of its own, or sampling cut by top-p. At each state the weighted mean over ``mu``'s tokens is that over
    ``pi``'s as long as the cap is not reached and ``mu`` can draw all that ``pi`` can. Which states are visited stays
    the sampler's choice: that would take products over the whole answer, whose variance grows with its length.

    Args:
        logps_BT: Log-probs under the policy before the update, as the trainer computes them.
        sampler_logps_BT: Those that the sampler drew with, at the same temperature.
        mask_BT: True on response tokens; weights are 0 elsewhere.
        cap: Largest weight; bounds the variance.

    Raises:
        ValueError: if shapes differ or the cap is not positive.

    Example:
        >>> logps_BT, sampler_logps_BT = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.0, -3.0]])
        >>> importance_weights(logps_BT, sampler_logps_BT, torch.tensor([[True, True]]))  # exp(0), and exp(2) capped
        tensor([[1., 2.]])
    """
    _check_shapes(logps_BT=logps_BT, sampler_logps_BT=sampler_logps_BT, mask_BT=mask_BT)
    check_positive(cap=cap)
    dtype = math_dtype(logps_BT)
    log_ratio = torch.where(mask_BT.bool(), logps_BT.to(dtype) - sampler_logps_BT.to(dtype), -torch.inf)
    return log_ratio.exp().clamp(max=cap)


def opd_loss(
    logps_BT: Tensor,
    old_logps_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    teacher_logps_BT: Tensor | None = None,
    keep_B: Tensor | None = None,
    teacher_ok_B: Tensor | None = None,
    importance_weights_BT: Tensor | None = None,
    never_gap_masked_BT: Tensor | None = None,
    scored_BT: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    gap_threshold: float = 10.0,
    denominator: float | Tensor | None = None,
) -> OPDLoss:
    """Clipped policy-gradient loss: ``max(-rho A, -clip(rho, 1 - clip_low, 1 + clip_high) A)``.

    Mean over each response's tokens, summed over samples, divided by ``denominator``. Tokens and samples that are left
    out add 0 to the numerator and stay in both denominators, as in the official code, so removing samples lowers the
    step size. With one update per rollout the ratio is 1 and the gradient is that of ``-A log pi``.

    Args:
        logps_BT: Log-probs of the sampled tokens under the current weights; the only input that gets a gradient.
        old_logps_BT: Those under the weights that sampled.
        advantages_BT: See ``opd_advantages``; possibly calibrated since.
        mask_BT: True on response tokens. What stands elsewhere has no influence, NaN included.
        teacher_logps_BT: Turns on the gap mask: a token trains only if ``|log pi - log pi_teacher| < gap_threshold``.
        keep_B: False for samples removed by balancing.
        teacher_ok_B: False where the teacher failed; the sample trains nothing even if calibration shifted it.
        importance_weights_BT: Multiply each token's loss; see ``importance_weights``. Denominators stay as they are.
        never_gap_masked_BT: Bool; tokens that train however far apart student and teacher are. None: there are none, as
            in the official code.
        scored_BT: Bool; False on tokens that the teacher could not score, which train nothing. None: it scored all.
        clip_low: Lower clip range of the ratio.
        clip_high: Upper clip range.
        gap_threshold: In nats.
        denominator: Default: the number of samples B. Give the whole batch's number when B is a micro-batch of it.

    Raises:
        ValueError: if shapes differ or a number is out of range.

    Example:
        >>> logps_BT = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]])
        >>> advantages_BT, mask_BT = torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[1, 1], [1, 0]])
        >>> opd_loss(logps_BT, logps_BT, advantages_BT, mask_BT).loss  # (-(1 - 2) / 2 - 3) / 2
        tensor(-1.2500)
    """
    _check_shapes(
        logps_BT=logps_BT,
        old_logps_BT=old_logps_BT,
        advantages_BT=advantages_BT,
        mask_BT=mask_BT,
        teacher_logps_BT=teacher_logps_BT,
        importance_weights_BT=importance_weights_BT,
        never_gap_masked_BT=never_gap_masked_BT,
        scored_BT=scored_BT,
    )
    check_positive(gap_threshold=gap_threshold)
    if denominator is not None and not isinstance(denominator, Tensor):
        check_positive(denominator=denominator)
    if not 0.0 <= clip_low <= 1.0 or clip_high < 0.0:
        raise ValueError(f"clip_low must be in [0, 1] and clip_high at least 0, got {clip_low} and {clip_high}")
    mask = mask_BT.bool()
    trained = _mask_samples(_mask_samples(mask, keep_B=keep_B), teacher_ok_B=teacher_ok_B)
    trained = trained if scored_BT is None else trained & scored_BT.bool()
    active = trained
    if teacher_logps_BT is not None:
        active = trained & within_gap(logps_BT, teacher_logps_BT, gap_threshold, never_gap_masked_BT)

    per_token, log_ratio, clipped_BT = opd_token_losses(
        logps_BT, old_logps_BT, advantages_BT, active, clip_low=clip_low, clip_high=clip_high
    )
    if importance_weights_BT is not None:
        per_token = per_token * torch.where(active, importance_weights_BT.detach().to(per_token.dtype), 0.0)
    per_sample = per_token.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    loss = per_sample.sum() / (len(logps_BT) if denominator is None else denominator)

    tokens, kept_tokens = trained.sum(), active.sum()
    return OPDLoss(
        loss=loss,
        per_token=per_token.detach(),
        clipped_BT=clipped_BT,
        active_BT=active,
        clip_fraction=clipped_BT.sum() / kept_tokens.clamp(min=1),
        gap_fraction=(tokens - kept_tokens) / tokens.clamp(min=1),
        kl=-log_ratio.detach().sum() / kept_tokens.clamp(min=1),
        tokens=tokens,
        kept_tokens=kept_tokens,
    )


def opd_token_losses(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, active: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The clipped loss of single tokens, of any shape; see ``opd_loss``.

    Returns:
        The losses, 0 where ``active`` is False; the log-ratios, likewise; and where the clip range holds a token back.

    Example:
        >>> logps, old_logps, active = torch.full((2,), 2.0).log(), torch.zeros(2), torch.tensor([True, True])
        >>> advantages = torch.tensor([1.0, -1.0])
        >>> losses, _, clipped = opd_token_losses(logps, old_logps, advantages, active, clip_low=0.2, clip_high=0.28)
        >>> losses, clipped  # the ratio of both is 2
        (tensor([-1.2800,  2.0000]), tensor([ True, False]))
    """
    dtype = math_dtype(logps)
    log_ratio = torch.where(active, logps.to(dtype) - old_logps.detach().to(dtype), 0.0)
    advantages = torch.where(active, advantages.detach().to(dtype), 0.0)
    ratio = log_ratio.exp()
    plain, clipped = -ratio * advantages, -ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    return torch.where(active, torch.maximum(plain, clipped), 0.0), log_ratio, clipped > plain


def within_gap(
    logps: Tensor, teacher_logps: Tensor, gap_threshold: float, never_gap_masked: Tensor | None = None
) -> Tensor:
    """Where student and teacher differ by less than ``gap_threshold`` nats, or ``never_gap_masked`` is True.

    Example:
        >>> within_gap(torch.tensor([-1.0, -12.0]), torch.tensor([-2.0, -1.0]), gap_threshold=10.0)
        tensor([ True, False])
    """
    within = (logps.detach() - teacher_logps).abs() < gap_threshold
    return within if never_gap_masked is None else within | never_gap_masked.bool()


def _check_shapes(**tensors: Tensor | None) -> None:
    """All present tensors must be ``[B, T]`` of one shape; the message names the one that is not."""
    present = {name: t for name, t in tensors.items() if t is not None}
    first, expected = next(iter(present.items()))
    for name, tensor in present.items():
        if tensor.shape != expected.shape or tensor.ndim != 2:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but {first} {tuple(expected.shape)}; need [B, T]"
            )


def _mask_samples(mask: Tensor, **rows_B: Tensor | None) -> Tensor:
    """Narrow a ``[B, T]`` mask to the samples whose flag is set."""
    for name, flags in rows_B.items():
        if flags is None:
            continue
        if flags.shape != mask.shape[:1]:
            raise ValueError(f"{name} has shape {tuple(flags.shape)}, but there are {len(mask)} samples")
        mask = mask & flags.bool()[:, None]
    return mask

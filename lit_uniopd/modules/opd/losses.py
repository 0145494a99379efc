"""The losses that Uni-OPD's update can minimise, on one micro-batch of scored rollouts."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lit_uniopd.errors import UserError
from lit_uniopd.functional.fused_token_loss import LossOf
from lit_uniopd.functional.logps import divergence, linear_token_logps, topk_forward_kl
from lit_uniopd.functional.mixture import MixtureTerm, mixture_divergence
from lit_uniopd.functional.opd import importance_weights, opd_loss, opd_token_losses, within_gap
from lit_uniopd.functional.token_choice import highest_entropy, kept_lengths
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy.backbone import OutputHead, head_of
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers import TeacherPass
from lit_uniopd.types import Rollouts

_KINDS: dict[str, Literal["reverse", "forward", "jsd"]] = {
    "reverse_kl": "reverse",
    "forward_kl": "forward",
    "jsd": "jsd",
}


@dataclass
class LossArgs:
    """The objective; the defaults are those of Uni-OPD's released scripts."""

    kind: Literal["sampled", "reverse_kl", "forward_kl", "jsd", "topk"] = "sampled"
    """`sampled`: reverse KL on the sampled tokens as a policy gradient (Uni-OPD). The others compare whole next-token
    distributions on the student's states."""
    clip_low: float = 0.2
    """Policy ratios below 1 - clip_low stop pulling (`sampled` only)."""
    clip_high: float = 0.28
    """Policy ratios above 1 + clip_high stop pulling (`sampled` only)."""
    gap_threshold: float | None = 10.0
    """Tokens on which student and teacher differ by this many nats or more are masked (`sampled` only); null: none."""
    gap_mask_ends: bool = False
    """Also mask end-of-sequence tokens, as the released code does. An answer that ends too early is wrong in that token
    alone: with it masked, answers can get shorter and further from the teacher while the loss falls."""
    importance_cap: float | None = None
    """Weigh each token by its probability under the student over that under whoever sampled it, at most this (`sampled`
    only); 2 is usual. For sampling engines whose log-probs differ from the trainer's; null: no weights."""
    jsd_beta: float = 0.5
    """Weight of the teacher in the mixture of `jsd`; near 0 it acts like forward, near 1 like reverse KL."""
    top_k: int = 64
    """Tokens that `topk` compares one by one; all others share one bucket, so it stays a divergence."""
    top_k_direction: Literal["reverse", "forward", "jsd"] = "reverse"
    """Direction of `topk`: over the student's top tokens (reverse), the teacher's (forward) or both (jsd). Teachers on
    servers name their own only: forward."""
    keep_tokens: float = 1.0
    """Share of each answer's tokens that trains: those before which the student is least sure, by the entropy of its
    distribution at the update (TIP). The loss is the mean over them."""
    entry_clip: float | None = None
    """Most nats that one entry of the vocabulary adds to a divergence; beyond it the entry has no gradient (OPSD has
    0.05). For `reverse_kl`, `forward_kl` and `jsd`; null: no limit."""
    denominator: int | None = None
    """What the sum of per-answer losses is divided by, over all ranks; null: the number of answers in the update,
    those removed by balancing included. The official code divides by its global batch size."""

    @property
    def asked_top_k(self) -> int:
        """How many of its likeliest tokens a teacher on a server is asked for; 0: the sampled ones are enough."""
        return self.top_k if self.kind == "topk" else 0

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UserError(f"--model.loss.top_k must be at least 1, got {self.top_k}.")
        if not 0 <= self.clip_low <= 1:
            raise UserError(f"--model.loss.clip_low must be in [0, 1], got {self.clip_low}.")
        if self.clip_high < 0:
            raise UserError(f"--model.loss.clip_high must be at least 0, got {self.clip_high}.")
        if not 0 <= self.jsd_beta <= 1:
            raise UserError(f"--model.loss.jsd_beta must be in [0, 1], got {self.jsd_beta}.")
        if self.gap_threshold is not None and self.gap_threshold <= 0:
            raise UserError(f"--model.loss.gap_threshold must be positive or null, got {self.gap_threshold}.")
        if self.importance_cap is not None and self.importance_cap <= 0:
            raise UserError(f"--model.loss.importance_cap must be positive or null, got {self.importance_cap}.")
        if self.importance_cap is not None and self.kind != "sampled":
            raise UserError(
                f"--model.loss.importance_cap has no meaning for --model.loss.kind {self.kind}; choose sampled."
            )
        if self.entry_clip is not None and self.entry_clip <= 0:
            raise UserError(f"--model.loss.entry_clip must be positive or null, got {self.entry_clip}.")
        if self.entry_clip is not None and self.kind not in _KINDS:
            raise UserError(
                f"--model.loss.entry_clip has no meaning for --model.loss.kind {self.kind}; choose {', '.join(_KINDS)}."
            )
        if not 0 < self.keep_tokens <= 1:
            raise UserError(f"--model.loss.keep_tokens must be in (0, 1], got {self.keep_tokens}; 1 keeps all of them.")
        if self.denominator is not None and self.denominator < 1:
            raise UserError(f"--model.loss.denominator must be at least 1 or null, got {self.denominator}.")


def end_tokens(rollouts: Rollouts, eos_ids: Collection[int]) -> Tensor:
    """Where answers have a token that ends them, bool ``[B, T]``."""
    ids = torch.tensor(sorted(eos_ids), dtype=torch.long, device=rollouts.tokens_BT.device)
    return torch.isin(rollouts.tokens_BT, ids) & rollouts.mask_BT


def never_gap_masked(rollouts: Rollouts, args: LossArgs, eos_ids: Collection[int]) -> Tensor | None:
    """The tokens that the gap mask spares, bool ``[B, T]``; None: none of them."""
    return None if args.gap_mask_ends else end_tokens(rollouts, eos_ids)


def sampled_loss(
    policy: Policy,
    rollouts: Rollouts,
    args: LossArgs,
    *,
    temperature: float,
    denominator: float,
    trained: WeightedMeans,
) -> Tensor:
    """Reverse KL on the sampled tokens as a clipped policy gradient (Uni-OPD, Eq. 1; see ``opd_loss``).

    Args:
        policy: the student.
        rollouts: scored, with advantages; ``clipped_BT`` is filled in.
        args: clip range and gap mask.
        temperature: that of sampling.
        denominator: divides the sum over answers.
        trained: receives the statistics.
    """
    weights_BT: Tensor | None = None
    spared_BT = never_gap_masked(rollouts, args, policy.eos_ids)
    if args.importance_cap is not None:
        sampled = (rollouts.student_logps_BT, rollouts.sampler_logps_BT, rollouts.mask_BT)
        weights_BT = importance_weights(*sampled, cap=args.importance_cap)
    loss, logps_BT, entropy_BT = policy.token_loss(
        rollouts.prompt_tokens,
        rollouts.tokens_BT,
        rollouts.mask_BT,
        _token_losses(rollouts, args, denominator, weights_BT, spared_BT),
        vision=rollouts.vision,
        temperature=temperature,
        keep=args.keep_tokens,
    )
    kept_BT = highest_entropy(entropy_BT, rollouts.mask_BT, args.keep_tokens)
    result = opd_loss(
        logps_BT,
        rollouts.student_logps_BT,
        rollouts.advantages_BT,
        kept_BT,
        teacher_logps_BT=rollouts.teacher_logps_BT if args.gap_threshold is not None else None,
        teacher_ok_B=rollouts.teacher_ok_B,
        keep_B=rollouts.keep_B,
        importance_weights_BT=weights_BT,
        never_gap_masked_BT=spared_BT,
        scored_BT=rollouts.scored_BT,
        clip_low=args.clip_low,
        clip_high=args.clip_high,
        gap_threshold=math.inf if args.gap_threshold is None else args.gap_threshold,
        denominator=denominator,
    )
    rollouts.clipped_BT = result.clipped_BT
    tokens = int(rollouts.mask_BT.sum())
    drift_BT = (logps_BT - rollouts.student_logps_BT).abs() * kept_BT
    trained.add("train/entropy", entropy_BT.sum(), tokens)
    trained.add("train/logp_drift", drift_BT.sum(), kept_BT.sum())
    trained.add("train/clip_fraction", result.clip_fraction * result.kept_tokens, result.kept_tokens)
    if weights_BT is not None and args.importance_cap is not None:
        trained.add("train/importance_weight", weights_BT.sum(), tokens)
        trained.add("train/importance_truncated", (weights_BT >= args.importance_cap).sum(), tokens)
    trained.add("train/gap_fraction", result.gap_fraction * result.tokens, result.tokens)
    ends_BT = (
        kept_BT
        & rollouts.scored_BT
        & end_tokens(rollouts, policy.eos_ids)
        & (rollouts.keep_B & rollouts.teacher_ok_B)[:, None]
    )
    trained.add("train/gap_fraction_eos", (ends_BT & ~result.active_BT).sum(), ends_BT.sum())
    return loss


def _token_losses(
    rollouts: Rollouts, args: LossArgs, denominator: float, weights_BT: Tensor | None, spared_BT: Tensor | None
) -> LossOf:
    """``opd_loss`` as a sum over the tokens of all answers, one behind the other."""
    mask_BT = rollouts.mask_BT
    trained_BT = rollouts.scored_BT & (rollouts.keep_B & rollouts.teacher_ok_B)[:, None]
    lengths_B = kept_lengths(rollouts.lengths_B, args.keep_tokens)
    share_BT = (1 / (lengths_B.clamp(min=1) * denominator))[:, None].expand_as(mask_BT)
    if weights_BT is not None:
        share_BT = share_BT * weights_BT
    spared = None if spared_BT is None else spared_BT[mask_BT]
    old, advantages, teacher, trained, share = (
        values[mask_BT]
        for values in (
            rollouts.student_logps_BT,
            rollouts.advantages_BT,
            rollouts.teacher_logps_BT,
            trained_BT,
            share_BT,
        )
    )

    def loss_of(logps_N: Tensor, which: slice | Tensor) -> Tensor:
        mask_N = trained[which]
        if args.gap_threshold is not None:
            spared_N = None if spared is None else spared[which]
            mask_N = mask_N & within_gap(logps_N, teacher[which], args.gap_threshold, spared_N)
        losses, *_ = opd_token_losses(
            logps_N, old[which], advantages[which], mask_N, clip_low=args.clip_low, clip_high=args.clip_high
        )
        return losses * share[which]

    return loss_of


def divergence_loss(
    policy: Policy,
    passes: Sequence[TeacherPass],
    rollouts: Rollouts,
    args: LossArgs,
    *,
    temperature: float,
    denominator: float,
    trained: WeightedMeans,
) -> Tensor:
    """Divergence of whole next-token distributions on the student's states, aggregated like the sampled loss.

    Args:
        policy: the student.
        passes: of the teacher of all these answers, or of those that are mixed (``TeacherPool.passes``); none: theirs
            are on servers, and have named their top tokens.
        rollouts: the answers.
        args: which divergence.
        temperature: that of sampling, on both sides.
        denominator: divides the sum over answers.
        trained: receives the statistics.
    """
    if not passes:
        named_B = rollouts.mask_BT.new_tensor([len(ids_TK) > 0 for ids_TK in rollouts.teacher_top_ids])
        tokens = kept_lengths(rollouts.lengths_B, args.keep_tokens)[named_B].sum()
        per_token_BT = policy(lambda: _divergences_from_top(policy, rollouts, args, temperature))
    else:
        tokens = kept_lengths(rollouts.lengths_B, args.keep_tokens).sum()
        per_token_BT = token_divergences(policy, passes, rollouts, args, temperature)
    trained.add("train/divergence", per_token_BT.detach().sum(), tokens)
    per_answer_B = per_token_BT.sum(dim=1) / kept_lengths(rollouts.lengths_B, args.keep_tokens).clamp(min=1)
    return (per_answer_B * (rollouts.keep_B & rollouts.teacher_ok_B)).sum() / denominator


def token_divergences(
    policy: Policy, passes: Sequence[TeacherPass], rollouts: Rollouts, args: LossArgs, temperature: float
) -> Tensor:
    """Divergence of each token's distribution from its teachers', ``[B, T]``, over the tokens that train.

    Args:
        policy: the student.
        passes: of one teacher, or of those that are mixed.
        rollouts: the answers.
        args: which divergence.
        temperature: of both sides.
    """
    answers = (rollouts.tokens_BT, rollouts.mask_BT)
    hidden: dict[int, Tensor] = {}
    for i, teacher in enumerate(passes):
        if teacher.policy is policy:
            # First, and by itself: the student's modules may hold other weights meanwhile. Their head is never another.
            with teacher.in_place():
                hidden[i] = policy(partial(teacher.response_hidden, *answers))

    def compare() -> Tensor:
        read = {i: teacher.response_hidden(*answers) for i, teacher in enumerate(passes) if i not in hidden} | hidden
        student_BTH = policy.response_hidden(rollouts.prompt_tokens, *answers, rollouts.vision)
        return _compare(policy, student_BTH, [(t, read[i]) for i, t in enumerate(passes)], rollouts, args, temperature)

    # All models' weights are read, and again in the backward pass.
    for apart in dict.fromkeys(teacher.policy for teacher in passes if teacher.policy is not policy):
        compare = partial(apart, compare)
    return policy(compare)


def _compare(
    policy: Policy,
    student_BTH: Tensor,
    teachers: Sequence[tuple[TeacherPass, Tensor]],
    rollouts: Rollouts,
    args: LossArgs,
    temperature: float,
) -> Tensor:
    """Divergences ``[B, T]`` from hidden states of the student and of one teacher or several."""
    head = head_of(policy.model)
    terms = []
    for teacher, hidden_BTH in teachers:
        teacher_head = head_of(teacher.policy.model)
        terms.append(
            MixtureTerm(
                hidden_BTH * teacher_head.scale,
                teacher_head.weight_VH,
                teacher.share,
                teacher_head.bias_V,
                teacher_head.softcap,
            )
        )
    options: dict[str, Any] = {
        "kind": args.top_k_direction if args.kind == "topk" else _KINDS[args.kind],
        "beta": args.jsd_beta,
        "top_k": args.top_k if args.kind == "topk" else None,
        "entry_clip": args.entry_clip,
        "temperature": temperature,
        "student_bias": head.bias_V,
        "student_softcap": head.softcap,
    }
    student_BTH = student_BTH * head.scale
    mask_BT = _kept(head, student_BTH, rollouts, args, temperature)
    if len(terms) > 1:
        options["mixture_kind"] = teachers[0][0].mixture_kind
        return mixture_divergence(student_BTH, head.weight_VH, terms, mask_BT, **options)
    (term,) = terms
    options |= {"teacher_bias": term.bias_V, "teacher_softcap": term.softcap}
    return divergence(student_BTH, term.hidden_BTH, head.weight_VH, term.weight_VH, mask_BT, **options)


@torch.no_grad()
def _kept(head: OutputHead, student_BTH: Tensor, rollouts: Rollouts, args: LossArgs, temperature: float) -> Tensor:
    """The tokens that train, bool ``[B, T]``, from the student's scaled hidden states."""
    mask_BT = rollouts.mask_BT
    if args.keep_tokens == 1:
        return mask_BT
    options: dict[str, Any] = {"bias_V": head.bias_V, "softcap": head.softcap, "temperature": temperature}
    states = (student_BTH[mask_BT], head.weight_VH, rollouts.tokens_BT[mask_BT])
    entropy_N = linear_token_logps(*states, return_entropy=True, **options)[1]
    entropy_BT = entropy_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, entropy_N)
    return highest_entropy(entropy_BT, mask_BT, args.keep_tokens)


def _divergences_from_top(policy: Policy, rollouts: Rollouts, args: LossArgs, temperature: float) -> Tensor:
    """Of each token's distribution, ``[B, T]``, by the top tokens that a teacher has named; 0 where it has not."""
    student_BTH = policy.response_hidden(rollouts.prompt_tokens, rollouts.tokens_BT, rollouts.mask_BT, rollouts.vision)
    head, device = head_of(policy.model), student_BTH.device
    named_B = torch.tensor([len(ids_TK) > 0 for ids_TK in rollouts.teacher_top_ids], device=device)
    student_BTH = student_BTH * head.scale
    named_BT = _kept(head, student_BTH, rollouts, args, temperature) & named_B[:, None]
    size = max(ids.shape[1] for ids in rollouts.teacher_top_ids)
    top_ids_BTK = torch.zeros(*named_BT.shape, size, dtype=torch.int32, device=device)
    top_logps_BTK = torch.zeros(*named_BT.shape, size, device=device)
    for row, (ids_TK, logps_TK) in enumerate(zip(rollouts.teacher_top_ids, rollouts.teacher_top_logps, strict=True)):
        length, k = ids_TK.shape
        top_ids_BTK[row, :length, :k] = ids_TK.to(device)
        top_logps_BTK[row, :length, :k] = logps_TK.to(device)
    return topk_forward_kl(
        student_BTH,
        head.weight_VH,
        top_ids_BTK,
        top_logps_BTK,
        named_BT,
        temperature=temperature,
        student_bias=head.bias_V,
        student_softcap=head.softcap,
    )

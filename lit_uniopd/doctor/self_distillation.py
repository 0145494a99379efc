"""The student as its own teacher: its advantages, loss and gradient are zero, but for errors and rounding."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lit_uniopd.doctor.dry_run import Case
from lit_uniopd.doctor.findings import Finding, green, red, yellow
from lit_uniopd.functional.logps import sequence_logps
from lit_uniopd.modules.opd.advantages import AdvantageArgs, rollout_advantages
from lit_uniopd.modules.opd.losses import divergence_loss, sampled_loss
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import ColocateArgs, SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import TeacherPass, encode_each
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import PairBatch, Prompt, Rollouts

PROMPTS, ANSWERS, TOKENS = 2, 2, 32
"""Prompts of each teacher, answers to each of them, and tokens of these at most."""
PAIRS = 4


@dataclass(frozen=True, slots=True)
class SelfDistillation:
    """How far a step of self-distillation is from doing nothing, in nats."""

    advantage: float
    """Mean absolute value over tokens."""
    largest: float
    loss: float
    gradient: float
    """Its norm, over that of the answers' mean log-prob, which an advantage of one nat would give."""
    drift: float
    """Mean absolute difference, over tokens, of recomputed log-probs and those of the rollout."""
    drift_largest: float
    tokens: int

    def __str__(self) -> str:
        return (
            f"mean |advantage| {self.advantage:.1e}, largest {self.largest:.1e}; loss {self.loss:.1e}; "
            f"|gradient| {self.gradient:.1e} of one nat's"
        )


def tolerance(policy: Policy, precision: str) -> float:
    """Nats per token that rounding explains: 1e-4 in float32, 0.05 in 16 and fewer bits."""
    is_float32 = next(policy.model.parameters()).dtype in (torch.float32, torch.float64)
    return 1e-4 if is_float32 and policy.args.quantization == "none" and "16" not in precision else 0.05


def small_rollouts(case: Case, prompts: list[Prompt]) -> Rollouts:
    """A few short answers by the student, sampled like those of the run."""
    sampling: SamplingArgs = case.module.sampling
    sampling = replace(sampling, n=ANSWERS, max_new_tokens=min(TOKENS, sampling.max_new_tokens))
    if sampling.server is not None:  # it would be sent weights, and the doctor changes nothing
        sampling = replace(sampling, engine="loop", server=None, colocate=ColocateArgs())
    with case.trainer.precision_plugin.forward_context():
        return write_answers(case.policy, prompts, sampling, seed=case.module.seed)


def prompts_of_all_teachers(case: Case) -> list[Prompt]:
    """The first prompts of each route, mixtures among them."""
    routes = [] if case.pool is None else [n for n in case.pool if f"teacher {n}" not in case.missing]
    return [p for name in routes for p in case.first_prompts(PROMPTS, lambda p, name=name: case.teacher_of(p) == name)]


def prompts_of_teacher(case: Case, name: str) -> list[Prompt]:
    """The first prompts that one teacher scores, by itself or in a mixture."""
    return case.first_prompts(PROMPTS, lambda prompt: name in case.readings(prompt))


def measure(case: Case) -> SelfDistillation:
    """Let the student write, score itself as a teacher would, and learn from the scores."""
    module, policy = case.module, case.policy
    rollouts = small_rollouts(case, prompts_of_all_teachers(case))
    teachers = TeacherPool.of(dict.fromkeys(module.teachers.routing.given, policy))
    common = {"temperature": module.temperature, "denominator": len(rollouts), "trained": WeightedMeans()}
    with case.trainer.precision_plugin.forward_context():
        rollouts.teacher_logps_BT, rollouts.teacher_ok_B = teachers.score(
            rollouts, temperature=module.temperature, max_tokens=module.micro_batch_tokens
        )
        rollouts.advantages_BT = rollout_advantages(rollouts, AdvantageArgs(), reference_logps_BT=None, seed=0)
        logps_BT, _ = policy.token_logps(
            rollouts.prompt_tokens,
            rollouts.tokens_BT,
            rollouts.mask_BT,
            vision=rollouts.vision,
            temperature=module.temperature,
        )
        one_nat = gradient_norm(policy, sequence_logps(logps_BT, rollouts.mask_BT, average=True).mean())
        if module.loss.kind == "sampled":
            loss = sampled_loss(policy, rollouts, module.loss, **common)
        else:
            itself = TeacherPass(policy, encode_each(policy, rollouts.prompts))
            loss = divergence_loss(policy, [itself], rollouts, module.loss, **common)
        gradient = gradient_norm(policy, loss)
    mask_BT = rollouts.mask_BT
    advantages = rollouts.advantages_BT[mask_BT].abs()
    drift = (logps_BT.detach() - rollouts.student_logps_BT)[mask_BT].abs()
    return SelfDistillation(
        advantage=float(advantages.mean()),
        largest=float(advantages.max()),
        loss=float(loss.detach().abs()),
        gradient=gradient / max(one_nat, 1e-30),
        drift=float(drift.mean()),
        drift_largest=float(drift.max()),
        tokens=int(mask_BT.sum()),
    )


def gradient_norm(policy: Policy, value: Tensor) -> float:
    """Norm of a scalar's gradient over the trained weights; the weights' own gradients are left alone."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value, trained, allow_unused=True, retain_graph=False)
    return math.sqrt(sum(float(g.float().pow(2).sum()) for g in gradients if g is not None))


def check_self_distillation(case: Case) -> Iterator[Finding]:
    """Advantage, loss and gradient with the student as its own teacher; its log-probs in rollout and update."""
    if case.pool is None or not prompts_of_all_teachers(case):
        return
    result, limit = measure(case), tolerance(case.policy, str(case.trainer.precision))
    kind = "in 32 bits" if limit < 0.01 else "in 16 or fewer bits"
    numbers = f"{str(result)[:1].upper()}{str(result)[1:]} ({result.tokens} tokens)."
    # A token's ratio multiplies its advantage, and gradients of tokens do not cancel, so these may be larger.
    if not (result.advantage <= limit and result.loss <= limit and result.gradient <= 10 * limit):
        yield red(
            "self-test",
            f"As its own teacher the student should learn nothing, {kind} to {limit:g}: {numbers}",
            "Set --model.student.attn_implementation sdpa and share_prompts false, and see which of them mends it; "
            "then report it.",
        )
    else:
        yield green("self-test", f"As its own teacher the student learns nothing. {numbers}")
    drift = f"Log-probs of rollout and update differ by {result.drift:.1e} a token, {result.drift_largest:.1e} at most."
    if result.drift > limit:
        yield yellow(
            "drift",
            drift,
            "Try --model.student.attn_implementation sdpa or another --model.sampling.engine, since what is learned "
            "from is this far from what was sampled.",
        )
    else:
        yield green("drift", drift)


def check_reference(case: Case) -> Iterator[Finding]:
    """Preference losses: before the first step the policy is its own reference."""
    module: Any = case.module
    if not case.train_pairs or not getattr(module.loss, "needs_reference", False):
        return
    policy, before = case.policy, module.policy
    module.policy = policy
    try:
        policy.keep_reference()
        with case.trainer.precision_plugin.forward_context():
            loss, logps = module.compare(PairBatch(case.train_pairs[:PAIRS]))
    finally:
        module.policy = before
    gap = ((logps.policy_P2.detach() - logps.reference_P2).abs() / logps.lengths_P2).max()
    limit = tolerance(policy, str(case.trainer.precision))
    numbers = (
        f"log-ratios of {len(logps.policy_P2)} pairs are {float(gap):.1e} nats a token at most, loss "
        f"{float(loss.loss.detach()):.6f}"
    )
    if module.loss.kind == "dpo" and not module.loss.chosen_nll and not module.loss.label_smoothing:
        numbers += f" (ln 2 is {math.log(2):.6f})"
    if not gap <= limit:
        yield red(
            "self-test",
            f"Before the first step the policy is its own reference, but {numbers}.",
            f"Set --{module.policy_flag}.attn_implementation sdpa and share_prompts false, and see which of them mends "
            "it; then report it.",
        )
    else:
        yield green("self-test", f"Before the first step the policy is its own reference: {numbers}.")

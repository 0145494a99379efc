"""The student as its own teacher: whatever is not zero then is an error, or rounding."""

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
from lit_uniopd.policy.backbone import unwrap
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import LocalTeacher
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import PairBatch, Prompt, Rollouts

PROMPTS, ANSWERS, TOKENS = 2, 2, 32
"""Prompts of each teacher, answers to each of them, and tokens of these at most."""
PAIRS = 4


class Mirror(TeacherPool):
    """The student under the name of every teacher."""

    def __init__(self, names: list[str], student: Policy) -> None:
        super().__init__(dict.fromkeys(names, replace(student.args, lora=None)))
        self._teachers = {name: LocalTeacher(name, self.args[name], student) for name in names}


@dataclass(frozen=True, slots=True)
class Itself:
    """What the student's answers are worth to the student, in nats."""

    advantage: float
    """Mean over tokens of its absolute value."""
    largest: float
    loss: float
    gradient: float
    """Norm, as a share of that of the answers' mean log-prob: what an advantage of one nat would give."""
    drift: float
    """Mean over tokens of what recomputed log-probs differ from those of the rollout."""
    drift_largest: float
    tokens: int

    def __str__(self) -> str:
        return (
            f"mean |advantage| {self.advantage:.1e}, largest {self.largest:.1e}; loss {self.loss:.1e}; "
            f"|gradient| {self.gradient:.1e} of one nat's"
        )


def tolerance(policy: Policy, precision: str) -> float:
    """Nats per token that rounding explains: 1e-4 in float32, 0.05 in 16 and fewer bits."""
    exact = next(policy.model.parameters()).dtype in (torch.float32, torch.float64)
    return 1e-4 if exact and policy.args.quantization == "none" and "16" not in precision else 0.05


def small_rollouts(case: Case, prompts: list[Prompt]) -> Rollouts:
    """A few short answers by the student, sampled like those of the run."""
    sampling: SamplingArgs = case.module.sampling
    few = replace(sampling, n=ANSWERS, max_new_tokens=min(TOKENS, sampling.max_new_tokens))
    if few.server is not None:  # which would be given weights: a visit changes nothing
        few = replace(few, engine="loop", server=None)
    with case.trainer.precision_plugin.forward_context():
        return write_answers(case.policy, prompts, few, seed=case.module.seed)


def few_prompts(case: Case) -> list[Prompt]:
    """Some of every teacher's."""
    return [p for name in case.teachers for p in prompts_of(case, name)]


def prompts_of(case: Case, name: str) -> list[Prompt]:
    """The first prompts that one teacher scores."""
    return case.first_prompts(PROMPTS, lambda prompt: case.teacher_of(prompt) == name)


def measure(case: Case) -> Itself:
    """Let the student write, score itself by the road that teachers take, and learn from that."""
    module, policy = case.module, case.policy
    rollouts = small_rollouts(case, few_prompts(case))
    mirror = Mirror(list(case.teachers), policy)
    common = {"temperature": module.temperature, "denominator": len(rollouts), "trained": WeightedMeans()}
    with case.trainer.precision_plugin.forward_context():
        rollouts.teacher_logps_BT, rollouts.teacher_ok_B = mirror.score(
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
            loss = divergence_loss(policy, policy, rollouts, module.loss, **common)
        gradient = gradient_norm(policy, loss)
    mask_BT = rollouts.mask_BT
    advantages = rollouts.advantages_BT[mask_BT].abs()
    drift = (logps_BT.detach() - rollouts.student_logps_BT)[mask_BT].abs()
    return Itself(
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
    found = torch.autograd.grad(value, trained, allow_unused=True, retain_graph=False)
    return math.sqrt(sum(float(g.float().pow(2).sum()) for g in found if g is not None))


def drops_out(policy: Policy) -> bool:
    """Whether training is noisy where answering is not."""
    layers = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in policy.modules())
    options = unwrap(policy.model).config.get_text_config().to_dict()
    return layers or any("dropout" in name and isinstance(p, float) and p > 0 for name, p in options.items())


def check_itself(case: Case) -> Iterator[Finding]:
    """Advantage, loss and gradient of the student as its own teacher; its log-probs in rollout and update."""
    if case.pool is None or not few_prompts(case):
        return
    found, limit = measure(case), tolerance(case.policy, str(case.trainer.precision))
    kind = "in 32 bits" if limit < 0.01 else "in 16 or fewer bits"
    told = f"{str(found)[:1].upper()}{str(found)[1:]} ({found.tokens} tokens)."
    # A token's ratio multiplies its advantage, and gradients of tokens do not cancel, so these may be larger.
    if not (found.advantage <= limit and found.loss <= limit and found.gradient <= 10 * limit):
        yield red(
            "self-test",
            f"As its own teacher the student should learn nothing, {kind} to {limit:g}: {told}",
            "Set --model.student.attn_implementation sdpa and share_prompts false, and see which of them mends it; "
            "then report it.",
        )
    else:
        yield green("self-test", f"As its own teacher the student learns nothing. {told}")
    drift = f"Log-probs of rollout and update differ by {found.drift:.1e} a token, {found.drift_largest:.1e} at most."
    if found.drift > limit:
        noisy = drops_out(case.policy)
        remedy = "Set the dropout of model and adapters to 0" if noisy else "Try another attention kernel"
        yield yellow("drift", drift, f"{remedy}, since what is learned from is this far from what was sampled.")
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
            found, logps = module.compare(PairBatch(case.train_pairs[:PAIRS]))
    finally:
        module.policy = before
    apart = ((logps.policy_P2.detach() - logps.reference_P2).abs() / logps.lengths_P2).max()
    limit = tolerance(policy, str(case.trainer.precision))
    told = (
        f"log-ratios of {len(logps.policy_P2)} pairs are {float(apart):.1e} nats a token at most, loss "
        f"{float(found.loss.detach()):.6f}"
    )
    if module.loss.kind == "dpo" and not module.loss.chosen_nll and not module.loss.label_smoothing:
        told += f" (ln 2 is {math.log(2):.6f})"
    if not apart <= limit:
        yield red(
            "self-test",
            f"Before the first step the policy is its own reference, but {told}.",
            f"Set --{module.policy_flag}.lora.dropout and the model's own dropout to 0, or try "
            f"--{module.policy_flag}.attn_implementation sdpa.",
        )
    else:
        yield green("self-test", f"Before the first step the policy is its own reference: {told}.")

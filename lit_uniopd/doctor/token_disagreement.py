"""Where student and teacher disagree, token by token."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from lit_uniopd.doctor.coverage import check_coverage
from lit_uniopd.doctor.dry_run import Case
from lit_uniopd.doctor.findings import Finding, green, red, yellow
from lit_uniopd.doctor.self_distillation import ANSWERS, prompts_of_teacher, small_rollouts
from lit_uniopd.modules.opd.losses import never_gap_masked
from lit_uniopd.modules.opd.own_teacher import reads_as_student, same_weights
from lit_uniopd.policy.backbone import head_of
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers import TeacherArgs
from lit_uniopd.teachers.args import DECAY
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Rollouts

MASKED = 0.05
"""Share of tokens beyond the gap threshold that is worth a look."""
WORST = 5
ROUNDINGS = {torch.float32: 24.0, torch.float64: 24.0}
"""How many eps of its type, for each nat of its parts, two computations of a log-prob may differ by. In 16 bits, where
sums are in 32 all the same, it is 0.5."""


def rounding(logps: torch.Tensor, vocabulary: int, dtype: torch.dtype) -> float:
    """Nats per token, on average, that rounding explains between two computations with the same weights.

    A log-prob is a logit less the log of a sum over the vocabulary: about ``|log p|`` and ``log V`` nats large, each
    known to a few eps.

    Args:
        logps: of the tokens that are compared.
        vocabulary: tokens that the sum is over.
        dtype: the coarser one in which the two were computed.
    """
    size = math.log(vocabulary) + float(logps.abs().mean())
    return ROUNDINGS.get(dtype, 0.5) * torch.finfo(dtype).eps * size


def check_disagreement(case: Case) -> Iterator[Finding]:
    """Score a few answers by each real teacher, with one in memory at a time."""
    for name in case.teachers:
        if name in case.unreachable:
            continue
        if prompts := prompts_of_teacher(case, name):
            rollouts = small_rollouts(case, prompts)
            pool = _pool_of(case, name, rollouts)
            yield _disagreement(case, name, pool, rollouts)
            if (finding := check_coverage(case, name, pool, rollouts)) is not None:
                yield finding


def _pool_of(case: Case, name: str, rollouts: Rollouts) -> TeacherPool:
    """One teacher, loaded; the answers are routed to it."""
    args: TeacherArgs = case.module.teachers.args[name]
    if args.is_student:  # which is the same before training, and takes no copy
        args = replace(args, weights="student", decay=DECAY)
    pool = TeacherPool({name: args})
    pool.learn_rows(case.train_prompts, case.module.seed)
    pool.load(case.policy)
    pool.to(case.device)
    # None is graded here: another answer of the group stands for its best one, where the teacher reads that.
    others = [rollouts.text[row ^ 1].strip() or None if pool.showing_best else None for row in range(len(rollouts))]
    rollouts.prompts = [
        replace(prompt, teacher=name, best_answer=other) for prompt, other in zip(rollouts.prompts, others, strict=True)
    ]
    return pool


def _disagreement(case: Case, name: str, pool: TeacherPool, rollouts: Rollouts) -> Finding:
    module, title, args = case.module, f"disagreement {name}", pool.args[name]
    with case.trainer.precision_plugin.forward_context():
        teacher_BT, ok_B = pool.score(rollouts, temperature=module.temperature, max_tokens=module.micro_batch_tokens)
    mask_BT = rollouts.scored_BT & ok_B[:, None]
    failures = "; ".join(f"{reason}: {count}" for reason, count in sorted(pool.failures.items()))
    if not bool(mask_BT.any()):
        return red(title, f"It scored none of {len(rollouts)} answers ({failures}).", "Mend or replace this teacher.")
    gaps = (teacher_BT - rollouts.student_logps_BT)[mask_BT]
    sizes = gaps.abs()
    median, p90 = torch.quantile(sizes.float(), torch.tensor([0.5, 0.9], device=sizes.device)).tolist()
    limit = module.loss.gap_threshold if module.loss.kind == "sampled" else None
    maskable = _maskable(case, rollouts)[mask_BT]
    beyond = 0.0 if limit is None else float(((sizes >= limit) & maskable).float().mean())
    numbers = (
        f"|log p_T - log p_S| is {float(sizes.mean()):.3g} nats a token (median {median:.2g}, 90 % {p90:.2g}, "
        f"most {float(sizes.max()):.3g}; {len(sizes)} tokens)"
    )
    numbers += "" if limit is None else f", {beyond:.1%} at {limit:g} nats or more"
    details = _worst(case, name, rollouts, teacher_BT, mask_BT)
    share = 1 - float(ok_B.float().mean())
    if share > module.max_teacher_failures:
        return red(
            title,
            f"It could not score {share:.0%} of {len(rollouts)} answers ({failures}).",
            "Mend the teacher, or raise --model.max_teacher_failures.",
            details,
        )
    if failures:
        remedy = "These answers train nothing; see the lines on tokens and templates above."
        return yellow(title, f"{numbers}; not scored: {failures}.", remedy, details)
    if beyond > MASKED:
        return yellow(
            title,
            f"{numbers}, which the loss masks.",
            "Look at the two templates first, then at the tokens below; --model.loss.gap_threshold sets the limit.",
            details,
        )
    if same := _same(case, name, pool, rollouts, teacher_BT, mask_BT):
        remedy = f"Check that --model.teachers.{name}.path is not the student's own."
        if args.is_student:
            remedy = f"Let it read something else than the student by --model.teachers.{name}.reads."
        return yellow(title, f"{numbers}: {same}, so there is nothing to learn from it.", remedy)
    return green(title, f"{numbers}.", details)


def _maskable(case: Case, rollouts: Rollouts) -> torch.Tensor:
    """Tokens that the gap mask may take, bool ``[B, T]``."""
    spared_BT = never_gap_masked(rollouts, case.module.loss, case.policy.eos_ids)
    return rollouts.mask_BT if spared_BT is None else rollouts.mask_BT & ~spared_BT


def _same(
    case: Case, name: str, pool: TeacherPool, rollouts: Rollouts, teacher_BT: torch.Tensor, mask_BT: torch.Tensor
) -> str:
    """Why the teacher is the student itself; empty: it is another model."""
    options: dict[str, Any] = {"temperature": case.module.temperature, "max_tokens": case.module.micro_batch_tokens}
    student, teacher = case.policy, pool.loaded.get(name)
    alike = reads_as_student(student, pool, name, rollouts.prompts[::ANSWERS])
    if alike and (pool.args[name].is_student or (teacher is not None and same_weights(student, teacher))):
        return "it has the student's weights and reads the same prompts"
    own_BT, dtype = rollouts.student_logps_BT, _dtype(student)
    if teacher is not None and _dtype(teacher) == dtype:
        # Scored as the teacher is, the student's own log-probs differ by the last digits of 32 bits at most.
        with case.trainer.precision_plugin.forward_context():
            own_BT, _ = TeacherPool.of({name: student}).score(rollouts, **options)
        dtype = torch.float32
    elif teacher is not None:
        dtype = max(dtype, _dtype(teacher), key=lambda dtype: torch.finfo(dtype).eps)
    elif "16" in str(case.trainer.precision):
        dtype = torch.bfloat16
    gap = float((teacher_BT - own_BT)[mask_BT].abs().mean())
    limit = rounding(own_BT[mask_BT], head_of(student.model).weight_VH.shape[0], dtype)
    return f"that is rounding ({limit:.1e} nats a token at this vocabulary)" if gap <= limit else ""


def _dtype(policy: Policy) -> torch.dtype:
    return next(p.dtype for p in policy.parameters() if p.is_floating_point())


def _worst(case: Case, name: str, rollouts: Rollouts, teacher_BT: torch.Tensor, mask_BT: torch.Tensor) -> str:
    """The tokens on which student and teacher differ most, with the text before them."""
    sizes_BT = (teacher_BT - rollouts.student_logps_BT).abs().masked_fill(~mask_BT, -1)
    tokenizer = case.policy.tokenizer
    lines = [f"most disagreed tokens of teacher {name}:  student  teacher"]
    listed: set[tuple[str, int]] = set()
    for flat in sizes_BT.flatten().argsort(descending=True)[: int(mask_BT.sum())].tolist():
        row, column = divmod(flat, sizes_BT.shape[1])
        ids = rollouts.tokens_BT[row].tolist()
        before = str(tokenizer.decode(ids[max(0, column - 6) : column]))[-24:]
        if (before, ids[column]) in listed:  # in another answer
            continue
        listed.add((before, ids[column]))
        token = tokenizer.convert_ids_to_tokens(ids[column])
        student_logp, teacher_logp = float(rollouts.student_logps_BT[row, column]), float(teacher_BT[row, column])
        lines.append(f"  {before!r:>28} then {str(token)[:20]!r:<22} {student_logp:8.2f} {teacher_logp:8.2f}")
        if len(listed) == WORST:
            break
    return "\n".join(lines)

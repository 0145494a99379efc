"""Forward passes over the answers of a rollout: which go together, and log-probs without gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from lit_uniopd.distributed.collectives import max_over_ranks
from lit_uniopd.policy.micro_batches import equal_count
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt, Rollouts


def forward_batches(
    policy: Policy, rollouts: Rollouts, max_tokens: int, lengths: Sequence[int] | None = None
) -> list[list[int]]:
    """Rows of each forward pass of a policy that reads what the student reads.

    Args:
        policy: the student or its reference.
        rollouts: the answers.
        max_tokens: of a forward pass.
        lengths: tokens that each prompt counts at least, where a teacher in the same pass reads more; None: its own.
    """
    least = lengths or [0] * len(rollouts)
    prompts = [
        [*tokens, *[policy.pad_id] * (length - len(tokens))] if length > len(tokens) else tokens
        for tokens, length in zip(rollouts.prompt_tokens, least, strict=True)
    ]
    return policy.micro_batches(prompts, rollouts.tokens_BT, rollouts.mask_BT, max_tokens, vision=rollouts.vision)


def longest_reading(module: Any, prompts: Sequence[Prompt], processor: Any) -> int:
    """Tokens of the longest prompt of a teacher that reads another than the student; 0: all read the student's.

    Args:
        module: ``UniOPD``.
        prompts: of the training data.
        processor: of the student.
    """
    options = (processor, module.policy_args, module.sampling.max_new_tokens)
    return max(module.teachers.longest_prompts(prompts, *options).values(), default=0)


def update_batches(
    module: LightningModule,
    policy: Policy,
    rollouts: Rollouts,
    rows: Sequence[int],
    max_tokens: int,
    teachers: TeacherPool | None,
) -> list[tuple[str, list[int]]]:
    """Teacher and rows of each micro-batch of an update, equally many on every rank. A collective call.

    Where the loss needs teachers, answers that they could not score are in none: a weight of 0 would not keep out
    states that are not finite, nor tokens that a teacher does not have.

    Args:
        module: being trained.
        policy: the student.
        rollouts: this rank's answers.
        rows: of the update.
        max_tokens: of a forward pass.
        teachers: where the loss needs the teacher itself, so that a micro-batch is of one; None, and for teachers on
            servers, whose answers may be mixed: the name is empty.
    """
    batches: list[tuple[str, list[int]]] = []
    if teachers is not None:
        scored = rollouts.teacher_ok_B.tolist()
        rows = [row for row in rows if scored[row]]

    def needed(name: str) -> str:
        return name if teachers is not None and teachers.is_here(name) else ""

    # On every rank the same teachers in the same order: their weights may be sharded over all.
    for name in [""] if teachers is None else dict.fromkeys(map(needed, teachers.names)):
        routed = [row for row in rows if teachers is None or needed(teachers.route(rollouts.prompts[row])) == name]
        lengths = teachers.lengths([rollouts.prompts[row] for row in routed]) if teachers is not None and name else None
        passes = forward_batches(policy, rollouts[routed], max_tokens, lengths) if routed else []
        count, groups = int(max_over_ranks(module, len(passes))), rollouts.group_B[routed].tolist()
        batches += [(name, [routed[i] for i in batch]) for batch in equal_count(passes, count, groups)]
    return batches


def micro_rollouts(rollouts: Rollouts, batch: Sequence[int], kind: str) -> Rollouts:
    """The answers of a micro-batch.

    Args:
        rollouts: this rank's answers.
        batch: rows; of a rank with too few answers none, which takes part in the exchange with an answer of weight 0.
        kind: of the loss. For a comparison with teachers that answer is one token which every model has, behind a
            prompt whose answer was scored, if there is one.
    """
    if batch or kind == "sampled":
        return rollouts[batch or [0]]
    answer = rollouts[[int(rollouts.teacher_ok_B.int().argmax())]]
    answer.mask_BT[:, 1:] = False
    answer = answer[[0]]
    answer.tokens_BT.zero_()
    answer.teacher_top_ids = [ids_TK[:1] for ids_TK in answer.teacher_top_ids]
    answer.teacher_top_logps = [logps_TK[:1] for logps_TK in answer.teacher_top_logps]
    return answer


def frozen_logps(policy: Policy, rollouts: Rollouts, *, temperature: float, max_tokens: int) -> Tensor:
    """Log-probs ``[B, T]`` of the answers under a policy that reads what the student reads, without gradient.

    Args:
        policy: the student or its reference.
        rollouts: the answers.
        temperature: divides the logits.
        max_tokens: of a forward pass.
    """
    logps_BT = torch.zeros_like(rollouts.student_logps_BT)
    with policy.gathered(), policy.answering():
        for rows in forward_batches(policy, rollouts, max_tokens):
            batch = rollouts[rows]
            batch_logps_BT, _ = policy.token_logps(
                batch.prompt_tokens, batch.tokens_BT, batch.mask_BT, vision=batch.vision, temperature=temperature
            )
            logps_BT[rows, : batch_logps_BT.shape[1]] = batch_logps_BT.to(logps_BT)
    return logps_BT

"""Which rank trains on which answers, and in which of a rollout's updates."""

from collections.abc import Sequence

import torch
from lightning import LightningModule

from lit_uniopd.distributed.collectives import exchange, gather_over_ranks
from lit_uniopd.distributed.load_balancing import load_imbalance, rebalance
from lit_uniopd.policy.policy import Policy
from lit_uniopd.policy.shared_prefix import WORTH_PACKING
from lit_uniopd.teachers import encode_each
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt, Rollouts


def group_ids(module: LightningModule, prompts: int) -> list[int]:
    """Numbers of this rank's groups, as samplers deal prompts out: they do not depend on how many ranks there are."""
    ranks = module.trainer.world_size
    return [module.global_rank + i * ranks for i in range(prompts)]


def prompt_of(group: int, batches: Sequence[Sequence[Prompt]]) -> Prompt:
    """What a group of ``group_ids`` answers, among the batches of all ranks."""
    return batches[group % len(batches)][group // len(batches)]


def rebalance_groups(module: LightningModule, policy: Policy, teachers: TeacherPool, rollouts: Rollouts) -> Rollouts:
    """Move groups of finished answers to ranks that have less to do, before they are scored. A collective call.

    Groups stay whole: what is computed over a group needs them so, and their prompt is computed once. Pictures are
    processed again where their group goes.

    Args:
        module: being trained; the load of the busiest rank over the mean is logged, before and after.
        policy: the student.
        teachers: their prompts cost as well, where they are not the student's.
        rollouts: this rank's answers, neither graded nor scored.

    Returns:
        The answers that this rank is to score and train on, in the order of their groups.
    """
    if module.trainer.world_size == 1:
        return rollouts
    rows_of: dict[int, list[int]] = {}
    for row, group in enumerate(rollouts.group_B.tolist()):
        rows_of.setdefault(group, []).append(row)
    groups = list(rows_of.values())
    lengths = teachers.lengths([rollouts.prompts[rows[0]] for rows in groups])
    shared = policy.args.share_prompts
    costs = [_cost(rollouts, rows, length, shared) for rows, length in zip(groups, lengths, strict=True)]
    costs = gather_over_ranks(module, costs)
    plan = rebalance(costs)
    loads = [sum(costs[rank][i] for rank, i in pieces) for pieces in plan]
    before, after = load_imbalance([sum(rank_costs) for rank_costs in costs]), load_imbalance(loads)
    module.log_dict({"time/busiest_rank_wrote": before, "time/busiest_rank": after})
    if before == after:
        return rollouts
    me = module.global_rank
    rows_for = [[row for rank, i in pieces if rank == me for row in groups[i]] for pieces in plan]
    parcels = [
        without_vision(rollouts[rows].to("cpu")) if rows and rank != me else None for rank, rows in enumerate(rows_for)
    ]
    chunks = [rollouts[rows_for[me]]] if rows_for[me] else []
    for chunk in exchange(module, parcels):
        if chunk is not None:
            if any(prompt.images for prompt in chunk.prompts):
                chunk.vision = [prompt.vision for prompt in encode_each(policy, chunk.prompts)]
            chunks.append(chunk.to(module.device))
    rebalanced = Rollouts.cat(chunks)
    return rebalanced[rebalanced.group_B.argsort(stable=True)]


def _cost(rollouts: Rollouts, rows: Sequence[int], teacher_prompt: int, shared: bool) -> int:
    """Tokens of a group in the teacher's forward pass and in the student's passes, forward and backward being three.

    Args:
        rollouts: of this rank.
        rows: of the group.
        teacher_prompt: tokens of the prompt as the teacher reads it; 0: as the student does.
        shared: whether prompts may be shared.
    """
    answers, pictured = int(rollouts.mask_BT[list(rows)].sum()), bool(rollouts.vision[rows[0]])
    student_prompt = len(rollouts.prompt_tokens[rows[0]])
    student, teacher = (
        group_tokens(prompt, answers, len(rows), shared=shared, pictured=pictured)
        for prompt in (student_prompt, teacher_prompt or student_prompt)
    )
    return 3 * student + teacher


def group_tokens(prompt: int, answers: int, count: int, *, shared: bool, pictured: bool = False) -> int:
    """Tokens that the answers to one prompt cost in a forward pass, the prompt once where it is worth sharing.

    Args:
        prompt: tokens of the prompt.
        answers: tokens of all answers.
        count: of the answers.
        shared: whether prompts may be shared at all.
        pictured: whether the prompt has pictures, which is always worth it.
    """
    packed, padded = prompt + answers, count * prompt + answers
    return packed if shared and (packed <= WORTH_PACKING * padded or pictured) else padded


def without_vision(rollouts: Rollouts) -> Rollouts:
    """The same answers, which may travel: pictures are processed again, or still there, where they go."""
    rollouts.vision = [{}] * len(rollouts)
    return rollouts


def split_updates(module: LightningModule, rollouts: Rollouts, count: int, *, seed: int) -> list[list[int]]:
    """This rank's rows of each of the optimizer steps that use a rollout.

    All ranks' answers are divided together, at random, so that a step takes the same ones however many ranks there are;
    of some steps a rank may have none.

    Args:
        module: being trained.
        rollouts: this rank's answers.
        count: of optimizer steps; each takes an equal share of all answers.
        seed: of the division, the same on every rank.
    """
    if count == 1:
        return [list(range(len(rollouts)))]
    groups = gather_over_ranks(module, rollouts.group_B.tolist())
    # In the order in which one process would have them.
    answers = sorted(
        (group, rank, row) for rank, rank_groups in enumerate(groups) for row, group in enumerate(rank_groups)
    )
    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(seed))
    updates = [[answers[i] for i in indices.tolist()] for indices in order.tensor_split(count)]
    return [[row for _, rank, row in update if rank == module.global_rank] for update in updates]

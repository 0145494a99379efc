"""Which rank trains on which answers, and in which of a rollout's updates."""

import torch
from lightning import LightningModule

from lit_uniopd.modules.sync import gather_over_ranks
from lit_uniopd.types import Rollouts


def update_parts(module: LightningModule, rollouts: Rollouts, count: int, *, seed: int) -> list[list[int]]:
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
    every = sorted((group, rank, row) for rank, own in enumerate(groups) for row, group in enumerate(own))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
    drawn = [[every[i] for i in part.tolist()] for part in order.tensor_split(count)]
    return [[row for _, rank, row in part if rank == module.global_rank] for part in drawn]

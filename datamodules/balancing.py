"""Online correctness-aware balancing: which of the student's answers an update uses (Uni-OPD)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from lit_uniopd.errors import UserError
from lit_uniopd.functional.balance import Scope, balance_outcomes
from lit_uniopd.types import CORRECT, INCORRECT, UNKNOWN, Rollouts


@dataclass
class OnlineBalanceArgs:
    """Bring correct and incorrect answers to a ratio by leaving some out of the update.

    Groups in which all answers are correct, or all incorrect, are left alone.
    """

    ratio: float = 1.0
    """Correct answers for each incorrect one; .75 to 1.2 worked in the paper. 0 trains on no correct answer, .inf (in
    YAML) on no incorrect one."""
    scope: Scope = "group"
    """group: the answers to each prompt; global: the rollout as a whole, over all ranks."""
    unknown: Literal["excluded", "incorrect"] = "excluded"
    """Answers whose outcome is unknown always train (excluded), or count as incorrect, as in the released code."""

    def __post_init__(self) -> None:
        if math.isnan(self.ratio) or self.ratio < 0:
            raise UserError(f"--data.online_balance.ratio must be 0 or more, not {self.ratio}.")


def balance_rollouts(rollouts: Rollouts, args: OnlineBalanceArgs, seed: int) -> dict[str, tuple[float, int]]:
    """Set ``keep_B`` to False for the answers that are left out. A collective call if the scope is global.

    Args:
        rollouts: graded; changed in place.
        args: how to balance.
        seed: of the choice, the same on all ranks.

    Returns:
        What to log: name -> (sum, count) over this rank's answers.
    """
    outcome_B, group_B, local_rows = _over_ranks(rollouts, args.scope)
    keep_B = balance_outcomes(outcome_B, group_B, ratio=args.ratio, scope=args.scope, unknown=args.unknown, seed=seed)
    keep_B = keep_B[local_rows].to(rollouts.keep_B.device)
    rollouts.keep_B &= keep_B
    outcomes, answers = rollouts.outcome_B, len(rollouts)
    return {
        "balance/removed_correct": (float((~keep_B & (outcomes == CORRECT)).sum()), answers),
        "balance/removed_incorrect": (float((~keep_B & (outcomes != CORRECT)).sum()), answers),
        "balance/unknown": (float((outcomes == UNKNOWN).sum()), answers),
        "balance/correct_share": (
            float((keep_B & (outcomes == CORRECT)).sum()),
            int((keep_B & ((outcomes == CORRECT) | (outcomes == INCORRECT))).sum()),
        ),
    }


def _over_ranks(rollouts: Rollouts, scope: Scope) -> tuple[Tensor, Tensor, slice | Tensor]:
    """Outcomes and groups of all ranks, and which rows are this rank's. A group's answers are all on one rank."""
    outcome_B, group_B = rollouts.outcome_B.cpu(), rollouts.group_B.cpu()
    if scope == "group" or not (dist.is_available() and dist.is_initialized()):
        return outcome_B, group_B, slice(None)
    rank, by_rank = dist.get_rank(), [torch.empty(0)] * dist.get_world_size()
    dist.all_gather_object(by_rank, torch.stack([outcome_B, group_B]))
    start = sum(rows.shape[1] for rows in by_rank[:rank])
    outcome_B, group_B = torch.cat(by_rank, dim=1)
    # In the order of a single process, so that the choice is the same.
    order_B = group_B.argsort(stable=True)
    local_B = order_B.argsort()[start : start + by_rank[rank].shape[1]]
    return outcome_B[order_B], group_B[order_B], local_B

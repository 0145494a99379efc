"""Scored rollouts with given returns."""

import torch

from lit_uniopd.grade import NO_GRADER
from lit_uniopd.types import Prompt, Rollouts


def rollouts(returns: list[list[float]], outcomes: list[int], groups: list[int]) -> Rollouts:
    """Scored answers whose token advantages are given; student log-probs are 0."""
    width = max(map(len, returns))
    advantages = torch.tensor([row + [0.0] * (width - len(row)) for row in returns])
    mask = torch.tensor([[i < len(row) for i in range(width)] for row in returns])
    count = len(returns)
    return Rollouts(
        prompts=[Prompt(id=str(g), messages=({"role": "user", "content": ""},)) for g in groups],
        prompt_tokens=[[1]] * count,
        tokens_BT=torch.ones_like(mask, dtype=torch.long),
        mask_BT=mask,
        student_logps_BT=torch.zeros_like(advantages),
        group_B=torch.tensor(groups),
        finish=["stop"] * count,
        text=[""] * count,
        outcome_B=torch.tensor(outcomes),
        grades=[NO_GRADER] * count,
        teacher_logps_BT=advantages.clone(),
        teacher_ok_B=torch.ones(count, dtype=torch.bool),
        advantages_BT=advantages,
        keep_B=torch.ones(count, dtype=torch.bool),
    )

"""Advantages that baselines and controls put in place of the teacher's token scores, or beside them."""

from typing import Literal

import torch
from torch import Tensor

from lit_uniopd.functional.projection import math_dtype

OutcomeScale = Literal["mean", "std"]


@torch.no_grad()
def outcome_advantages(outcome_B: Tensor, group_B: Tensor, *, scale: OutcomeScale = "mean") -> Tensor:
    """Outcome reward (1 correct, 0 incorrect) relative to the group, ``[B]``; 0 where the outcome is unknown.

    ``r - mean(r)`` over the group's known outcomes, and with ``std`` divided by their standard deviation, which is
    GRPO's advantage (DeepSeekMath, arXiv 2402.03300, section 4.1). Groups of one outcome get 0 either way.

    Args:
        outcome_B: 1 correct, 0 incorrect, -1 unknown (in no mean).
        group_B: Number of each sample's prompt.
        scale: ``mean`` only centres, so mixed outcomes weigh more; ``std`` gives all prompts the same spread.

    Raises:
        ValueError: if the shapes differ or ``scale`` is unknown.

    Example:
        >>> outcome_advantages(torch.tensor([1, 0, 0, 0, -1]), torch.tensor([7, 7, 7, 7, 7]))
        tensor([ 0.7500, -0.2500, -0.2500, -0.2500,  0.0000])
    """
    if outcome_B.shape != group_B.shape:
        raise ValueError(f"group_B has shape {tuple(group_B.shape)}, outcome_B {tuple(outcome_B.shape)}")
    if scale not in ("mean", "std"):
        raise ValueError(f"scale must be 'mean' or 'std', got {scale!r}")
    graded_B = outcome_B >= 0
    reward_B = outcome_B.clamp(min=0).double()
    numbers, index_B = group_B.unique(return_inverse=True)
    zeros_G = torch.zeros(len(numbers), dtype=torch.float64, device=outcome_B.device)
    count_G = zeros_G.index_add(0, index_B, graded_B.double())
    mean_G = zeros_G.index_add(0, index_B, reward_B) / count_G.clamp(min=1)
    centred_B = torch.where(graded_B, reward_B - mean_G[index_B], 0.0)
    if scale == "std":
        variance_G = zeros_G.index_add(0, index_B, centred_B.square()) / (count_G - 1).clamp(min=1)
        spread_B = variance_G.sqrt()[index_B]
        centred_B = torch.where(spread_B > 0, centred_B / spread_B.clamp(min=1e-12), 0.0)
    return centred_B.float()


@torch.no_grad()
def shuffled_advantages(advantages_BT: Tensor, mask_BT: Tensor, *, seed: int) -> Tensor:
    """The same advantages on other tokens: permuted over all response tokens of the rollout.

    Their distribution is the teacher's, their places are not: what a student still gains from them does not come from
    the teacher's knowledge of the tokens.

    Args:
        advantages_BT: Token advantages.
        mask_BT: True on the tokens among which they are permuted; elsewhere they stay.
        seed: Of the permutation.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> advantages_BT, mask_BT = torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([[True, True, True, False]])
        >>> shuffled_BT = shuffled_advantages(advantages_BT, mask_BT, seed=0)
        >>> sorted(shuffled_BT[0, :3].tolist()), shuffled_BT[0, 3].item()
        ([1.0, 2.0, 3.0], 9.0)
    """
    _check(advantages_BT, mask_BT)
    mask = mask_BT.bool()
    values_N = advantages_BT[mask]
    order_N = torch.randperm(len(values_N), generator=torch.Generator().manual_seed(seed)).to(values_N.device)
    return advantages_BT.masked_scatter(mask, values_N[order_N])


@torch.no_grad()
def constant_negative_advantages(advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Every response token punished alike, by the mean absolute advantage of the rollout.

    Pushing down whatever was sampled is a signal as strong as the teacher's, without any of its knowledge.

    Args:
        advantages_BT: Token advantages.
        mask_BT: True on the tokens that are averaged and punished; elsewhere the result is 0.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> constant_negative_advantages(torch.tensor([[1.0, -3.0, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([[-2., -2.,  0.]])
    """
    _check(advantages_BT, mask_BT)
    mask = mask_BT.bool()
    strength = torch.where(mask, advantages_BT.to(math_dtype(advantages_BT)).abs(), 0.0).sum() / mask.sum().clamp(min=1)
    return torch.where(mask, -strength, 0.0).to(advantages_BT.dtype)


def _check(advantages_BT: Tensor, mask_BT: Tensor) -> None:
    if advantages_BT.shape != mask_BT.shape:
        raise ValueError(f"mask_BT has shape {tuple(mask_BT.shape)}, advantages_BT {tuple(advantages_BT.shape)}")

"""Which tokens of an answer train."""

import torch
from torch import Tensor

from lit_uniopd.functional.projection import check_positive


def kept_lengths(lengths_B: Tensor, share: float) -> Tensor:
    """How many tokens of each answer ``highest_entropy`` keeps: a share, rounded up.

    Example:
        >>> kept_lengths(torch.tensor([4, 5, 0]), 0.5)
        tensor([2, 3, 0])
    """
    # A share such as .1 is a little more than it says in binary: 30 tokens of 300 are 30.
    return (lengths_B.double() * share - 1e-9).ceil().clamp(min=0).long()


@torch.no_grad()
def highest_entropy(entropy_BT: Tensor, mask_BT: Tensor, share: float) -> Tensor:
    """The tokens of each answer before which the student is least sure, bool ``[B, T]`` (TIP, arXiv 2604.14084).

    Of each answer by itself, so that the choice depends neither on the other answers of a batch nor on ranks; of tokens
    that tie, the earlier.

    Args:
        entropy_BT: of the student's next-token distributions.
        mask_BT: True on response tokens.
        share: of an answer's tokens, rounded up; in (0, 1].

    Raises:
        ValueError: if the share is out of range.

    Example:
        >>> highest_entropy(torch.tensor([[0.1, 0.9, 0.5, 0.0]]), torch.tensor([[True, True, True, False]]), 0.5)
        tensor([[False,  True,  True, False]])
    """
    check_positive(share=share)
    if share > 1:
        raise ValueError(f"share must be at most 1, got {share}")
    mask = mask_BT.bool()
    order = entropy_BT.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    first = places < kept_lengths(mask.sum(dim=1), share)[:, None]
    return torch.zeros_like(mask).scatter_(1, order, first)

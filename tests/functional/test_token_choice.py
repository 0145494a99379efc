"""Which tokens train, against sorting by hand."""

import math

import pytest
import torch

from lit_uniopd.functional.token_choice import highest_entropy, kept_lengths


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.5, 0.75, 1.0])
def test_as_many_as_the_share_says_and_the_largest_of_each_answer(share):
    generator = torch.Generator().manual_seed(0)
    lengths = [0, 1, 2, 10, 40]
    mask_BT = torch.arange(40) < torch.tensor(lengths)[:, None]
    entropy_BT = torch.randint(0, 12, (5, 40), generator=generator).float()  # many ties
    kept_BT = highest_entropy(entropy_BT, mask_BT, share)
    assert kept_lengths(torch.tensor(lengths), share).tolist() == kept_BT.sum(1).tolist()
    for row, length in enumerate(lengths):
        count = math.ceil(round(share * length, 6))
        by_hand = sorted(range(length), key=lambda t, row=row: (-float(entropy_BT[row, t]), t))[:count]
        assert kept_BT[row].nonzero()[:, 0].tolist() == sorted(by_hand)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        highest_entropy(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), share)

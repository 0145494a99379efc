"""Weights of pairs as numbers and as a table."""

import math

import pytest
import torch

from lit_uniopd.diagnostics.preferences import WeighedPairs, joined, weights_table
from lit_uniopd.types import EncodedPair, PreferencePair, Prompt


def some(gaps: list[float], margins: list[float], quality: list[float], performance: list[float]) -> WeighedPairs:
    prompt = Prompt("p", ({"role": "user", "content": "ask"},))
    pairs = tuple(EncodedPair(PreferencePair(prompt, f"good{i}", "bad"), (), (), ()) for i in range(len(gaps)))
    return WeighedPairs(pairs, *map(torch.tensor, (gaps, margins, quality, performance)))


def test_statistics_of_weights():
    pairs = some([1.0, 2.0, 3.0, 4.0], [0.1, 0.4, 0.9, 0.2], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0])
    assert pairs.effective_share == pytest.approx(0.25)
    assert pairs.rank_correlation == pytest.approx(1 - 6 * (0 + 1 + 1 + 4) / (4 * 15))  # by hand: ranks 1 3 4 2
    assert some([1.0], [1.0], [0.0], [1.0]).effective_share == 0
    assert math.isnan(some([1.0, 1.0], [0.1, 0.2], [1.0] * 2, [1.0] * 2).rank_correlation)
    assert math.isnan(some([math.nan] * 2, [0.1, 0.2], [1.0] * 2, [1.0] * 2).rank_correlation)


def test_batches_are_joined_in_order_and_the_table_has_both_ends():
    first = some([1.0, 2.0], [0.0, 0.0], [0.5, 1.0], [1.0, 1.0])
    both = joined([first, some([3.0], [0.0], [0.1], [1.0])])
    assert both.weights.tolist() == pytest.approx([0.5, 1.0, 0.1])
    lines = weights_table(both, count=1).splitlines()
    assert len(lines) == 4
    assert "1.000" in lines[2]
    assert "0.100" in lines[3]

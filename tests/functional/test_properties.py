"""What calibration and balancing promise for any rollout."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_uniopd.functional.balance import balance_outcomes
from lit_uniopd.functional.grouped_returns import trajectory_returns
from lit_uniopd.functional.margin import margin_shift
from lit_uniopd.functional.order import order_consistency

Sample = tuple[list[float], int, int]
"""Token advantages, outcome, group."""


@st.composite
def rollouts(draw: Any) -> list[Sample]:
    token = st.floats(-20, 20, width=32)
    sample = st.tuples(st.lists(token, min_size=1, max_size=5), st.sampled_from([-1, 0, 1]), st.integers(0, 3))
    return draw(st.lists(sample, min_size=1, max_size=16))


def tensors(samples: list[Sample], padding: int = 0, filler: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = max(len(tokens) for tokens, _, _ in samples) + padding
    advantages = torch.tensor([tokens + [filler] * (width - len(tokens)) for tokens, _, _ in samples])
    mask = torch.tensor([[i < len(tokens) for i in range(width)] for tokens, _, _ in samples])
    outcome, group = (torch.tensor([sample[i] for sample in samples]) for i in (1, 2))
    return advantages.double(), mask, outcome, group


OPTIONS = st.fixed_dictionaries(
    {
        "statistic": st.sampled_from(["mean", "minmax"]),
        "direction": st.sampled_from(["correct_up", "incorrect_down", "both"]),
        "delta": st.floats(-1, 2),
    }
)


@given(rollouts(), OPTIONS)
def test_after_a_shift_every_mixed_group_has_its_margin(samples, options):
    advantages, mask, outcome, group = tensors(samples)
    result = margin_shift(advantages, mask, outcome, group, **options)
    report = order_consistency(trajectory_returns(result.advantages, mask), outcome, group)
    margins = report.margin_mean if options["statistic"] == "mean" else report.margin_minmax
    assert (margins >= options["delta"] - 1e-6).all()


@given(rollouts(), OPTIONS)
def test_a_shift_moves_all_tokens_of_an_answer_alike_and_no_unmixed_or_unknown_answer(samples, options):
    advantages, mask, outcome, group = tensors(samples)
    moved = margin_shift(advantages, mask, outcome, group, **options).advantages - advantages
    for row in range(len(samples)):
        steps = moved[row][mask[row]]
        assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-12)
        kinds = set(outcome[group == group[row]].tolist())
        if outcome[row] == -1 or not {0, 1} <= kinds:
            assert not moved[row].any()
        assert not moved[row][~mask[row]].any()


@given(rollouts(), OPTIONS, st.integers(1, 4), st.floats(-100, 100))
def test_padding_changes_nothing(samples, options, padding, filler):
    plain = margin_shift(*tensors(samples), **options)
    padded = margin_shift(*tensors(samples, padding, filler), **options)
    assert torch.equal(plain.shift_B, padded.shift_B)


def imbalance(outcome: Tensor, keep: Tensor) -> int:
    return abs(int((outcome[keep] == 1).sum()) - int((outcome[keep] == 0).sum()))


@given(rollouts(), st.integers(0, 5))
def test_balancing_never_makes_a_group_less_balanced_nor_empties_it(samples, seed):
    _, _, outcome, group = tensors(samples)
    keep = balance_outcomes(outcome, group, seed=seed)
    assert keep[outcome == -1].all()
    for number in group.unique():
        here = group == number
        assert imbalance(outcome[here], keep[here]) <= imbalance(outcome[here], torch.ones_like(keep[here]))
        for kind in (0, 1):
            assert (keep & here & (outcome == kind)).any() == (here & (outcome == kind)).any()
        kinds = set(outcome[here].tolist()) - {-1}
        assert imbalance(outcome[here], keep[here]) == 0 or len(kinds) < 2


@given(rollouts(), st.integers(0, 5), st.randoms(use_true_random=False))
def test_balancing_keeps_as_many_of_each_kind_in_any_order(samples, seed, random):
    _, _, outcome, group = tensors(samples)
    order = list(range(len(samples)))
    random.shuffle(order)
    keep, mixed = balance_outcomes(outcome, group, seed=seed), balance_outcomes(outcome[order], group[order], seed=seed)
    for number in group.unique():
        for kind in (0, 1):
            here = (group == number) & (outcome == kind)
            there = (group[order] == number) & (outcome[order] == kind)
            assert int(keep[here].sum()) == int(mixed[there].sum())
    # Answers of another group, wherever they stand, do not change which ones of a group stay.
    first = group == group[0]
    alone = balance_outcomes(outcome[first], group[first], seed=seed)
    assert torch.equal(keep[first], alone)

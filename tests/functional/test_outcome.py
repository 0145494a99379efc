import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_uniopd.functional.outcome import constant_negative_advantages, outcome_advantages, shuffled_advantages


def by_hand(outcomes: list[int], groups: list[int], scale: str) -> list[float]:
    """One group after the other, with the standard library."""
    import statistics

    advantages = []
    for outcome, group in zip(outcomes, groups, strict=True):
        graded = [o for o, g in zip(outcomes, groups, strict=True) if g == group and o >= 0]
        if outcome < 0:
            advantages.append(0.0)
            continue
        value = outcome - statistics.mean(graded)
        if scale == "std":
            spread = statistics.stdev(graded) if len(graded) > 1 else 0.0
            value = value / spread if spread else 0.0
        advantages.append(value)
    return advantages


@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 3)), min_size=1, max_size=20))
@pytest.mark.parametrize("scale", ["mean", "std"])
def test_outcomes_are_relative_to_their_group(scale, samples):
    outcomes, groups = [o for o, _ in samples], [g for _, g in samples]
    advantages = outcome_advantages(torch.tensor(outcomes), torch.tensor(groups), scale=scale)
    torch.testing.assert_close(
        advantages, torch.tensor(by_hand(outcomes, groups, scale), dtype=torch.float32), atol=1e-6, rtol=1e-6
    )


def test_grpo_normalisation_equals_trl():
    """TRL's GRPOTrainer: (r - mean) / (std + 1e-4) over the group; the constant is all that differs."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    grouped = rewards.view(2, 3)
    trl_value = (grouped - grouped.mean(dim=1, keepdim=True)) / (grouped.std(dim=1, keepdim=True) + 1e-4)
    advantages = outcome_advantages(rewards.long(), torch.tensor([0, 0, 0, 1, 1, 1]), scale="std")
    torch.testing.assert_close(advantages, trl_value.flatten(), atol=1e-3, rtol=1e-3)


def test_shuffling_keeps_the_values_and_moves_them_within_the_mask():
    advantages = torch.arange(12.0).view(3, 4)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    moved = shuffled_advantages(advantages, mask, seed=0)
    assert sorted(moved[mask].tolist()) == sorted(advantages[mask].tolist())
    assert not torch.equal(moved[mask], advantages[mask])
    assert torch.equal(moved[~mask], advantages[~mask])
    assert torch.equal(moved, shuffled_advantages(advantages, mask, seed=0))
    assert not torch.equal(moved, shuffled_advantages(advantages, mask, seed=1))


def test_the_constant_is_as_strong_as_the_teacher_and_ignores_padding():
    advantages = torch.tensor([[1.0, -3.0, 99.0], [2.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    constant = constant_negative_advantages(advantages, mask)
    assert torch.equal(constant, torch.tensor([[-1.2, -1.2, 0.0], [-1.2, -1.2, -1.2]]))


def test_shapes_are_named():
    with pytest.raises(ValueError, match="group_B"):
        outcome_advantages(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="mask_BT"):
        shuffled_advantages(torch.zeros(2, 3), torch.zeros(2, 2), seed=0)
    with pytest.raises(ValueError, match="scale"):
        outcome_advantages(torch.zeros(2), torch.zeros(2), scale="max")  # type: ignore[arg-type]

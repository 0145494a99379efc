import pytest

from lit_uniopd.policy.micro_batches import equal_count, packed_batches, token_budget_batches


def test_rows_of_like_length_share_a_group_and_longest_come_first():
    lengths = [3, 10, 2, 9, 1]
    # budget 20: [10, 9] -> 2 * 10; then 3, 2, 1 -> 3 * 3
    assert token_budget_batches(lengths, 20) == [[1, 3], [0, 2, 4]]


def test_a_row_beyond_the_budget_is_alone():
    assert token_budget_batches([50, 4, 4], 8) == [[0], [1, 2]]


def test_every_row_is_in_exactly_one_group_within_budget():
    lengths = [(7 * i) % 23 + 1 for i in range(100)]
    groups = token_budget_batches(lengths, 64)
    assert sorted(row for group in groups for row in group) == list(range(100))
    assert all(len(group) * max(lengths[row] for row in group) <= 64 for group in groups)


def test_padding_stays_small_on_skewed_lengths():
    lengths = [2 ** (i % 8) for i in range(256)]  # mean 31.9, longest 128
    groups = token_budget_batches(lengths, 512)
    padded = sum(len(group) * max(lengths[row] for row in group) for group in groups)
    assert padded / sum(lengths) < 1.1
    assert 256 * 128 / sum(lengths) > 4  # one padded batch would waste three quarters


def test_budget_must_be_positive():
    with pytest.raises(ValueError, match="max_tokens"):
        token_budget_batches([1], 0)


@pytest.mark.parametrize(
    ("groups", "count", "expected"),
    [
        ([[0, 1], [2]], 2, [[0, 1], [2]]),  # nothing to do
        ([[0, 1, 2, 3]], 2, [[0, 1], [2, 3]]),  # halve the largest
        ([[0], [1]], 3, [[0], [1], []]),  # too few rows: an empty group
        ([], 1, [[]]),
    ],
)
def test_equal_count(groups, count, expected):
    assert equal_count(groups, count) == expected


def test_answers_to_one_prompt_stay_together_and_pay_for_it_once():
    prompts, answers, owners = [10] * 3 + [20] * 2, [5, 6, 7, 1, 2], [0, 0, 0, 1, 1]
    assert packed_batches(prompts, answers, owners, 100) == [[4, 3, 2, 1, 0]]
    # 20 + 2 + 1 and 10 + 7 + 6 + 5 do not fit together
    assert packed_batches(prompts, answers, owners, 30) == [[4, 3], [2, 1, 0]]
    # a group beyond the budget is divided: 10 + 7 + 6, then the prompt again with 5
    assert packed_batches(prompts, answers, owners, 23) == [[4, 3], [2, 1], [0]]
    assert packed_batches(prompts, answers, owners, 1) == [[4], [3], [2], [1], [0]]
    with pytest.raises(ValueError, match="max_tokens"):
        packed_batches([1], [1], [0], 0)


def test_what_is_left_of_a_divided_group_shares_its_batch():
    assert packed_batches([4, 4, 4, 2], [3, 3, 3, 1], [0, 0, 0, 1], 10) == [[0, 1], [2, 3]]


def test_every_row_is_in_one_packed_group_within_budget():
    owners = [i // 8 for i in range(96)]
    prompts, answers = [3 + 5 * (owner % 4) for owner in owners], [(7 * i) % 23 + 1 for i in range(96)]
    groups = packed_batches(prompts, answers, owners, 150)
    assert sorted(row for group in groups for row in group) == list(range(96))
    for group in groups:
        once = {owners[row]: prompts[row] for row in group}
        assert sum(once.values()) + sum(answers[row] for row in group) <= 150


def test_groups_are_split_between_prompts():
    assert equal_count([[0, 1, 2, 3, 4, 5]], 2, [7, 7, 8, 8, 8, 8]) == [[0, 1], [2, 3, 4, 5]]
    assert equal_count([[0, 1, 2, 3]], 2, [7, 7, 7, 7]) == [[0, 1], [2, 3]]

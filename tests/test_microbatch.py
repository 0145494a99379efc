import pytest

from lit_uniopd.microbatch import equal_count, token_budget_batches


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

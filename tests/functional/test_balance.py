"""Balancing against the official function's counts and by its own promises."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from lit_uniopd.functional.balance import balance_outcomes, difficulty_repeats

GOLDEN = json.loads((Path(__file__).parent.parent / "golden/uni_opd_online_balance.json").read_text())
LABELS = {True: 1, False: 0, None: -1}
OUTCOMES = torch.tensor([LABELS[label] for group in GOLDEN["groups"] for label in group])
GROUPS = torch.arange(len(GOLDEN["groups"])).repeat_interleave(len(GOLDEN["groups"][0]))


def counts(outcomes: torch.Tensor) -> Counter:
    return Counter("correct" if outcome == 1 else "not_correct" for outcome in outcomes.tolist())


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['scope']}-{case['ratio']}")
def test_the_released_code_keeps_as_many(case):
    ratio = math.inf if case["ratio"] in ("inf", "Infinity") else float(case["ratio"])
    scope = "group" if case["scope"] == "sample" else "global"
    keep = balance_outcomes(OUTCOMES, GROUPS, ratio=ratio, scope=scope, unknown="incorrect", seed=case["seed"])
    for group, outcomes in enumerate(case["kept_per_group"]):
        here = counts(OUTCOMES[keep & (group == GROUPS)])
        if scope == "group":
            assert here == Counter(outcomes)
    assert counts(OUTCOMES[keep]) == Counter(case["kept_total"])


def test_unknown_outcomes_stay_and_are_not_counted():
    outcomes = torch.tensor([1, 1, 1, -1, -1, -1, 0])
    keep = balance_outcomes(outcomes, torch.zeros(7, dtype=torch.long))
    assert keep[3:].all()
    assert keep[:3].sum() == 1
    as_incorrect = balance_outcomes(outcomes, torch.zeros(7, dtype=torch.long), unknown="incorrect")
    assert as_incorrect[:3].all()
    assert as_incorrect[3:].sum() == 3


def test_the_choice_depends_on_the_group_not_on_its_neighbours():
    outcomes = torch.tensor([1, 1, 1, 1, 0, 0])
    both = balance_outcomes(outcomes.repeat(2), torch.tensor([5] * 6 + [9] * 6), seed=3)
    assert torch.equal(both[6:], balance_outcomes(outcomes, torch.full((6,), 9), seed=3))


def test_every_answer_is_left_out_at_times():
    outcomes = torch.tensor([1, 1, 1, 0])
    dropped = Counter()
    for seed in range(60):
        dropped.update(
            (~balance_outcomes(outcomes, torch.zeros(4, dtype=torch.long), seed=seed)).nonzero()[:, 0].tolist()
        )
    assert set(dropped) == {0, 1, 2}
    assert sum(dropped.values()) == 120


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"ratio": -1.0}, "ratio"),
        ({"ratio": math.nan}, "ratio"),
        ({"scope": "sample"}, "scope"),
        ({"unknown": "wrong"}, "unknown"),
        ({"outcome_B": torch.tensor([2, 0])}, "outcome_B"),
        ({"group_B": torch.tensor([0])}, "group_B"),
    ],
)
def test_mistakes_name_the_argument(changes, argument):
    arguments = {"outcome_B": torch.tensor([1, 0]), "group_B": torch.tensor([0, 0]), **changes}
    with pytest.raises(ValueError, match=argument):
        balance_outcomes(**arguments)


# --- difficulty ------------------------------------------------------------------------------------------------------


def histogram(correct: torch.Tensor, repeats: torch.Tensor) -> list[int]:
    return torch.bincount(correct, weights=repeats.double(), minlength=9).long().tolist()


U = torch.tensor([0] * 40 + [1] * 7 + [2] * 3 + [4] * 10 + [7] * 12 + [8] * 30)
J = torch.tensor([0] * 40 + [1] * 7 + [2] * 3 + [4] * 10 + [7] * 12 + [8] * 6)


def test_a_u_is_filled_up_in_the_middle():
    assert histogram(U, difficulty_repeats(U, 8, cap=100)) == [40, 40, 40, 0, 40, 0, 0, 40, 30]


def test_a_mirrored_j_is_filled_up_at_the_easy_end_too():
    assert histogram(J, difficulty_repeats(J, 8, cap=100)) == [40, 40, 40, 0, 40, 0, 0, 40, 40]
    assert torch.equal(difficulty_repeats(J, 8, shape="mirrored_j"), difficulty_repeats(J, 8))
    assert histogram(J, difficulty_repeats(J, 8, shape="u", cap=100))[8] == 6


def test_the_ablations_drop_one_end_and_repeat_nothing():
    """Prompts that were not measured, of a negative number, are seen once as ever."""
    counts = torch.tensor([0, 8, 4, -1, 7, 8, 0, 1])
    assert difficulty_repeats(counts, 8, shape="drop_all_right").tolist() == [1, 0, 1, 1, 1, 0, 1, 1]
    assert difficulty_repeats(counts, 8, shape="drop_all_wrong").tolist() == [0, 1, 1, 1, 1, 1, 0, 1]
    # Of four tries, nobody is right eight times, and 4 of 4 is all.
    assert difficulty_repeats(torch.tensor([4, 3, 0]), 4, shape="drop_all_right").tolist() == [0, 1, 1]


def test_no_prompt_is_repeated_beyond_the_cap_or_removed():
    repeats = difficulty_repeats(U, 8, cap=4)
    assert repeats.max() == 4
    assert repeats.min() == 1
    assert histogram(U, repeats)[2] == 12


def test_repeats_of_one_difficulty_differ_by_at_most_one_and_by_the_seed():
    repeats = difficulty_repeats(U, 8, cap=100)
    repeats_of_one = repeats[U == 1]
    assert sorted(repeats_of_one.tolist()) == [5, 5, 6, 6, 6, 6, 6]
    assert any(not torch.equal(repeats_of_one, difficulty_repeats(U, 8, cap=100, seed=s)[U == 1]) for s in range(1, 5))


def test_a_target_below_what_is_there_changes_nothing_and_the_unmeasured_are_seen_once():
    assert difficulty_repeats(U, 8, target=1).eq(1).all()
    correct = torch.tensor([-1, 0, 0, 0, 1])
    assert difficulty_repeats(correct, 8).tolist() == [1, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"attempts": 2}, "attempts"),
        ({"cap": 0}, "cap"),
        ({"target": 0}, "target"),
        ({"shape": "j"}, "shape"),
        ({"correct_P": torch.tensor([0.5])}, "correct_P"),
    ],
)
def test_mistakes_of_difficulty_name_the_argument(changes, argument):
    arguments = {"correct_P": torch.tensor([0, 3]), "attempts": 8, **changes}
    with pytest.raises(ValueError, match=argument):
        difficulty_repeats(**arguments)

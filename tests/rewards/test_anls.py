"""ANLS against a table of edits filled in by hand, and by the rules of the official server."""

import random

import pytest

from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.anls import anls_score, levenshtein


def edits(first: str, second: str) -> int:
    """The textbook table."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def test_the_distance_is_that_of_the_textbook_table():
    rng = random.Random(0)
    for _ in range(500):
        first, second = ("".join(rng.choices("abcé ", k=rng.randint(0, 12))) for _ in range(2))
        assert levenshtein(first, second) == edits(first, second)


@pytest.mark.parametrize(
    ("golds", "answer", "score"),
    [
        (["abcd"], "abcd", 1.0),
        (["Abcd"], "aBCD", 1.0),
        (["a  b"], "a b", 1.0),
        (["abcd"], "abce", 0.75),
        (["abcd"], "abxy", 0.5),  # exactly .5 stays
        (["abcd"], "axyz", 0.0),
        (["xyz", "abcd"], "abcd", 1.0),  # the best gold
        (["1,204", "1204"], "1204", 1.0),
        (["ab"], "a b", 1 - 1 / 3),
        (["a b  c"], "abc", 1 - 2 / 6),  # blanks collapse for the distance, not for the length
    ],
)
def test_scores(golds, answer, score):
    assert anls_score(golds, answer) == pytest.approx(score)
    grade = GRADERS["anls"](golds, answer)
    assert grade.score == pytest.approx(score)
    assert grade.correct is (score >= 0.5)


def test_one_text_is_one_gold_and_blank_golds_do_not_count():
    assert GRADERS["anls"]("abc", "abc").correct
    assert GRADERS["anls"](["", None, "abc"], "abc").correct
    assert GRADERS["anls"](["", None], "abc").reason == "no_gold"
    assert GRADERS["anls"]([2015], "2015").score == 1.0


@pytest.mark.parametrize(("answer", "reason"), [("", "no_answer"), ("  ", "no_answer"), ("<think>abc", "truncated")])
def test_no_answer_is_wrong(answer, reason):
    grade = GRADERS["anls"](["abc"], answer)
    assert (grade.correct, grade.score, grade.reason) == (False, 0.0, reason)


def test_thinking_is_not_part_of_the_answer():
    assert GRADERS["anls"](["abc"], "<think>long thoughts</think>\nabc").score == 1.0


def test_hostile_lengths_are_fast():
    assert GRADERS["anls"](["a" * 60], "a" * 1_000_000).score == 0.0
    assert GRADERS["anls"](["ab" * 2000], "ba" * 2000).correct


def reference(references: list[str], prediction: str, threshold: float = 0.5) -> float:
    """The released function of lmms-eval's DocVQA and InfoVQA, with the textbook distance."""
    values = []
    for answer in references:
        gold, detected = " ".join(answer.strip().lower().split()), " ".join(prediction.strip().lower().split())
        length = max(len(answer.upper()), len(prediction.upper()))
        values.append(0.0 if length == 0 else edits(gold, detected) / length)
    result = 1 - min(values)
    return 0.0 if result < threshold else result


@pytest.mark.parametrize(
    "golds",
    [[""], ["", "abc"], ["abc"], ["nan"], ["inf"], ["0"], ["1.0"], ["NaN", "x"], ["A B"], ["ab  c"], ["é"], ["—"]],
)
@pytest.mark.parametrize("answer", ["", " ", "abc", "nan", "inf", "0", "1", "a b", "ab c", "e", "-", "É"])
def test_empty_texts_and_other_corners_are_as_the_reference_rules(golds, answer):
    assert anls_score(golds, answer) == pytest.approx(reference(golds, answer))
    grade = GRADERS["anls"](golds, answer)
    if grade.reason != "no_gold":
        assert grade.score == pytest.approx(reference(golds, answer))
    else:
        assert not any(golds)


def test_a_blank_gold_is_a_blank_answer_and_a_missing_one_is_no_gold():
    assert GRADERS["anls"]("", "").correct
    assert GRADERS["anls"](["", "abc"], "").correct
    assert GRADERS["anls"]([None], "").reason == "no_gold"
    assert GRADERS["anls"]([float("nan")], "nan").reason == "no_gold"
    assert GRADERS["anls"]("", "abc").reason == "no_gold"


@pytest.mark.parametrize(
    ("response", "protocol", "robust"),
    [
        ("$1,284.50", True, True),
        ("**$1,284.50**", True, True),
        ("The total is below.\n\nAnswer: $1,284.50", False, True),
        ("<answer>$1,284.50</answer>", False, True),
        ("<thinking>the last line</thinking>$1,284.50", False, True),
        ("$1,284.60", True, False),  # another amount
        ("$1,248.50", True, False),
        ("$1,284.5O", True, False),
        ("１,２８４.５０", False, True),
        ("[THINK]$1,284.50", True, False),
    ],
)
def test_the_robust_mode_wants_the_same_digits_where_the_answer_is_stated(response, protocol, robust):
    for extraction, right in (("protocol", protocol), ("robust", robust)):
        grade = GRADERS["anls"](["$1,284.50"], response, extraction=extraction)
        assert (grade.correct, grade.score > 0) == (right, right)

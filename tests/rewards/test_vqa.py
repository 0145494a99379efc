"""VQA soft accuracy against its definition, person by person."""

import pytest

from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.vqa import normalised


def by_definition(people: list[str], answer: str) -> float:
    scores = []
    for left_out in range(len(people)):
        remaining = people[:left_out] + people[left_out + 1 :]
        scores.append(min(1.0, remaining.count(answer) / 3))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("agreeing", range(11))
def test_each_person_is_left_out_in_turn(agreeing):
    people = ["cat"] * agreeing + ["dog"] * (10 - agreeing)
    grade = GRADERS["vqa_soft"](people, "cat")
    assert grade.score == pytest.approx(by_definition(people, "cat"))
    assert grade.correct is (grade.score >= 0.5)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("A Cat.", "cat"),
        ("the two dogs", "2 dogs"),
        ("1,204", "1204"),
        ("3.5", "3.5"),
        ("isn't", "isnt"),
        ("Coca-Cola", "coca cola"),
        ("yes!", "yes"),
        ("none", "0"),
    ],
)
def test_the_form_in_which_answers_are_compared(text, form):
    assert normalised(text) == form


def test_one_gold_and_no_gold():
    assert GRADERS["vqa_soft"]("cat", "A cat").score == 1.0
    assert GRADERS["vqa_soft"]([], "cat").reason == "no_gold"
    assert GRADERS["vqa_soft"](["cat"] * 10, "").reason == "no_answer"


@pytest.mark.parametrize(
    "response", ["Answer: stop", "**stop**", "<answer>stop</answer>", "<thinking>go?</thinking>Stop.", r"\boxed{stop}"]
)
def test_the_robust_mode_reads_what_is_stated(response):
    assert GRADERS["vqa_soft"]("stop", response, extraction="robust").correct
    assert not GRADERS["vqa_soft"]("go", response, extraction="robust").correct


def test_unclosed_thinking_of_another_family_is_truncated():
    assert GRADERS["vqa_soft"]("stop", "[THINK]stop", extraction="robust").reason == "truncated"

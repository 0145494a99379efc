"""Qwen2.5-Math's rules; the expected answers are what its own functions returned (github.com/pspdada/Uni-DPO dec07a3)."""

import pytest

from lit_uniopd.grade import Grade
from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.qwen_math import same_number, stated_answer, stated_choice


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The final answer is $x^2$. I hope it is correct.", "x^2"),
        ("$. I hope so. The final answer is $3$", "3$"),
        (r"so \boxed{\frac{1}{2}} and \boxed{7}", "7"),
        (r"The answer is 3, no: \boxed{4}", "4"),
        (r"it is \boxed{\frac{1}{2}", r"\frac{1}{2}"),
        (r"it is $\boxed 7$.", "7"),
        ("\\boxed{x = 2,\n   y = 3.}", "x = 2,y = 3"),
        ("nothing boxed", ""),
        ("The answer is 5.\nSo the answer is: 12.\n", " 12"),
        ("My final answer is\n  12/", "12"),
        ("Our final answer is 12 dollars.", "12 dollars"),
        ("答案是12。\n\n所以", "12。"),
        ("First 3, then 1,234 apples", "1234"),
        ("it falls by -3.5 %", "-3.5"),
        ("nothing to see", ""),
    ],
)
def test_the_answer_of_a_response(response, expected):
    assert stated_answer(response) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("It is B, so the choice is (C).", "C"),
        ("A or B", "B"),
        ("The answer is A. C is wrong.", "A"),
        ("The answer is B.\n\nThe answer is C.", "B"),
        ("none of them", "none of them"),
    ],
)
def test_the_option_of_a_response(response, expected):
    assert stated_choice(response) == expected


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("12", "12.0", True),
        ("12", "13", False),
        ("100000", "100001", False),  # whole numbers are compared as they are
        ("1.00001", "1.00009", True),
        ("0.5", "50", True),
        ("50", "0.5", True),
        ("1,234", "1234", True),
        ("0.333", "0.3334", False),
        ("12", "1/2", None),
        ("x", "12", None),
        ("1e300", "1.5", False),
        ("9" * 400, "8" * 400, None),  # more than a float holds
        ("nan", "nan", False),
    ],
)
def test_two_numbers(gold, answer, same):
    assert same_number(gold, answer) is same


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        ("12", "The answer is 12.", True),
        ("12", "We see 12 apples.", True),
        ("12", "If the answer is 13, we are lost.", False),
        (r"\frac{1}{2}", r"so $\boxed{0.5}$", True),
        (r"x^2 - 1", r"\boxed{(x-1)(x+1)}", True),
        ("2.6667", r"\boxed{2.66669}", True),
        ("B", "The answer is B.", True),
        ("B", r"\boxed{C}", False),
        ("7", "<think>7", True),  # as of any text
        ("7", "", False),
        ("7", "The answer is " + "9^" * 50_000 + "9", False),
    ],
)
def test_the_mode_of_the_mathematics_grader(gold, response, right):
    grade = GRADERS["math"](gold, response, extraction="qwen_math")
    assert isinstance(grade, Grade)
    assert grade.correct is right

import pytest

from lit_uniopd.rewards.magnitude import is_astronomic
from lit_uniopd.rewards.mathematics import grade_math


@pytest.mark.parametrize(
    "text",
    [
        "10^{10^{10}}", "9^{9^{9^9}}", "9^9^9^9", "10**10**10", "(10^{10})!", "1000000!", "9!!!", r"\sqrt{9^{9^{9}}}", r"\frac{1}{10^{10^{7}}}",
        r"\left(10^{10}\right)^{10^{10}}", "{10}^{{10}^{10}}", "2^{400000}", "x + 7^{8^{9}}", "3 \\cdot 10^{1000000}", "9^{" * 60 + "9" + "}" * 60,
    ],
)  # fmt: skip
def test_numbers_that_nobody_can_compute(text):
    assert is_astronomic(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "5", "2^{10}", "10^{100}", "2^{2^{10}}", "100!", "5!", "x^{10^{10}}", "1^{10^{10}}", "0^{10^{10}}", r"e^{10^{10}}", "0.5^{10^{10}}",
        "10^{10^{-10}}", r"10^{\frac{1}{2}}", r"2^{x}", "(", ")", "^", "^^^", "9^", "!", "{}{}", "1,000,000", "10^{10}", "9" * 3000, "a^{b^{c}}",
    ],
)  # fmt: skip
def test_numbers_that_can_be_computed(text):
    assert not is_astronomic(text)


def test_an_astronomic_answer_is_wrong_without_being_computed():
    for gold in ("5", r"\frac{1}{2}", "x+1", r"\infty"):
        grade = grade_math(gold, r"\boxed{10^{10^{10}}}")
        assert (grade.correct, grade.reason) == (False, "wrong")
    assert grade_math("10^{10^{10}}", r"\boxed{10^{10^{10}}}").correct is True

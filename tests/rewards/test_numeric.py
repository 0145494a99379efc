"""Numbers within a tolerance, wherever the response has them."""

import pytest

from lit_uniopd.rewards import GRADERS


@pytest.mark.parametrize(
    ("gold", "response", "options", "right"),
    [
        ("3.14", r"\boxed{3.14}", {}, True),
        ("3.14", r"\boxed{3.141}", {}, False),
        ("3.14", "3.141", {"absolute": 0.001}, True),
        ("3.14", "3.1411", {"absolute": 0.001}, False),
        ("0.3", "0.299", {"absolute": 0.001}, True),
        ("200", "209", {"relative": 0.05}, True),
        ("200", "211", {"relative": 0.05}, False),
        ("0.75", r"<answer>\frac{3}{4}</answer>", {}, True),
        ("0.75", "3/4", {}, True),
        ("1200", "The total is 1,200.", {}, True),
        ("0.5", "50%", {}, True),
        ("50", r"50\%", {}, True),
        ("-3", "−3", {}, True),
        ("1e6", r"1 \times 10^{6}", {}, True),
        ("5", "First 3, then 5", {}, True),  # the last number
        ("3", "First 3, then 5", {}, False),
        ("9.00", '{"solution": "2 steps", "short answer": "9"}', {}, True),
        ("4", r"\boxed{4} because 7", {}, True),
        (2, "2", {}, True),
        ("7", "no number", {}, False),
        ("1", "1/0", {}, False),
    ],
)
def test_numbers(gold, response, options, right):
    assert GRADERS["numeric"](gold, response, **options).correct is right


def test_no_number_is_no_answer_and_a_gold_without_one_is_an_error():
    assert GRADERS["numeric"]("7", "none").reason == "no_answer"
    assert GRADERS["numeric"]("seven", "7").reason == "error"
    assert GRADERS["numeric"](None, "7").reason == "no_gold"
    assert GRADERS["numeric"]("7", "<think>7").reason == "truncated"


@pytest.mark.parametrize("piece", ["9", "1,", "1/", "-", "1e", "1 x 10^", r"\frac{", '"answer": '])
def test_hostile_text_takes_linear_time(piece):
    assert GRADERS["numeric"]("12345", piece * (100_000 // len(piece))).correct is not True

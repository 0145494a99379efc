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


NEIGHBOURS = [
    # expressions are read whole, never by their last digits
    ("2", r"<answer>2\pi</answer>", False),
    ("6.283", r"<answer>2\pi</answer>", True),
    ("6.283", r"\boxed{2π}", True),
    ("2", r"\boxed{\sqrt{2}}", False),
    ("1.414", r"\boxed{\sqrt{2}}", True),
    ("1.414", "√2", True),
    ("3", r"\boxed{2\sqrt{3}}", False),
    ("-3", r"<answer>10^{-3}</answer>", False),
    ("0.001", r"<answer>10^{-3}</answer>", True),
    ("8", "2^3", True),
    ("3", "2^3", False),
    ("8", "2³", True),
    ("2", r"<answer>x^2</answer>", False),
    ("2", r"\boxed{2x}", False),
    ("2", r"The value is x_2", False),
    ("2", r"it grows as n^2", False),
    ("3", r"\boxed{\log 3}", False),
    ("3", r"\boxed{x + 3}", False),
    ("120", "5!", True),
    ("5", "5!", False),
    # mixed numbers and fractions
    ("2.5", r"<answer>2\frac{1}{2}</answer>", True),
    ("2.5", "2 1/2", True),
    ("2.5", "2½", True),
    ("-2.5", r"-2\frac{1}{2}", True),
    ("0.5", r"<answer>2\frac{1}{2}</answer>", False),
    ("0.5", r"\frac12", True),
    ("0.333", r"0.\overline{3}", True),
    # units, also with powers
    ("25", "<answer>25 cm^2</answer>", True),
    ("2", "<answer>25 cm^2</answer>", False),
    ("25", r"\boxed{25\text{ cm}^2}", True),
    ("25", "25 cm²", True),
    ("25", "The area is 25 cm^2.", True),
    ("2", "The area is 25 cm^2.", False),
    ("40", r"\boxed{40 km/h}", True),
    ("9.8", r"\boxed{9.8\ \mathrm{m/s^2}}", True),
    ("27", r"\boxed{27 dollars}", True),
    ("27", r"\boxed{\$27}", True),
    ("27", "€27", True),
    ("30", r"30^\circ", True),
    ("30", "30°C", True),
    # scripts and signs
    ("42", "４２", True),
    ("42", "答案是 ４２。", True),
    ("42", "٤٢", True),
    ("-3", "–3", True),
    ("-3", "the answer is -3", True),
    ("3", "the answer is -3", False),
    ("3.14", "3,14", True),
    ("1234567", "1,234,567", True),
    ("1000", "1 000", True),
    ("3.14", "**3.14**", True),
    # an empty place is no answer, and the first place there is decides
    ("5", r"5 steps, so \boxed{}", False),
    ("5", r"5 <answer></answer>", False),
    ("5", r"5 <answer>unknown</answer>", False),
    ("5", r'{"reason": "5 cats", "answer": "none"}', False),
    ("5", r'{"answer": 5}', True),
    # hedges
    ("5", "<answer>3 or 5</answer>", False),
    ("3", r"\boxed{3 or 5}", False),
    ("5", "The answer is 3 or 5", False),
    ("5", "It is 4, or 5.", False),
    ("5", "Take 3 or 4 first; the answer is 5", True),
    ("50", "50 percent", True),
    ("0.5", "50 percent", True),
]


@pytest.mark.parametrize(("gold", "response", "right"), NEIGHBOURS)
def test_a_number_is_read_as_it_is_meant(gold, response, right):
    assert GRADERS["numeric"](gold, response, absolute=0.001).correct is right


@pytest.mark.parametrize(
    ("response", "robust", "protocol"),
    [
        ("The total is 7.", True, False),
        ("7", True, True),
        ("7 km", True, True),
        (r"so \boxed{7}", True, True),
        ("<answer>about 7</answer>", True, True),
        ('{"short answer": "7"}', True, True),
        ("First 3, then 7", True, False),
    ],
)
def test_the_protocol_reads_no_prose(response, robust, protocol):
    assert GRADERS["numeric"]("7", response, extraction="robust").correct is robust
    assert GRADERS["numeric"]("7", response, extraction="protocol").correct is protocol


def test_another_extraction_is_refused():
    assert GRADERS["numeric"]("7", "7", extraction="lenient").reason == "error"


def test_exact_numbers_are_compared_exactly():
    assert GRADERS["numeric"]("10000000000000000000001", "10000000000000000000000").correct is False
    assert GRADERS["numeric"]("10000000000000000000001", "10000000000000000000001").correct is True


@pytest.mark.parametrize(
    ("response", "correct", "reason"),
    [
        ("<thinking>it may be 7</thinking> 5", True, "ok"),
        ("5 <reflection>or was it 7?</reflection>", True, "ok"),
        ("<Reasoning>5", False, "truncated"),
        (r"<analysis>\boxed{5}</analysis> 7", False, "wrong"),
    ],
)
def test_reasoning_in_tags_of_its_own_is_not_part_of_the_answer(response, correct, reason):
    graded = GRADERS["numeric"]("5", response)
    assert (graded.correct, graded.reason) == (correct, reason)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        # bounds and denials are no answers
        ("There are more than 12.", None),
        ("There are fewer than 12 triangles.", None),
        ("at least 12", None),
        ("It was below -7 °C.", None),
        ("Es sind mehr als 12.", None),
        ("超过 12", None),
        ("The speed is 37. It is not 18.5.", None),
        ("The speed isn't 18.5 km/h.", None),
        ("a number such as 12", None),
        (r"\boxed{P > \frac{1}{2}}", None),
        (r"\boxed{x \leq 4}", None),
        # but an answer may stand before what is denied, and behind a bound
        ("The speed is 17.5, not 18.5.", "17.5"),
        ("It is 12, which is more than 10.", "12"),
        ("It is more than 10: 12.", "12"),
        ("28 * 4.5 => 126", "126"),
        ("<b>126</b>", "126"),
        # ranges and lists
        ("in the range 17.5–18.5 km/h", None),
        ("The speed is 17.5 - 18.5 km/h.", None),
        ("between 120 and 126 euros", None),
        ("Possible answers: 10, 11, 12", None),
        ("3, 7, 8 and 12", None),
        ("Sorted: 3, 7, 8. The median is 7.", "7"),
        ("11.4 − 14.6 = −3.2", "-3.2"),
        ("In 2019, 12 were left.", "12"),
        # degrees and signs in words
        ("It was −7 °C on Thursday.", "-7"),
        ("minus 7", "-7"),
        ("**Answer:** - 7 °C", "- 7"),
        ("12 minus 7 is 5", "5"),
    ],
)
def test_the_last_thing_said_is_the_answer(response, answer):
    grade = GRADERS["numeric"]("1", response)
    assert (None if grade.extracted is None else grade.extracted.replace(" ", "")) == (
        answer and answer.replace(" ", "")
    )


def test_a_models_own_box_decides_in_robust_mode():
    response = "First 18.5, then <|begin_of_box|>37<|end_of_box|> and not 18.5"
    assert GRADERS["numeric"]("37", response).correct
    assert not GRADERS["numeric"]("18.5", response).correct

"""Choice letters: what models write, and what they mean by it."""

import pytest

from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.choice import grade_choice

OPTIONS = {"A": "42 km", "B": "17 km", "C": "a red car", "D": "none of the above"}
READ = [
    ("B", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    ("**B**", "B"),
    ("b", "B"),
    ("(b)", "B"),
    ("[B]", "B"),
    ("B)", "B"),
    ("\\boxed{B}", "B"),
    ("\\boxed{\\text{(B)}}", "B"),
    ("\\boxed{b}", "B"),
    ("\\boxed{\\textbf{B}}", "B"),
    ("<answer>C</answer>", "C"),
    ("<answer>A</answer> wait <answer>D</answer>", "D"),
    ("The answer is B.", "B"),
    ("The correct answer is (C).", "C"),
    ("Answer: D", "D"),
    ("answer: b", "B"),
    ("Answer: **(B)** 17 km", "B"),
    ("I think the answer is A because it is far.", "A"),
    ("Because the car is fast, A careful look shows nothing.", None),
    ("A careful look at the picture shows that I like it.", None),
    ("A car is shown. So D.", "D"),
    ("Therefore (B).", "B"),
    ("I would go with option C", "C"),
    ("Let me think. The answer is A. No wait, the answer is B.", "B"),
    ("The answer is not B.", None),
    ("The answer is not B but C.", "C"),
    ("A or B", None),
    ("The answer is A or B.", None),
    ("The answer is either A or B", None),
    ("17 km", "B"),
    ("It is 17 km.", "B"),
    ("a red car", "C"),
    ("42 km or 17 km", None),
    ("B. 17 km", "B"),
    ("B: 17 km", "B"),
    ("B\nBecause it is near.", "B"),
    ("(C) because", "C"),
    ("A. 42 km\nB. 17 km\nC. a red car\nD. none\nSo the answer is C.", "C"),
    ("A. 42 km\nB. 17 km\nC. a red car\nD. none of the above\n", None),
    ("答案是B", "B"),
    ("答案：Ｂ", "B"),
    ("故选C。", "C"),
    ("（Ｂ）", "B"),
    ('{"answer": "C"}', "C"),
    ('```json\n{"reason": "x", "answer": "D"}\n```', "D"),
    ("E", None),
    ("The answer is E.", None),
    ("", None),
    ("I", None),
    ("I don't know", None),
    ("<think>The answer is A</think>B", "B"),
    ("<think>The answer is A", None),
    ("The correct option is C: a red car", "C"),
    ("Option B is correct.", "B"),
    ("I choose D", "D"),
    ("We select (A).", "A"),
    ("\\[\\boxed{C}\\]", "C"),
    ("The final answer is $\\boxed{D}$.", "D"),
    ("The answer is:\n\nB", "B"),
    ("The answer is:\n\n**B. 17 km**", "B"),
    ("The answer is a red car.", "C"),
    ("Answer: A, C", "AC"),
    ("A, C", "AC"),
    ("AC", "AC"),
    ("A and C", "AC"),
    ("The answers are A and C.", "AC"),
    ("Looking at A, it is wrong. B is too. Final answer: D", "D"),
    ("Hence, the correct choice is option (D).", "D"),
    ("The best answer is B) 17 km", "B"),
    ("**Answer:** B", "B"),
    ("**Answer: B**", "B"),
    ("### Answer\nB", "B"),
    ("Answer\nB", "B"),
    ("Final Answer: \\(\\boxed{B}\\)", "B"),
    ("The answer is clearly B.", "B"),
    ("My answer is C, not B.", "C"),
    ("D is the answer.", "D"),
    ("so, B is right", "B"),
    ("The answer is 'B'", "B"),
    ("I pick a red car", "C"),
    ("c.", "C"),
    ("The answer is A.\n\nHowever, the answer could be B? No. The answer is A.", "A"),
    ("Thus, the answer should be B", "B"),
    ("It must be B.", None),
    ("The answer is A dog", None),
    ("A) 42 km", "A"),
    ("Both A and B are wrong, so C.", "C"),
    ("the correct answer is option\n\nC", "C"),
    ("The answer isn't A. The answer is C.", "C"),
    ("Answer is B (17 km)", "B"),
    ("I don't think the answer is B. The answer is D", "D"),
    ("I don't think the answer is B.", None),
    ("**Final Answer**: D", "D"),
    ("### D", "D"),
    ("- D", "D"),
    ("D is the answer.", "D"),
    ("After considering A, B, and C, I choose D", "D"),
    ("The answer is neither A nor B, it is C.", "C"),
    ("The answer is D.\n\nExplanation: A is wrong, B is wrong.", "D"),
]


@pytest.mark.parametrize(("response", "letters"), READ)
def test_the_letter_that_is_meant(response, letters):
    grade = GRADERS["choice"]("B", response, choices=OPTIONS)
    assert grade.extracted == letters
    assert grade.correct is (letters == "B")
    if letters is None:
        assert grade.reason in ("no_answer", "truncated")


@pytest.mark.parametrize("gold", ["B", "b", "(B)", "B.", " B ", "17 km", ["B"]])
def test_the_forms_of_one_gold_letter(gold):
    assert grade_choice(gold, "B", choices=OPTIONS).correct
    assert grade_choice(gold, "C", choices=OPTIONS).correct is False


@pytest.mark.parametrize("gold", ["A, C", "AC", "C,A", ["A", "C"], "A and C", "(A), (C)"])
@pytest.mark.parametrize(
    ("response", "right"),
    [("A, C", True), ("AC", True), ("C and A", True), (r"\boxed{A, C}", True), ("A", False), ("A, B, C", False)],
)
def test_sets_of_letters(gold, response, right):
    assert grade_choice(gold, response, choices=OPTIONS).correct is right


def test_letters_beyond_the_options_are_no_answers():
    assert grade_choice("A", "The answer is C", choices=["x", "y"]).extracted is None
    assert grade_choice("A", "The answer is C").extracted == "C"


@pytest.mark.parametrize("gold", [None, "", float("nan")])
def test_without_gold_there_is_no_verdict(gold):
    assert GRADERS["choice"](gold, "A").reason == "no_gold"


def test_a_gold_that_is_no_option_is_an_error_not_a_verdict():
    assert GRADERS["choice"]("Z", "A", choices=OPTIONS).reason == "error"


@pytest.mark.parametrize(
    "piece",
    ["A ", "answer is ", "(", "so ", "{", "the answer is not ", "A, ", r"\boxed{", '"answer": "', "A or ", "选"],
)
def test_hostile_text_takes_linear_time(piece):
    response = piece * (100_000 // len(piece))
    assert GRADERS["choice"]("B", response, choices=OPTIONS).correct is False


def test_the_sign_of_a_number_is_part_of_an_option():
    assert GRADERS["choice"]("B", r"\boxed{-4}", choices=["4", "-4"]).extracted == "B"
    assert GRADERS["choice"]("B", "The answer is 4.", choices=["4", "-4"]).extracted == "A"

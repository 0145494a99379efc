"""Yes, no, and neither."""

import pytest

from lit_uniopd.rewards import GRADERS


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("Yes, there is no doubt.", "yes"),
        ("No, there isn't. Yes, I am sure.", "no"),
        ("There is not a dog in the image.", "no"),
        ("I don't see one", "no"),
        ("<answer>No</answer>", "no"),
        ("yes <answer>no</answer>", "no"),
        (r"So \boxed{Yes}", "yes"),
        ("True", "yes"),
        ("<think>no</think>Yes", "yes"),
        ("yes or no", None),
        ("Yes/No", None),
        ("maybe", None),
        ("yesterday nobody noticed", None),
        ("", None),
    ],
)
def test_what_is_meant(response, expected):
    for gold in ("yes", "no"):
        grade = GRADERS["yes_no"](gold, response)
        assert grade.extracted == expected
        assert grade.correct is (expected == gold)


@pytest.mark.parametrize("gold", ["Yes", "yes.", True, 1, "1", "TRUE"])
def test_forms_of_a_gold_yes(gold):
    assert GRADERS["yes_no"](gold, "yes").correct
    assert GRADERS["yes_no"](gold, "no").correct is False


def test_other_golds():
    assert GRADERS["yes_no"]("perhaps", "yes").reason == "error"
    assert GRADERS["yes_no"](None, "yes").reason == "no_gold"

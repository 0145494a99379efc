"""Relaxed accuracy: the published rule with its quirks, and the reading of a person."""

import pytest

from lit_uniopd.rewards import GRADERS

BOTH = [
    ("30", "30", True),
    ("30", "31.5", True),  # 5 % exactly
    ("30", "31.6", False),
    ("30", "28.5", True),
    ("0.5", "50%", True),
    ("20%", "0.2", True),
    ("20%", "20", False),
    ("0", "0", True),
    ("0", "0.0", False),  # zero has no relative difference: the same text or nothing
    ("-3", "-3.1", True),
    ("-3", "3", False),
    ("bus", "Bus", True),
    ("bus", "car", False),
    ("Yes", "yes", True),
    (14, "14", True),
    (3.5, "3.5", True),
    ("1e2", "100", True),
]
PUBLISHED_REFUSES = [("1000", "1,000"), ("5", "$5"), ("bus", "bus."), ("bus", '"bus"')]


@pytest.mark.parametrize(("gold", "answer", "right"), BOTH)
@pytest.mark.parametrize("grader", ["chartqa_relaxed", "chartqa_normalised"])
def test_what_both_readings_agree_on(grader, gold, answer, right):
    assert GRADERS[grader](gold, answer).correct is right


@pytest.mark.parametrize(("gold", "answer"), PUBLISHED_REFUSES)
def test_the_published_rule_strips_no_signs_and_the_other_reads_like_a_person(gold, answer):
    assert GRADERS["chartqa_relaxed"](gold, answer).correct is False
    assert GRADERS["chartqa_normalised"](gold, answer).correct is True


def test_float_noise_is_part_of_the_published_rule():
    assert GRADERS["chartqa_relaxed"]("1.0", "1.05").correct is False


@pytest.mark.parametrize("grader", ["chartqa_relaxed", "chartqa_normalised"])
def test_no_answer_no_gold_and_thinking(grader):
    assert GRADERS[grader]("5", "").reason == "no_answer"
    assert GRADERS[grader](None, "5").reason == "no_gold"
    assert GRADERS[grader]("5", "<think>7</think>5").correct
    assert GRADERS[grader]("bus", " bus\n").correct
    assert GRADERS[grader]("5", "<think>5").reason == "truncated"
    assert GRADERS[grader]("5", "9" * 100_000).correct is False


@pytest.mark.parametrize(
    ("gold", "answer", "published", "normalised"),
    [
        ("2010", "1995", True, False),  # years pass within 5 % by the published rule
        ("2010", "2008", True, False),
        ("2010", "2010", True, True),
        ("2010", "2010.", True, True),
        ("2010.5", "2008", True, True),  # no year
        ("2,010", "2,008", False, False),
        ("12000", "11800", True, True),
        ("1.0", "1.05", False, True),  # float noise
        ("1.0", "1.051", False, False),
        ("12", "**12**", False, True),
        ("bus", "**Bus**.", False, True),
        ("12", "`12`", False, True),
        ("12", "１２", True, True),  # float() reads the digits of all scripts
        ("-5", "−5", False, True),
        ("25%", "25％", False, True),
        ("5", "€5", False, True),
        ("-5", "-$5", False, True),
        ("Ja", "ja。", False, True),
        ("12", "13", False, False),
        ("yes", "no", False, False),
        ("0", "0.04", False, False),
        ("12", "12 million", False, False),
    ],
)
def test_where_a_person_reads_otherwise(gold, answer, published, normalised):
    assert GRADERS["chartqa_relaxed"](gold, answer).correct is published
    assert GRADERS["chartqa_normalised"](gold, answer).correct is normalised


def test_nan_is_a_word_to_a_person():
    assert GRADERS["chartqa_normalised"]("nan", "NaN").correct
    assert GRADERS["chartqa_normalised"]("inf", "5").correct is False


def reference(prediction: str, target: str, max_relative_change: float = 0.05) -> bool:
    """The released function of lmms-eval (and of Pix2Struct before it), with its ``float`` on every text."""

    def to_float(text):
        try:
            return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
        except ValueError:
            return None

    prediction_float, target_float = to_float(prediction), to_float(target)
    if prediction_float is not None and target_float:
        return abs(prediction_float - target_float) / abs(target_float) <= max_relative_change
    return prediction.lower() == target.lower()


@pytest.mark.parametrize(
    "gold", ["nan", "inf", "-inf", "0", "0.0", "1", "1e400", "Infinity", "5%", "%", "NaN", "1_000"]
)
@pytest.mark.parametrize(
    "answer", ["nan", "inf", "-inf", "0", "0.0", "1", "1e400", "Infinity", "5%", "%", "NaN", "1000"]
)
def test_nan_and_infinity_are_as_the_reference_rules(gold, answer):
    assert GRADERS["chartqa_relaxed"](gold, answer).correct is reference(answer, gold)


@pytest.mark.parametrize(
    "response",
    ["<thinking>about 80?</thinking>87", "<answer>87</answer>", r"\boxed{87}", "Answer: 87", "[THINK]80[/THINK]87",
     "The highest bar is Norway's.\n**Final answer:** 87"],
)  # fmt: skip
def test_a_person_reads_what_is_stated_behind_the_reasoning(response):
    assert GRADERS["chartqa_normalised"]("87", response).correct
    assert not GRADERS["chartqa_normalised"]("80", response).correct
    assert not GRADERS["chartqa_relaxed"]("87", response).correct


def test_reasoning_of_any_kind_that_never_ends_is_truncated():
    assert GRADERS["chartqa_normalised"]("87", "<thinking>87").reason == "truncated"
    assert GRADERS["chartqa_normalised"]("87", "◁think▷87").reason == "truncated"

"""Relaxed accuracy: the published rule with its quirks, and the reading of a person."""

import pytest

from lit_uniopd.rewards import GRADERS

BOTH = [
    ("30", "30", True),
    ("30", "31.5", True),  # 5 % exactly
    ("30", "31.6", False),
    ("30", "28.5", True),
    ("2010", "1995", True),  # years pass within 5 %
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
PUBLISHED_ONLY = [("1000", "1,000"), ("5", "$5"), ("bus", "bus."), ("bus", '"bus"'), ("bus", " bus")]


@pytest.mark.parametrize(("gold", "answer", "right"), BOTH)
@pytest.mark.parametrize("grader", ["chartqa_relaxed", "chartqa_normalised"])
def test_what_both_readings_agree_on(grader, gold, answer, right):
    assert GRADERS[grader](gold, answer).correct is right


@pytest.mark.parametrize(("gold", "answer"), PUBLISHED_ONLY)
def test_the_published_rule_strips_nothing_and_the_other_reads_like_a_person(gold, answer):
    assert GRADERS["chartqa_relaxed"](gold, answer).correct is False
    assert GRADERS["chartqa_normalised"](gold, answer).correct is True


def test_float_noise_is_part_of_the_published_rule():
    assert GRADERS["chartqa_relaxed"]("1.0", "1.05").correct is False


@pytest.mark.parametrize("grader", ["chartqa_relaxed", "chartqa_normalised"])
def test_no_answer_no_gold_and_thinking(grader):
    assert GRADERS[grader]("5", "").reason == "no_answer"
    assert GRADERS[grader](None, "5").reason == "no_gold"
    assert GRADERS[grader]("5", "<think>7</think>5").correct
    assert GRADERS[grader]("5", "<think>5").reason == "truncated"
    assert GRADERS[grader]("5", "9" * 100_000).correct is False
    assert GRADERS[grader]("nan", "nan").correct

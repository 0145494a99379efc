"""The tasks against an interpreter written another way."""

import random

import pytest

from lit_uniopd.playground.tasks import (
    DOMAINS,
    distinct_prompts,
    draw_prompt,
    follows_a_rule,
    result,
    solve,
    split_of,
)
from lit_uniopd.rewards.playground import grade_playground


def interpret(prompt: str) -> str:
    """Python's own arithmetic and string methods."""
    if prompt[0] == "M":
        return str(eval(prompt[1:-2]) % 5)
    program, letters = prompt[1:-1].split(":")
    for operator in program:
        if operator == "R":
            letters = letters[::-1]
        elif operator == "L":
            letters = letters[1:] + letters[0]
        else:
            letters = letters[-1] + letters[1:-1] + letters[0]
    return letters


def some_prompts(count: int = 200) -> list[str]:
    rng = random.Random(0)
    return [draw_prompt(rng, DOMAINS[i % 2], 1 + i % 4, "train") for i in range(count)]


def test_results_equal_those_of_another_interpreter():
    assert all(result(prompt) == interpret(prompt) for prompt in some_prompts())


@pytest.mark.parametrize(
    ("prompt", "careful", "careless"),
    [
        ("M3-4+1%=", "3-4=4,4+1=0", "3-4=2,2+1=3"),  # - carried out as +
        ("CRS:abcd=", "R=dcba,S=acbd", "R=dcba,S=abcd"),  # S as R
        ("CL:abcd=", "L=bcda", "L=dcba"),  # L as R
    ],
)
def test_answers_are_written_step_by_step(prompt, careful, careless):
    assert solve(prompt) == careful
    assert solve(prompt, lambda: True) == careless


def test_the_gold_answer_is_accepted_and_the_careless_one_is_not():
    for prompt in some_prompts():
        assert grade_playground(result(prompt), solve(prompt)).correct
        wrong = solve(prompt, lambda: True)
        assert grade_playground(result(prompt), wrong).correct == (wrong.rpartition("=")[2] == result(prompt))


@pytest.mark.parametrize(
    ("answer", "correct", "reason"),
    [
        ("3-4=4,4+1=0", True, "ok"),
        ("5+2=0", True, "ok"),  # graded on the last step only
        ("3-5=5,5+2=1", False, "wrong"),
        ("3-4=4,4+1=0=1", False, "no_answer"),  # two results in one step
        ("3-5=5,5+2=", False, "no_answer"),  # trails off
        ("3-5=5,", False, "no_answer"),
        ("0", False, "no_answer"),  # no step at all
        ("", False, "no_answer"),
        ("5+2=0 ", False, "wrong"),  # to the letter
        ("5+2=0,5+2=1", False, "wrong"),  # a hedge: the last counts
    ],
)
def test_grades(answer, correct, reason):
    grade = grade_playground("0", answer)
    assert (grade.correct, grade.reason) == (correct, reason)


def test_no_gold_no_verdict():
    assert grade_playground(None, "5+2=0").correct is None


def test_splits_are_disjoint_and_held_out_prompts_are_all_different():
    splits = {split: set() for split in ("train", "stopping", "heldout")}
    for domain in DOMAINS:
        for split, count in (("train", 1000), ("stopping", 64), ("heldout", 128)):
            prompts = distinct_prompts(0, domain, split, count)  # type: ignore[arg-type]
            assert len(prompts) == len(set(prompts)) == count
            splits[split] |= set(prompts)
    assert not splits["train"] & splits["heldout"]
    assert not splits["train"] & splits["stopping"]
    assert not splits["stopping"] & splits["heldout"]
    assert all(split_of(prompt) == split for split, prompts in splits.items() for prompt in prompts)


def test_prompts_depend_on_the_seed_only():
    assert distinct_prompts(1, "math", "train", 50) == distinct_prompts(1, "math", "train", 50)
    assert distinct_prompts(1, "math", "train", 50) != distinct_prompts(2, "math", "train", 50)


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        ("3-4=4,4+1=0", True),
        ("3-4=2,2+1=3", True),  # confused, consistently
        ("3-5=2,2+2=4", False),  # neither rule
        ("3-5=1,5+2=0", False),  # goes on with another number
        ("3-5=5", False),  # a step is missing
        ("", False),
        ("3-5=5,5+2", False),
    ],
)
def test_following_a_rule(answer, valid):
    assert follows_a_rule("M3-4+1%=", answer) == valid

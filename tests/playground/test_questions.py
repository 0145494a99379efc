"""Questions for a real model: what is held out, that a grader takes the solutions, and that files are written once."""

import json
import re

import pytest

from lit_uniopd.playground import locate
from lit_uniopd.playground.lists import make_lists
from lit_uniopd.playground.questions import KINDS, QUESTIONS
from lit_uniopd.playground.stories import make_long_stories, make_stories
from lit_uniopd.playground.sums import make_large_sums, make_sums
from lit_uniopd.rewards import GRADERS
from lit_uniopd.utils.jsonl import read_lines


def test_each_sum_is_on_one_side_in_both_orders():
    for seed in range(3):
        train, heldout = make_sums(seed)
        assert (len(train), len(heldout)) == (313, 48)
        numbers = {
            side: [tuple(map(int, row["id"].split("+"))) for row in rows]
            for side, rows in (("t", train), ("h", heldout))
        }
        assert sorted(numbers["t"] + numbers["h"]) == [(a, b) for a in range(2, 21) for b in range(2, 21)]
        assert not {frozenset(pair) for pair in numbers["t"]} & {frozenset(pair) for pair in numbers["h"]}
        for row in train + heldout:
            a, b = map(int, row["id"].split("+"))
            assert row["prompt"] == f"What is {a} + {b}?"
            assert GRADERS[row["grader"]](row["answer"], rf"So \boxed{{{a + b}}}.").correct
            assert not GRADERS[row["grader"]](row["answer"], f"{a + b}").correct


def test_the_words_of_a_list_are_those_of_no_other():
    for seed in range(3):
        train, heldout = make_lists(seed)
        assert (len(train), len(heldout)) == (313, 48)
        words = [row["prompt"].partition(": ")[2].split(", ") for row in train + heldout]
        assert len({frozenset(each) for each in words}) == 361
        assert all(len(set(each)) == len(each) in (2, 3, 4) for each in words)
        assert [json.loads(row["answer"]) for row in train + heldout] == words


def test_large_sums_have_two_digits_and_none_is_there_twice():
    for seed in range(3):
        train, heldout = make_large_sums(seed)
        assert (len(train), len(heldout)) == (313, 48)
        numbers = [tuple(map(int, re.findall(r"\d+", row["prompt"]))) for row in train + heldout]
        assert len({frozenset(pair) for pair in numbers}) == 361
        assert all(20 < n < 100 for pair in numbers for n in pair)
        assert [row["answer"] for row in train + heldout] == [str(a + b) for a, b in numbers]
        assert 0.3 < sum(a < b for a, b in numbers) / 361 < 0.7


@pytest.mark.parametrize(("make", "steps"), [(make_stories, 1), (make_long_stories, 2)])
def test_stories_are_told_as_they_are_counted(make, steps):
    losing = ("away", "loses", "sells")
    for seed in range(3):
        train, heldout = make(seed)
        assert (len(train), len(heldout)) == (313, 48)
        counted = []
        for row in train + heldout:
            story, _, question = row["prompt"].partition(".")
            start, *events = re.split(r" and then | and ", story)
            changes = [
                (-1 if any(word in event for word in losing) else 1) * int(re.findall(r"\d+", event)[0])
                for event in events
            ]
            number = int(re.findall(r"\d+", start)[0])
            counted.append((number, *changes))
            assert len(changes) == steps
            assert row["answer"] == str(number + sum(changes))
            assert number + changes[0] >= 0 <= number + sum(changes)
            name, _, _, things = start.split()
            assert question == f" How many {things} does {name} have now?"
        assert len(set(counted)) == 361


@pytest.mark.parametrize("kind", KINDS)
def test_a_solution_is_right_and_the_bare_question_is_not(kind):
    assert KINDS[kind](1) == KINDS[kind](1) != KINDS[kind](2)
    for row in KINDS[kind](0)[1]:
        assert row["domain"] == kind.rpartition("_")[2]
        grade = GRADERS[row["grader"]]
        assert grade(row["answer"], row["solution"]).correct
        assert not grade(row["answer"], row["prompt"]).correct
        assert not grade(row["answer"], f"Here you are:\n\n```json\n{row['answer']}\n```").correct


def test_files_are_written_once_for_each_seed(tmp_path):
    for name in QUESTIONS:
        path = locate(name, tmp_path, seed=4)
        assert path == tmp_path / "questions2_seed4" / name
        kind = name.removeprefix("heldout_").removesuffix(".jsonl")
        assert list(read_lines(path)) == KINDS[kind](4)[name.startswith("heldout_")]
        path.write_text("kept")
        assert locate(name, tmp_path, seed=4).read_text() == "kept"

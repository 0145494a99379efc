"""Questions for a real model: what is held out, that a grader takes the solutions, and that files are written once."""

import json

import pytest

from lit_uniopd.playground import locate
from lit_uniopd.playground.lists import make_lists
from lit_uniopd.playground.questions import KINDS, QUESTIONS
from lit_uniopd.playground.sums import make_sums
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_solution_is_right_and_the_bare_question_is_not(kind):
    assert KINDS[kind](1) == KINDS[kind](1) != KINDS[kind](2)
    for row in KINDS[kind](0)[1]:
        assert row["domain"] == kind
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

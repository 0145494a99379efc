"""Rows of the published runs in their order, on rows of our own in the same form."""

import json
import random

import torch

from benchmarks.reproduce import rows
from datamodules.sources import SourceArgs, read_prompts
from lit_uniopd.teachers.reading import Reading, ReadsArgs

PROBLEM = {"question": " Two and 2? ", "answer": "2 + 2 = <<2+2=4>>4 dollars\n#### $1,004"}


def test_prompts_that_fill_the_length_are_out_before_the_permutation():
    tokens = [3, 512, 511, 600, 5, 6]
    order = torch.randperm(4, generator=torch.Generator().manual_seed(42)).tolist()
    assert rows.trl_order(tokens) == [[0, 2, 4, 5][i] for i in order]


def test_problems_are_those_that_a_seeded_loop_would_draw():
    train, test = list(range(300)), list(range(120))
    drawn, held_out = rows.tuft_problems(train, test)
    rng = random.Random(0)
    rng.shuffle(train)
    rng.shuffle(test)
    assert held_out == test[:100]
    random.seed(0)
    for step in range(16):
        assert drawn[8 * step : 8 * step + 8] == [train[:256][random.randrange(256)] for _ in range(8)]


def test_a_problem_is_read_as_a_prompt_with_its_number(tmp_path):
    row = rows.gsm8k_row(PROBLEM)
    (tmp_path / "train.jsonl").write_text(2 * (json.dumps(row) + "\n"))  # drawn twice
    source = SourceArgs(path=str(tmp_path / "train.jsonl"), domain="math", grader="numeric")
    first, again = read_prompts(source, "--data.train")
    assert (first.gold, again.gold) == ("1004", "1004")
    assert [message["role"] for message in first.messages] == ["system", "user"]
    assert first.messages[1]["content"] == "Two and 2?"


def test_worked_examples_are_read_by_a_teacher_without_the_marks_of_the_calculator(tmp_path):
    (tmp_path / "examples.jsonl").write_text(json.dumps(rows.gsm8k_example(PROBLEM)) + "\n")
    reading = Reading(ReadsArgs(examples=str(tmp_path / "examples.jsonl")), "model.teachers.default.reads")
    assert reading.turns == [("user", "Two and 2?"), ("assistant", "2 + 2 = 4 dollars\n#### $1,004")]

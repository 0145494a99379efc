"""The student that reads notes: what it is trained to answer behind each, and its files."""

import json
import random

import pytest
from transformers import AutoModelForCausalLM

from lit_uniopd.playground import reader
from lit_uniopd.playground.models import encode
from lit_uniopd.playground.recipe import Recipe
from lit_uniopd.playground.tasks import follows_a_rule, last_result, result, solve

TINY = Recipe(
    width=16,
    layers=1,
    batch_size=4,
    student_stops_at=0,
    teacher_stops_at=0,
    max_steps=2,
    train_prompts=20,
    stopping_prompts=4,
)
PROMPTS = ["M3-4+1%=", "CSLS:abcd=", "M2-1-1-3%=", "CLLS:hgfe="]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_an_answer_is_what_its_note_wants(prompt):
    rng = random.Random(0)
    rows = {kind: [reader.row_of(rng, prompt, kind, Recipe()) for _ in range(200)] for kind in reader.KINDS}
    assert {asked for asked, _ in rows["none"]} == {prompt}
    assert {asked for asked, _ in rows["rule"]} == {f"%{prompt}"}
    assert {answer for _, answer in rows["rule"]} == {solve(prompt)}
    assert all(asked == f"{answer}%{prompt}" for asked, answer in rows["solution"])
    assert all(asked == f"{last_result(answer)}%{prompt}" for asked, answer in rows["result"])
    for kind in ("none", "solution"):
        answers = {answer for _, answer in rows[kind]}
        assert len(answers) > 1  # careless, not always in the same steps
        assert all(follows_a_rule(prompt, answer) for answer in answers)
    assert any(not follows_a_rule(prompt, answer) for _, answer in rows["result"])  # the result need not follow
    results = {last_result(answer) for _, answer in rows["none"]}
    for _, answer in rows["result"]:  # the steps do
        head = answer.rpartition("=")[0]
        assert any(follows_a_rule(prompt, f"{head}={value}") for value in results)


def test_files_and_solutions(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(reader.locate_reader("reader", tmp_path, 0, TINY))
    assert model.config.hidden_size == TINY.width
    solved = reader.locate_reader("solved.jsonl", tmp_path, 0, TINY)
    rows = [json.loads(line) for line in solved.read_text().splitlines()]
    prompts = [json.loads(line) for line in (tmp_path / "seed0/train.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "solution"} for row in rows] == prompts
    for row in rows:
        assert row["solution"] == solve(row["prompt"])
        assert last_result(row["solution"]) == row["answer"] == result(row["prompt"])
        encode(reader.with_note(row["prompt"], row["solution"]))  # in the models' characters

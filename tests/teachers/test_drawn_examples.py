"""Solved rows that a teacher reads: which, for whom, and the same again."""

import logging
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from modules.opd.test_uni_opd import KillAt, Killed, checkpointed, shuffled_prompts
from tiny import Prompts, adam, module, trainer, weights

from lit_uniopd.doctor import run_all_checks
from lit_uniopd.errors import UserError
from lit_uniopd.modules import UniOPD
from lit_uniopd.teachers import DrawArgs, ReadsArgs, TeacherArgs, WorkedExample
from lit_uniopd.teachers.reading import Reading
from lit_uniopd.types import Prompt

FLAG = "model.teachers.math.reads"


def row(i: int, domain: str = "math", **options: Any) -> Prompt:
    settings: dict[str, Any] = {"gold": str(i), "row": {"solution": f"it is {i}"}, **options}
    return Prompt(id=f"r{i}", messages=({"role": "user", "content": f"{i}?"},), domain=domain, **settings)


def reading(rows: list[Prompt], seed: int = 0, **draw: Any) -> Reading:
    result = Reading(ReadsArgs(draw=DrawArgs(**{"count": 3, **draw})), FLAG)
    result.learn_rows(rows, seed)
    return result


def drawn(read: Prompt) -> list[str]:
    return [str(message["content"]) for message in read.messages[:-1]]


def test_others_of_the_domain_are_drawn_evenly_and_never_the_prompt():
    rows = [row(i) for i in range(8)] + [row(i, "code") for i in range(20, 30)]
    counts: Counter[str] = Counter()
    for seed in range(400):
        turns = drawn(reading(rows, seed)(rows[0]))
        questions, answers = turns[::2], turns[1::2]
        assert [f"{answer}?" for answer in answers] == questions
        assert len(set(questions)) == 3
        counts.update(questions)
    assert set(counts) == {f"{i}?" for i in range(1, 8)}
    # Each of 7 is in 3 of 7 draws: 171 of 400, give or take four standard deviations.
    assert all(abs(count - 400 * 3 / 7) < 4 * (400 * 3 / 7 * 4 / 7) ** 0.5 for count in counts.values())


def test_a_draw_follows_from_prompt_and_seed_alone():
    rows = [row(i) for i in range(30)]
    first, again, other = reading(rows), reading(list(rows)), reading(rows, seed=1)
    backwards = [drawn(first(prompt)) for prompt in reversed(rows)][::-1]
    assert [drawn(again(prompt)) for prompt in rows] == backwards
    assert [drawn(other(prompt)) for prompt in rows] != backwards
    assert drawn(first(replace(rows[3], id="another name"))) == backwards[3]
    heldout = replace(row(99), gold=None)
    assert len(drawn(first(heldout))) == 6


def test_answers_are_written_by_a_template_and_stand_behind_the_examples():
    rows = [row(i) for i in range(4)]
    args = ReadsArgs(
        template="now: {prompt}",
        system="be good",
        examples=[WorkedExample("first?", "yes")],
        draw=DrawArgs(3, "{solution}, so {answer}"),
    )
    read = Reading(args, FLAG)
    read.learn_rows(rows, 0)
    messages = [(m["role"], m["content"]) for m in read(rows[0]).messages]
    assert messages[:3] == [("system", "be good"), ("user", "first?"), ("assistant", "yes")]
    assert messages[-1] == ("user", "now: 0?")
    assert sorted(messages[3:-1:2]) == [("user", f"{i}?") for i in (1, 2, 3)]
    assert sorted(messages[4:-1:2]) == [("assistant", f"it is {i}, so {i}") for i in (1, 2, 3)]


def test_rows_without_an_answer_or_a_text_and_repeated_ones_are_not_drawn():
    talk = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"})
    useless = [row(5, gold=None), row(6, images=("x.png",)), replace(row(7), messages=talk)]
    rows = [row(1), row(2), row(3), *[replace(row(1), id=f"copy{i}") for i in range(9)], *useless]
    assert sorted(drawn(reading(rows, count=2)(row(1)))[::2]) == ["2?", "3?"]
    with pytest.raises(
        UserError, match=r"'r1' has 2 other training rows of domain 'math' .*draw\.count is 3; lower it"
    ):
        reading(rows)(row(1))
    with pytest.raises(UserError, match=r"has 0 other training rows of domain 'physics'"):
        reading(rows)(row(1, "physics"))


@pytest.mark.parametrize(
    ("draw", "message"),
    [({"count": 0}, r"reads\.draw\.count must be at least 1"), ({"count": 1, "answer": "{"}, r"reads\.draw\.answer ")],
)
def test_mistakes_are_named_before_any_row(draw, message):
    with pytest.raises(UserError, match=message):
        Reading(ReadsArgs(draw=DrawArgs(**draw)), FLAG)


def test_a_row_without_what_the_answer_asks_for_is_named():
    with pytest.raises(UserError, match=r"reads\.draw\.answer asks for 'steps', which prompt 'r"):
        reading([row(i) for i in range(5)], answer="{steps}")(row(0))


def opd(paths: dict[str, str], **options: Any) -> UniOPD:
    itself = TeacherArgs(weights="student", reads=ReadsArgs(draw=DrawArgs(2)))
    return module(paths, teachers={"default": itself}, optimizer=adam, **options)


def test_a_killed_and_resumed_run_equals_an_unbroken_one(model_dirs, tmp_path):
    unbroken = opd(model_dirs)
    checkpointed(tmp_path / "whole").fit(unbroken, shuffled_prompts(tmp_path))
    first = checkpointed(tmp_path / "first")
    first.callbacks.append(KillAt(2))
    with pytest.raises(Killed):
        first.fit(opd(model_dirs), shuffled_prompts(tmp_path))
    second, last = opd(model_dirs), tmp_path / "first/ckpt/last.ckpt"
    checkpointed(tmp_path / "second").fit(second, shuffled_prompts(tmp_path), ckpt_path=last, weights_only=True)
    assert all(torch.equal(p, weights(unbroken)[name]) for name, p in weights(second).items())


def test_fit_and_doctor_draw_the_same_and_tell_where_there_are_too_few(model_dirs, tmp_path, caplog):
    rows = [replace(row(i), grader="exact") for i in range(6)]
    model = opd(model_dirs)
    findings = {f.name: f for f in run_all_checks(model, Prompts(rows))}
    assert findings["template default"].status == findings["disagreement default"].status == "green"
    assert "reads more of 'r0'" in findings["template default"].message
    read = model.teachers.reading(rows[0])
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, max_steps=1).fit(model, Prompts(rows))
    assert model.teachers.reading(rows[0]) == read
    assert "nothing to learn" not in caplog.text
    few = opd(model_dirs)
    with pytest.raises(UserError, match=r"draw\.count is 2; lower it"):
        trainer(tmp_path, max_steps=1).fit(few, Prompts(rows[:2]))
    assert few.policy is None

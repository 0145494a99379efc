"""Graders of users: functions, classes, metrics and TRL's reward functions, by their dotted path or as objects."""

import importlib
import logging
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.text import CharErrorRate
from trl.rewards.accuracy_rewards import accuracy_reward
from trl.rewards.format_rewards import think_format_reward

from lit_uniopd.errors import UserError
from lit_uniopd.grade import Grade
from lit_uniopd.rewards import GradeItem, GraderPool, check_grader, get_grader, grade, named_grader

MODULE = """
from lit_uniopd.grade import Grade

CALLS = []
PARIS = "Paris"

def same(text, gold):
    return text == gold

def share(response, row):
    return len(set(response) & set(row["letters"])) / len(row["letters"])

def of_column(text, letters, threshold=1):
    return sum(letter in text for letter in letters) >= threshold

def graded(gold, prediction, row=None):
    return Grade(prediction == gold, 0.25, extracted=prediction, reason="ok")

def asked(prompt, text):
    return prompt[-1]["content"] in text

def verl(data_source, solution_str, ground_truth, extra_info=None):
    return float(solution_str == ground_truth and data_source == "x" and extra_info["data_source"] == "x")

async def later(text, gold):
    return text == gold

class Same:
    def __call__(self, text, gold):
        return text == gold

class Needs:
    def __init__(self, limit): ...
    def __call__(self, text): ...

def lengths(completions, **kwargs):
    CALLS.append((completions, kwargs))
    return [-abs(4 - len(completion)) for completion in completions]

def contents(completions: list[list[dict[str, str]]], prompts, answer, **kwargs):
    CALLS.append((completions, prompts, answer))
    return [None if a is None else float(c[0]["content"] == a) for c, a in zip(completions, answer)]

def short(completions, **kwargs):
    return [1.0]

def text_back(text):
    return "yes"

def nothing_back(text):
    pass

def broken(text, row):
    return row["no_such_column"]

def anything(x):
    return True

def ambiguous(answer, text):
    return True
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> str:
    """A module of the user's in the working directory; its name is new in each test."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(grade, "_logged", {})
    importlib.invalidate_caches()
    return name


def item(grader: str, response: str = "Paris", gold: object = "Paris", **row: object) -> GradeItem:
    question = ({"role": "user", "content": "Capital?"},)
    return GradeItem(named_grader(grader), gold, response, row, messages=question)


def judged(*items: GradeItem) -> list[Grade]:
    with GraderPool() as graders:
        return graders.grade(items)


@pytest.mark.parametrize(
    ("function", "response", "row", "expected"),
    [
        ("same", "Paris", {}, Grade(True, 1.0)),
        ("same", "Rome", {}, Grade(False, 0.0, reason="wrong")),
        ("share", "abxx", {"letters": "abcd"}, Grade(True, 0.5)),
        ("share", "axxx", {"letters": "abcd"}, Grade(False, 0.25, reason="wrong")),
        ("of_column", "abxx", {"letters": "abcd"}, Grade(True, 1.0)),
        ("graded", "Rome", {}, Grade(False, 0.25, "Rome", "ok")),
        ("asked", "Capital? Paris.", {}, Grade(True, 1.0)),
        ("verl", "Paris", {"data_source": "x"}, Grade(True, 1.0)),
        ("later", "Paris", {}, Grade(True, 1.0)),
        ("Same", "Paris", {}, Grade(True, 1.0)),
    ],
)
def test_what_a_function_takes_is_known_by_its_arguments(mine, function, response, row, expected):
    assert judged(item(f"{mine}.{function}", response, **row)) == [expected]


def test_options_of_a_benchmark_are_arguments(mine):
    asked = GradeItem(named_grader(f"{mine}.of_column"), None, "ab", {"letters": "abcd"}, {"threshold": 3})
    assert judged(asked)[0].correct is False


def test_a_reward_function_of_trl_is_called_once_with_all_its_answers(mine):
    # Among answers of other graders, which keep their places.
    grades = judged(
        item(f"{mine}.lengths", "ab", question="q1", level=1),
        item("exact"),
        item(f"{mine}.lengths", "abcd", question="q2"),
    )
    assert [grade.score for grade in grades] == [-2.0, 1.0, 0.0]
    assert [grade.correct for grade in grades] == [False, True, False]
    [(completions, columns)] = sys.modules[mine].CALLS
    assert completions == ["ab", "abcd"]
    assert columns["question"] == ["q1", "q2"]
    assert columns["level"] == [1, None]
    assert columns["prompts"] == ["Capital?", "Capital?"]


def test_completions_are_messages_where_the_prompts_of_the_rows_are(mine):
    chat = [{"role": "user", "content": "Capital?"}]
    judged(item(f"{mine}.lengths", "ab", prompt=chat))
    completions, columns = sys.modules[mine].CALLS[0]
    assert completions == [[{"role": "assistant", "content": "ab"}]]
    assert columns["prompts"] == [chat]
    assert "prompt" not in columns


def test_an_annotation_says_what_completions_are(mine):
    grades = judged(*(item(f"{mine}.contents", "4", answer=answer) for answer in ("4", "5", None)))
    assert [(grade.correct, grade.reason) for grade in grades] == [(True, "ok"), (False, "wrong"), (None, "not_judged")]


@pytest.mark.parametrize("text", [r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{2}", "none"])
def test_rewards_of_trl_say_what_they_say_in_trl(text, mine):
    chat = [{"role": "assistant", "content": text}]
    row = {"solution": r"\boxed{\frac{1}{2}}"}
    [expected] = accuracy_reward(completions=[chat], solution=[row["solution"]])
    [verdict] = judged(item("trl.rewards.accuracy_reward", text, **row))
    assert verdict.score == expected
    thinking = f"<think>{text}</think> done"
    [expected] = think_format_reward([[{"role": "assistant", "content": thinking}]])
    assert judged(item("trl.rewards.think_format_reward", thinking))[0].score == expected == 1.0


def test_a_metric_of_torchmetrics(mine):
    metric = CharErrorRate()
    grader = named_grader(metric)
    grades = judged(item(grader, "Parisx"), item(grader, "Paris"))
    assert [grade.score for grade in grades] == pytest.approx([1 / 5, 0])
    assert metric.total == 0  # nothing is kept
    assert [g.score for g in judged(item("torchmetrics.text.CharErrorRate", "Parisx"))] == pytest.approx([1 / 5])


def test_in_python_the_function_itself_is_a_grader():
    first, second = (named_grader(lambda text, limit=limit: len(text) < limit) for limit in (3, 9))
    assert first != second
    assert [grade.correct for grade in judged(item(first), item(second))] == [False, True]
    assert get_grader(second)("", "Paris").correct is True

    def even(text):
        return len(text) % 2 == 0

    assert named_grader(even) == named_grader(even)


@pytest.mark.parametrize(
    ("value", "correct", "score"),
    [
        (np.bool_(True), True, 1.0),
        (np.float32(0.25), False, 0.25),
        (torch.tensor(0.5), True, 0.5),
        (torch.tensor([0.75]), True, 0.75),
        (1, True, 1.0),
        (-3, False, -3.0),
    ],
)
def test_scalars_of_other_libraries_are_numbers(value, correct, score):
    verdict = judged(item(named_grader(lambda text: value)))[0]
    assert (verdict.correct, verdict.score) == (correct, score)


@pytest.mark.parametrize(
    "value", ["yes", None, [True], {"score": 1.0}, float("nan"), torch.zeros(2), Fraction(1, 2), object()]
)
def test_what_is_no_verdict_is_told(value, caplog, monkeypatch):
    monkeypatch.setattr(grade, "_logged", {})
    with caplog.at_level(logging.WARNING):
        verdict = judged(item(named_grader(lambda text: value)))[0]
    assert (verdict.correct, verdict.reason) == (None, "error")
    [message] = caplog.messages
    assert f"({type(value).__name__}), where a bool, a number or a Grade is meant" in message


def test_an_exception_is_counted_under_its_name_and_told_once(mine, caplog):
    with caplog.at_level(logging.WARNING):
        grades = judged(*[item(f"{mine}.broken", other=1)] * 3, item(f"{mine}.short"), item(f"{mine}.short"))
    assert [each.reason for each in grades] == ["error"] * 5
    first, second = caplog.messages
    assert first.startswith(f"grader {mine}.broken could not judge an answer")
    assert first.endswith("KeyError: 'no_such_column'")
    assert second.endswith("ValueError: it returned 1 rewards for 2 answers")
    assert grade.breakdown_of(f"{mine}.broken") == "KeyError: 'no_such_column'"
    assert grade.breakdown_of("exact") is None


@pytest.mark.parametrize("function", ["asked", "contents", "quoted"])
def test_an_unknown_prompt_is_no_empty_prompt(function, mine, caplog):
    """As of a recorded answer: `quoted` would call it right, for nothing is asked of it."""
    with Path(f"{mine}.py").open("a") as module:
        module.write("\ndef quoted(text, messages):\n    return all(m['content'] in text for m in messages)\n")
    importlib.invalidate_caches()
    with caplog.at_level(logging.WARNING):
        verdict = judged(GradeItem(named_grader(f"{mine}.{function}"), "Paris", "Paris", {"answer": "Paris"}))[0]
    assert (verdict.correct, verdict.reason) == (None, "error")
    taken = {"asked": "prompt", "contents": "prompts", "quoted": "messages"}[function]
    assert f"it takes {taken!r}, which cannot be given to it" in caplog.text


def test_a_column_that_rows_do_not_have(mine, caplog):
    with caplog.at_level(logging.WARNING):
        judged(item(f"{mine}.contents", question="q"))
    assert (
        "it takes 'answer', which cannot be given to it (there are question, gold, row, prompts, completions)"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exat", "There is no grader named 'exat' (did you mean exact?)"),
        ("MODULE.sam", "did you mean MODULE.same?"),
        ("MODUL.same", "there is no module 'MODUL' (did you mean MODULE.same?)"),
        ("nowhere.to_be.found", "there is no module 'nowhere', neither in"),
        ("MODULE.PARIS", "is 'Paris' (str), which cannot be called"),
        ("MODULE.Needs", "cannot be made without arguments"),
        ("MODULE.anything", "takes x; name its arguments `text`"),
        ("MODULE.ambiguous", "takes `answer`, the model's or the row's"),
        ("torn.same", "importing torn failed with SyntaxError"),
        ("hungry.same", "importing hungry failed with ModuleNotFoundError: No module named 'not_installed'"),
        ("math.hypot", "name its arguments `text`"),
    ],
)
def test_what_is_no_grader_is_told_before_anything_runs(mine, name, words):
    Path("torn.py").write_text("def same(text:\n")
    Path("hungry.py").write_text("import not_installed\n")
    importlib.invalidate_caches()
    with pytest.raises(UserError) as error:
        check_grader(named_grader(name.replace("MODULE", mine).replace("MODUL.", f"{mine[:-1]}.")))
    assert words.replace("MODULE", mine).replace("'MODUL'", repr(mine[:-1])) in str(error.value)


def test_data_alone_choose_no_code(tmp_path, monkeypatch):
    """A function of the standard library that takes a text and, by the row's column, a command."""
    trace = tmp_path / "trace"
    attack = GradeItem("pydoc.pipepager", "Paris", "Paris", {"cmd": f"cat > {trace}"})
    for judge in (lambda: check_grader("pydoc.pipepager"), lambda: GraderPool().grade([attack])):
        with pytest.raises(UserError, match=r"^`grader` 'pydoc.pipepager' is named by data alone, .*row_graders"):
            judge()
    assert not trace.exists()

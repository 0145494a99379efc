"""The rules of lmms-eval's tasks give what the installed lmms-eval gives, answer by answer."""

import importlib.util
import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
from lmms_modules import bare_lmms_eval

from benchmarks.corpus import read_corpus
from lit_uniopd.rewards import GRADERS
from lit_uniopd.rewards.lmms_reasoning import grade_lmms_reasoning
from lit_uniopd.rewards.lmms_rules import reasoning_answer, reasoning_letter, visulogic_letter, without_reasoning

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed (pip install --no-deps lmms-eval==0.7.3)",
)

LETTERS = [
    "B", "b", "B.", "b.", " B", "B\n", "(B)", "[B]", "B)", "B:", "**B**", "`B`", "$B$", "'B'", '"B."', "B!", "BC", "B, C", "A, B and D",
    "B rabbit", "B. rabbit", "B) rabbit", "B: rabbit", "B - rabbit", "B-rabbit", "B_rabbit", "B=rabbit", "rabbit", "rabbit.", "Rabbit", "B.\nrabbit",
    "Answer: B", "answer - b", "The answer is B", "The answer is (B).", "the answer is: B", "The Correct Answer is D", "The correct answer is not A but B.",
    "I choose B", "I Choose the third", "My answer is B because C is wrong", "My Choice is C", "The best option is D", "Option B", "option c.", "options B",
    "It is B", "It is B, not C", "B or C", "Either B or C", "Not A. Not C. So B.", "Because of A circle", "A circle", "A", "a", "None", "E", "Dog", "DOG",
    "1. B", "2. B 1. A", "Both", "THE ANSWER", "the AnsweR: D!", "CHOICE IS b", "答案是B", "答案：(C)", "選擇 B。", "Ｂ", '{"answer": "B"}', '{"B": 1}',
    "<answer>B</answer>", "<answer> (B) </answer>", "<ANSWER>B</ANSWER>", "<answer>B. rabbit</answer>", "<answer>A</answer> no: <answer>B</answer>",
    "<answer></answer> \\boxed{B}", "<answer>B", "B</answer>", "<answer>The answer is B</answer>", "\\boxed{B}", "\\boxed{b}", "\\boxed{\\text{B}}",
    "\\boxed{A} then \\boxed{ C }", "\\boxed{B", "\\boxed{A} \\boxed{C", "\\boxed{\\boxed{D}}", "\\boxed{}", "\\fbox{B}", "\\boxed {B}", "$\\boxed{(B)}$",
    "<think>A</think>B", "<think>A</think>B. rabbit", "<think>A. </think> <answer>C</answer>", "<think>A", "A</think>B", "a<think>b</think>c<think>d</think>B",
    "<analysis>C</analysis>B", "<think>x<think>y</think>z</think>B", "<THINK>A</THINK>B", "<think>C</think>\\boxed{B}", "", " ", ".", "B ", "A.B.C.D.",
    "(A) or (C)? (B)", "answer:B answer:C", "The answer is option (c)", "x answer isB", "answerB", "Is it C?", "B?;", "İ answer B", "É. B", "C\u0301.",
]  # fmt: skip
NUMBERS = [
    "12", "12.", "12.0", "So x = 12", "So x = -12.5.\nThat is all.", "a 3\nb 4\n", "3\nno", "3 4", "1,234", "3/4", "1e5", "x5", "5x", "12 cm", "50%", "$12$",
    "\\boxed{12}", "\\boxed{12.0}", "\\boxed{\\frac{24}{2}}", "\\boxed{12\\text{ cm}}", "\\boxed{\\{12\\}}", "\\boxed{{12}", "\\boxed{-12}", "\\boxed{50\\%}",
    "<answer>12</answer>", "<answer>12 cm</answer>", "<answer>\\frac{24}{2}</answer>", "<answer>$\\sqrt{144}$</answer>", "<answer>x = 12</answer>",
    "<answer>144/12</answer>", "<answer>12, 13</answer>", "<answer>twelve</answer>", "<answer>0.5</answer>", "<answer>1/2</answer>", "\\boxed{.5}",
    "<answer>9.00</answer>", "<answer>1,200</answer>", "<answer>the perimeter is 12</answer>", "<answer>[1, 3]</answer>", "<answer>(1, 3)</answer>",
    "<answer>A quite long answer.</answer>", "<answer>a quite long answer</answer>", "<answer>a quite long answe</answer>", "<answer>quite long</answer>",
    "<think>12", "12 .", "12 . \r\n", "Answer:\t12\x0b", "\u0661\u0662", "12\u00a0",
]  # fmt: skip
GOLDS = ["B.", "b", "12", "0.5", "9.0", "A, C", "[1, 3]", "a quite long answer", "Circle"]


@pytest.fixture(scope="module")
def lmms(tmp_path_factory):
    with bare_lmms_eval(tmp_path_factory.mktemp("hub")) as module:
        yield SimpleNamespace(
            reasoning=module("tasks._task_utils.reasoning_utils"),
            tags=module("api.reasoning"),
            ai2d=module("tasks.ai2d.utils"),
            visulogic=module("tasks.visulogic.utils"),
            chartqa=module("tasks.chartqa.utils"),
            metrics=module("api.metrics"),
        )


@pytest.fixture(scope="module")
def answers() -> list[str]:
    written = [*LETTERS, *NUMBERS, *(answer.text for answer in read_corpus())]
    assert len(set(written)) > 750
    return written


def stripped(lmms: Any, text: str) -> str:
    """By lmms-eval's own default tags."""
    return lmms.tags.strip_reasoning_tags(text, json.loads('[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'))


def test_reasoning_is_taken_off_as_by_default(lmms, answers):
    assert [without_reasoning(text) for text in answers] == [stripped(lmms, text) for text in answers]


def test_the_reasoning_tasks_read_the_same_answers_and_letters(lmms, answers):
    visible = [stripped(lmms, text).strip() for text in answers]
    theirs = [lmms.reasoning.simple_parse(lmms.reasoning.extract_anwser_tag(text).strip()) for text in visible]
    assert [reasoning_answer(text) for text in visible] == theirs
    assert {bool(answer) for answer in theirs} == {True, False}
    assert [reasoning_letter(text) for text in answers] == [lmms.reasoning.parse_mcq(text) for text in answers]
    # Every form of a letter behind and before every other, between signs that are no letters.
    pieces = [
        "A",
        "(C)",
        "D.",
        "B:",
        "C)",
        "E ",
        "F-",
        "G_",
        "A=",
        "1. A",
        "2. B",
        "The Correct answer",
        "my Choice is",
        "I Pick ",
        "h",
    ]
    made = [f"({' '.join(parts)})" for parts in itertools.product(pieces, repeat=2)]
    made += [f"({''.join(parts)}(" for parts in itertools.product(pieces, repeat=2)]
    assert [reasoning_letter(text) for text in made] == [lmms.reasoning.parse_mcq(text) for text in made]


@pytest.mark.parametrize("gold", GOLDS)
def test_the_reasoning_tasks_give_the_same_verdicts(lmms, gold):
    answers = {text if "<" in text or "boxed" in text else f"<answer>{text}</answer>" for text in (*LETTERS, *NUMBERS)}
    graded = sorted({*answers, *NUMBERS})[GOLDS.index(gold) % 6 :: 6]  # sympy reads each
    graded += [f"<answer>{gold}</answer>", rf"<think>\boxed{{1}}</think> So \boxed{{{gold}}}."]
    theirs = [lmms.reasoning.compute_score("", stripped(lmms, text).strip(), gold)["acc_score"] for text in graded]
    assert [grade_lmms_reasoning(gold, text).score for text in graded] == theirs
    assert {1, 0} == set(theirs)


def test_visulogic(lmms, answers):
    visible = [stripped(lmms, text) for text in answers]
    theirs = [lmms.visulogic._extract_option_letter(text) for text in visible]
    assert [visulogic_letter(text) for text in visible] == theirs
    assert {"A", "B", "C", "D", ""} == set(theirs)
    for label in ("B", "d", " C "):
        verdicts = [
            lmms.visulogic.visulogic_process_results({"label": label}, [text])["visulogic_acc"] for text in visible
        ]
        grades = [GRADERS["choice"](label, text, extraction="lmms_visulogic") for text in answers]
        assert [grade.score for grade in grades] == verdicts
        assert {grade.reason for grade in grades} == {"ok", "wrong", "no_answer"}


def test_ai2d(lmms, answers):
    row = {"question": "", "options": ["fox", "rabbit", "grass", "none"], "answer": "1"}
    kept = lmms.ai2d.MultiChoiceRegexFilter().apply([[text] for text in answers], [row] * len(answers))
    gold = lmms.ai2d.ai2d_doc_to_target(row, "mcq")
    theirs = [
        lmms.metrics.exact_match_hf_evaluate(
            predictions=[stripped(lmms, text).strip()], references=[gold], ignore_case=True, ignore_punctuation=True
        )["exact_match"]
        for text in kept
    ]
    grades = [GRADERS["choice"](gold, text, extraction="lmms_ai2d", choices=row["options"]) for text in answers]
    assert [grade.score for grade in grades] == theirs
    assert {grade.reason for grade in grades} == {"ok", "wrong", "no_answer"}


@pytest.mark.parametrize("gold", ["12", "12.5", "50%", "0", "rabbit", "2010", "B"])
def test_chartqa(lmms, answers, gold):
    written = [*answers, "11.9", "11.4", "12.6", " 12.6\n", "0.5", "0.0", "Rabbit", " rabbit", "1995", "nan", "0", "0."]
    written = [
        text for text in written if "<think>" not in text or "</think>" in text
    ]  # wrong here, whatever stands in it
    theirs = [lmms.chartqa.relaxed_correctness(stripped(lmms, text), gold) for text in written]
    assert [bool(GRADERS["chartqa_relaxed"](gold, text).correct) for text in written] == theirs
    assert {True, False} == set(theirs)


@pytest.mark.parametrize(
    "golds", [["12"], ["Blue Harbour Ltd.", "Blue Harbour Ltd"], ["1,204", "1204"], ["rabbit"], ["a b  c"]]
)
def test_docvqa_and_infovqa(lmms, golds):
    written = [
        *LETTERS,
        *NUMBERS,
        "blue  harbour ltd",
        " Blue Harbor Ltd.\n",
        "rabit",
        "1204 ",
        "1 204",
        "abc",
        "a  b c",
        "rabbits <think>?</think>",
    ]
    written = [
        text for text in written if "<think>" not in text or "</think>" in text
    ]  # wrong here, whatever stands in it
    theirs = [lmms.metrics.anls(golds, [stripped(lmms, text).strip()])["anls"] for text in written]
    assert [GRADERS["anls"](golds, text).score for text in written] == pytest.approx(theirs)
    assert 1.0 in theirs

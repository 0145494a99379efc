"""Labels of code problems as data sets publish them: every one is judged, by hand-made programs that are right or not."""

import json
from typing import Any

import pytest

from lit_uniopd.rewards import GRADERS, GradeItem, GraderPool
from lit_uniopd.rewards.code_labels import code_task, grade_code


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


STDIN = {"inputs": ["3\n1 2 3\n", "1\n-4\n"], "outputs": ["6\n", "-4"]}
LINES = {"inputs": [["3", "1 2 3"], ["1", "-4"]], "outputs": [["6"], ["-4"]]}  # lists of lines
SUM = "n = int(input())\nprint(sum(map(int, input().split())))"
CALL = {"fn_name": "clip", "inputs": ['[5, -1]\n"low"', '[]\n"low"'], "outputs": ["[5, 0]", "[]"]}  # PRIME: JSON lines
ARGUMENTS = {"fn_name": "clip", "inputs": [[[5, -1], "low"], [[], "low"]], "outputs": [[[5, 0]], [[]]]}  # TACO: lists
CLIP = "def clip(xs, how):\n    return [max(x, 0) for x in xs]"
METHOD = "class Solution:\n    def clip(self, xs: List[int], how):\n        return tuple(max(x, 0) for x in xs)"
KEYS = {"fn_name": "swap", "inputs": ['{"1": 2, "3": 4}'], "outputs": ['{"2": 1, "4": 3}']}
SWAP = "def swap(d):\n    return {v: k for k, v in d.items()}"
WRAPPED = {"fn_name": "ends", "inputs": ["[4, 5, 6]"], "outputs": ["[[4, 6]]"]}  # the result in a list of its own
ENDS = "def ends(xs):\n    return [xs[0], xs[-1]]"
ROWS = {"fn_name": "rows", "inputs": ["[1, 2]"], "outputs": ["[[1, 1], [2, 2]]"]}
SEARCH = {"fn_name": "search", "inputs": ["[7, 8]\n8"], "outputs": ["1"]}  # also a name of re
EMPTY = {"fn_name": None, **STDIN}  # Arrow gives every label all keys


@pytest.mark.parametrize(
    ("label", "right", "wrong"),
    [
        (STDIN, SUM, SUM + "\nprint()\nprint(0)"),
        (LINES, SUM, SUM.replace("sum", "max")),
        (EMPTY, SUM, "print(6)"),
        (CALL, CLIP, CLIP.replace("0)", "1)")),
        (CALL, METHOD, METHOD.replace("tuple", "sum")),
        (ARGUMENTS, CLIP, "def clip(xs, how):\n    return xs"),
        (KEYS, SWAP, "def swap(d):\n    return d"),
        (WRAPPED, ENDS, ENDS.replace("-1", "1")),
        (WRAPPED, "def ends(xs):\n    return [[xs[0], xs[-1]]]", "def ends(xs):\n    return 4"),
        (ROWS, "def rows(xs):\n    return [(x, x) for x in xs]", "def rows(xs):\n    return [(x, [(x,)]) for x in xs]"),
        (SEARCH, "def search(xs, x):\n    return xs.index(x)", "def find(xs, x):\n    return 1"),
        ({"tests": [{"stdin": "1", "stdout": "1"}]}, "print(input())", "print(2)"),  # our own form
        (
            {"entry_point": "f", "calls": [[1]], "expected": [2]},
            "def f(x):\n    return x + 1",
            "def f(x):\n    return x",
        ),
    ],
)
@pytest.mark.parametrize("form", [dict, json.dumps])
def test_a_published_label_judges_programs(label: dict[str, Any], right: str, wrong: str, form: Any):
    assert GRADERS["code"](form(label), fenced(right)).correct is True
    assert GRADERS["code"](form(label), fenced(wrong)).correct is False
    assert GRADERS["code"](form(label), "I do not know.").correct is False


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ({"inputs": [], "outputs": []}, "0 inputs for 0 outputs"),
        ({"inputs": ["1"], "outputs": ["1", "2"]}, "1 inputs for 2 outputs"),
        ({"fn_name": "f", "inputs": ["no JSON"], "outputs": ["1"]}, "Expecting value"),
        ("[1]", "list, not a mapping"),
        ("def f(): ...", "Expecting value"),
    ],
)
def test_a_label_without_runnable_tests_is_no_task(label: Any, reason: str):
    with pytest.raises(ValueError, match=reason):
        code_task(label)
    assert GRADERS["code"](label, fenced("print(1)")).correct is None  # and no program is judged by it


def test_without_a_label_there_is_no_verdict():
    assert [grade_code(gold, fenced("print(1)")).reason for gold in (None, "", {})] == ["no_gold"] * 3


def test_a_pool_leaves_no_outcome_of_the_papers_labels_unknown():
    labels = [STDIN, LINES, EMPTY, CALL, ARGUMENTS, KEYS, WRAPPED, SEARCH]
    answers = [fenced(SUM), fenced(CLIP), "thinking without an end", "```\nnot a program (\n```"]
    with GraderPool(workers=2) as pool:
        grades = pool.grade([GradeItem("code", json.dumps(label), answer) for label in labels for answer in answers])
    assert None not in [grade.correct for grade in grades]
    assert sum(grade.correct is True for grade in grades) == 5  # three by SUM, two by CLIP

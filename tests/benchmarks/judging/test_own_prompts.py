"""SedarEval's prompts for the judge: right values by the authors' functions (`src/utils/get_judge_agent.py`)."""

import math
from pathlib import Path

import pytest

from lit_uniopd.benchmarks.adapters.base import AdapterContext
from lit_uniopd.benchmarks.adapters.sedareval import sedareval
from lit_uniopd.benchmarks.judging.own_prompts import OwnPrompt, own_prompts, total_points
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.errors import UserError

QUERY = "Q1: Remember 7.\nQ2\uff1a Which number?\nQ3:Twice?"
ANSWER = "A1: Yes.\nA2: Seven.\nA3: {14}\n"


def part(prompt: str, history: str = "", judged: str = "", turns: float = 1.0, bonus: float = math.nan) -> dict:
    shown = {"是否含聊天记录": bool(history), " 聊天记录依赖回合": history}
    return {
        "prompt": prompt,
        "meta": {
            "聊天记录依赖": shown,
            "待评估模型答案信息": judged,
            "分数计算方式": {"计算回合数": turns, "附加分": bonus},
        },
    }


def read(auto_prompt: object, query: str = QUERY) -> tuple[tuple[OwnPrompt, ...], tuple[str, ...]]:
    row = {"id": "a", "query": query, "meta": {"category": ["对话"]}, "auto_prompt": auto_prompt}
    context = AdapterContext("paper", fixture=False, cache_dir=Path())
    (example,) = sedareval([row], find_spec("sedareval"), context).examples
    return own_prompts(example.row), example.turns


@pytest.mark.parametrize(
    ("auto_prompt", "filled"),
    [
        ([part("{response} {{x}}")], ANSWER + " {{x}}"),
        ([part("{response} {{x}}", judged="A2")], "Seven. {x}"),
        ([part("{response} {", judged="第3轮")], "{14} {"),
        ([part("{response1}|{response2}|{response3}", judged="A2~A3")], "Seven.|{14}|{response3}"),
        # `format` would fail at the field that is left, so braces stay.
        (
            [part("{history_chat1}/{history_ans1} {history_chat2}: {response}", "第1轮", "A2")],
            "Remember 7./Yes. {history_chat2}: Seven.",
        ),
        (
            [part("{history_chat1}/{history_ans1} {history_ans2}: {response}", "1-2", "A3")],
            "Remember 7./Yes. Seven.: {14}",
        ),
    ],
)
def test_a_prompt_shows_the_turns_that_it_names(auto_prompt, filled):
    (prompt,), turns = read(auto_prompt)
    assert prompt.fill(turns, ANSWER) == filled


def test_what_is_empty_is_not_asked_about():
    (prompt,), turns = read([part("{response}", judged="A2")])
    assert prompt.fill(turns, "A1: Yes.\nA2: \nA3: 14\n") is None
    assert prompt.fill(turns, "A1: Yes.\n") is None
    (whole,), _ = read({"prompt": "{response}", "字数统计": True}, query="?")
    assert whole.fill((), "") is None
    assert whole.fill((), "abc") == "[字数\uff1a3]\nabc"


@pytest.mark.parametrize(
    ("parts", "points", "total"),
    [
        ([(1.0, math.nan), (1.0, math.nan)], (2, 1), 3),
        ([(1.0, 1.0), (1.0, 0.5)], (2, 3), 5),  # never more than there are
        ([(math.nan, math.nan), (1.0, math.nan)], (-4, 3), 3),  # raised to 0 before what is counted
        ([(math.nan, math.nan), (math.nan, math.nan)], (-4, 3), -1),
        ([(math.nan, 1.0), (math.nan, math.nan), (1.0, math.nan)], (-3, -1, 2), 2),
    ],
)
def test_points_of_all_prompts_are_added_as_the_rows_say(parts, points, total):
    prompts, _ = read([part("{response}", turns=turns, bonus=bonus) for turns, bonus in parts])
    assert total_points(prompts, points, most=5.0) == total


def test_a_prompt_that_cannot_be_read_is_named():
    with pytest.raises(
        UserError, match=r"^The column auto_prompt of row a holds a prompt .* cannot be read: .*no range"
    ):
        read([part("{response}", judged="all of them")])

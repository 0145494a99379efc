"""Scores of judged benchmarks from verdicts, by hand and against scipy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lit_uniopd.benchmarks.judging.judged_rows import JudgedRow
from lit_uniopd.benchmarks.judging.own_prompts import OwnPrompt
from lit_uniopd.benchmarks.judging.protocols import ArenaHard, MMVet, SedarEval
from lit_uniopd.benchmarks.judging.verdicts import Verdict


def pair_rows(labels: list[tuple[float, float, float, float]], lengths: list[int] | None = None) -> list[JudgedRow]:
    """Rows with (value, weight) in both orders, and answers of so many words against ten."""
    blank = {"benchmark": "b", "asked": "", "judge": {}, "template": {"sha256": ""}}
    rows = []
    for i, (won, weight, won_again, weight_again) in enumerate(labels):
        verdicts = tuple(
            Verdict(sample_id=str(i), sample_idx=0, order=order, value=value, weight=w, **blank)
            for order, value, w in (("model_first", won, weight), ("baseline_first", won_again, weight_again))
        )
        answer = "word " * (lengths[i] if lengths else 10)
        rows.append(JudgedRow(str(i), 0, i, "?", answer, "word " * 10, verdicts=verdicts))
    return rows


def test_a_clear_verdict_counts_three_times_as_in_arena_hard():
    rows = pair_rows([(1.0, 3.0, 1.0, 1.0), (0.0, 1.0, 0.5, 1.0), (0.0, 3.0, 0.0, 3.0)])
    games = [1, 1, 1, 1] + [0, 0.5] + [0] * 6  # each label as so many games
    assert ArenaHard().score(rows).scores["win_rate"] == pytest.approx(np.mean(games))


def test_the_interval_is_a_bootstrap_over_questions():
    rng = np.random.default_rng(1)
    rows = pair_rows([(float(v), 1.0, float(v), 1.0) for v in rng.integers(0, 2, 80)])
    low, high = ArenaHard().score(rows).interval["win_rate"]
    values = np.array([row.values[0] for row in rows])
    options: dict[str, Any] = {"n_resamples": 5000, "method": "percentile", "random_state": 0}
    theirs = stats.bootstrap((values,), np.mean, **options)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    assert high - low > 0.18  # 2 * 1.96 * sqrt(.25 / 80); two games of a question are not two draws


def test_style_control_takes_length_out(caplog):
    """Long answers win, short ones lose: at the baseline's length it is even."""
    rng = np.random.default_rng(2)
    lengths = [int(n) for n in rng.integers(4, 40, 120)]
    wins = rng.random(120) < 1 / (1 + np.exp(-4 * (np.array(lengths) - 10.0) / (np.array(lengths) + 10.0)))
    scored = ArenaHard(style_control=True).score(pair_rows([(float(w), 1.0, float(w), 1.0) for w in wins], lengths))
    assert scored.scores["win_rate"] > 0.65
    low, high = scored.interval["style_controlled_win_rate"]
    assert low < 0.5 < high
    assert abs(scored.scores["style_controlled_win_rate"] - 0.5) < 0.12
    assert scored.details["style_coefficients"]["length"] > 0.5
    assert scored.details["style_coefficients"]["bold"] == 0.0


def test_capabilities_by_hand():
    def row(i: int, mark: float, *kinds: str) -> JudgedRow:
        verdict = Verdict("b", str(i), 0, "", "", {}, {"sha256": ""}, mark)
        return JudgedRow(str(i), 0, i, "?", "a", "b", kinds, (verdict,))

    scored = MMVet().score([row(0, 1.0, "rec", "ocr"), row(1, 0.4, "ocr"), row(2, 0.1, "rec", "know")])
    assert scored.scores["correctness"] == pytest.approx(0.5)
    assert scored.breakdown == pytest.approx({"rec": 0.55, "ocr": 0.7, "know": 0.1})


PUBLISHED = {
    "gpt4o-eval": (73.810, (72.266, 72.176, 67.013, 72.066, 77.708, 78.837, 89.032, 77.031)),
    "Qwen2.5-32B-Instruct": (73.129, (68.571, 69.815, 69.753, 73.049, 75.729, 84.109, 86.129, 75.328)),
    "QwQ-32B-Preview": (69.737, (63.744, 63.333, 54.074, 78.966, 72.760, 87.442, 93.548, 75.642)),
    "qwen2_1_5b_chat": (23.910, (20.049, 19.444, 14.051, 4.912, 62.708, 22.016, 30.323, 14.541)),
}
"""Of SedarEval's README: total and its eight categories, in per cent."""
CATEGORIES = ("理解", "问答", "对话", "Agent/复杂指令", "创作", "数学", "代码", "推理")


def rubric_row(i: int, share: float, category: str, answer: str = "a") -> JudgedRow:
    verdict = Verdict("b", str(i), 0, "", "", {}, {"sha256": ""}, share)
    return JudgedRow(str(i), 0, i, "?", answer, "b", (category,), (verdict,), rubric="r")


@pytest.mark.parametrize("model", PUBLISHED)
def test_sedareval_weighs_categories_as_its_leaderboard(model):
    total, shares = PUBLISHED[model]
    # Two rows a category, to either side of its mean, and a third one of mathematics at it: sizes must not weigh.
    rows = [
        rubric_row(4 * i + k, share / 100 + shift, category)
        for i, (share, category) in enumerate(zip(shares, CATEGORIES, strict=True))
        for k, shift in enumerate((-0.04, 0.04, 0.0)[: 3 if category == "数学" else 2])
    ]
    scored = SedarEval().score(rows)
    assert scored.scores["overall"] == pytest.approx(total / 100, abs=1e-5)
    assert scored.breakdown == pytest.approx(dict(zip(CATEGORIES, (share / 100 for share in shares), strict=True)))
    assert scored.interval["overall"][0] <= scored.scores["overall"] <= scored.interval["overall"][1]


def test_sedareval_leaves_empty_answers_out_and_counts_them():
    rows = [rubric_row(0, 0.6, "数学"), rubric_row(1, 0.0, "数学", answer=" \n"), rubric_row(2, 0.2, "对话")]
    scored = SedarEval().score(rows)
    assert scored.scores == pytest.approx({"overall": 0.4, "question_mean": 0.4})
    assert scored.details == {"empty_answers": 1, "below_zero": 0}
    assert SedarEval().score(rows[1:2]).scores == {}


def test_sedareval_adds_the_points_of_a_rows_prompts_and_leaves_out_what_is_below_zero():
    prompts = (OwnPrompt("{response}"), OwnPrompt("{response}", bonus=1.0))

    def talk(i: int, first: float, second: float) -> JudgedRow:
        verdicts = tuple(
            Verdict("b", str(i), 0, str(k), "", {}, {"sha256": ""}, points / 5)
            for k, points in ((1, first), (2, second))
        )
        row = rubric_row(i, 0.0, "对话")
        return replace(row, verdicts=verdicts, own_prompts=prompts, filled_prompts=("a", "a"))

    scored = SedarEval().score([talk(0, 2, -1), talk(1, -3, 1), talk(2, 1, 3)])
    assert scored.scores["question_mean"] == pytest.approx((2 / 5 + 5 / 5) / 2)  # of 2 - 1 + 1, and of 1 + 3 + 1
    assert scored.details == {"empty_answers": 0, "below_zero": 1}

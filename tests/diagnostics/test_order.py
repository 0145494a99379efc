"""The order of returns against an enumeration by hand; misjudged answers, figures."""

from itertools import product
from typing import Any

import pytest
import torch
from callbacks_data import rollouts

from callbacks import MarginCalibration
from lit_uniopd.diagnostics import difficulty_figure, judge, misjudged_table, order_figure, order_statistics

RETURNS = [[-0.2, -0.2], [-0.1], [0.3], [-0.5, -0.7], [0.9], [0.2], [0.1], [-1.0]]
OUTCOMES = [1, 0, 1, 0, 0, 1, 1, -1]
GROUPS = [0, 0, 1, 1, 2, 3, 3, 1]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def logged(batch: Any, labels: dict[str, list[str]], names: dict[str, list[str]]) -> dict[str, float]:
    class OneRank:
        device = torch.device("cpu")

        class trainer:
            world_size = 1

    return order_statistics(judge(batch), labels, names).reduce(OneRank())  # type: ignore[arg-type]


def test_order_is_what_counting_by_hand_gives():
    batch = rollouts(RETURNS, OUTCOMES, GROUPS)
    values = logged(batch, {}, {})
    returns = [mean(row) for row in RETURNS]
    pairs = [
        (returns[i], returns[j])
        for i, j in product(range(8), range(8))
        if GROUPS[i] == GROUPS[j] and OUTCOMES[i] == 1 and OUTCOMES[j] == 0
    ]
    assert values["order/inversions_before"] == mean([wrong > right for right, wrong in pairs]) == 0.5
    assert values["order/mixed"] == 2 / 4
    assert values["order/all_correct"] == values["order/all_incorrect"] == 1 / 4
    assert values["order/consistent_before"] == 1 / 2
    assert values["order/margin_before"] == pytest.approx(mean([right - wrong for right, wrong in pairs]))
    assert values["order/return_correct_before"] == pytest.approx(mean([-0.2, 0.3, 0.2, 0.1]))
    assert values["order/return_incorrect_before"] == pytest.approx(mean([-0.1, -0.6, 0.9]))
    assert values["order/shift"] == values["order/masked"] == 0


def test_labels_and_difficulties_split_the_groups():
    batch = rollouts([[0.1]] * 8, [1, 0, 0, 0, 1, 1, 1, 0], [0] * 4 + [1] * 4)
    values = logged(batch, {"domain": ["a"] * 4 + ["b"] * 4}, {"domain": ["a", "b", "never"]})
    assert values["order/domain/a/mixed"] == 1
    assert values["order/difficulty/hard/consistent_before"] == 1  # a tie is in order
    assert values["order/difficulty/easy/consistent_before"] == 1
    assert not any("medium" in name or "never" in name for name in values)


def test_after_is_what_is_trained_on():
    batch = rollouts(RETURNS, OUTCOMES, GROUPS)
    shifted = MarginCalibration(delta=0.4).calibrate(batch)
    batch.advantages_BT = shifted.advantages
    values = logged(batch, {}, {})
    assert values["order/margin_before"] < values["order/margin_after"]
    assert values["order/consistent_after"] == 1
    assert values["order/shift"] == pytest.approx(2 * 0.25 / 7)  # the two answers of group 0, of seven with outcomes
    batch = rollouts(RETURNS, [1, 0, 1, 0, 0, 1, 1, 1], GROUPS)
    batch.advantages_BT = MarginCalibration(variant="mask").calibrate(batch).advantages
    assert logged(batch, {}, {})["order/masked"] == 1 / 8


def test_unscored_answers_are_nobodys_opinion():
    batch = rollouts(RETURNS, OUTCOMES, GROUPS)
    batch.teacher_ok_B[1] = False
    assert "order/inversions_before" in logged(batch, {}, {})
    assert logged(batch, {}, {})["order/inversions_before"] == 0


def test_the_misjudged_are_named_worst_first():
    batch = rollouts([[-0.2], [-0.1], [0.5], [0.6]], [1, 0, 1, 0], [0, 0, 1, 1])
    batch.text = ["right A", "wrong A", "right B", "wrong B <b>"]
    text = misjudged_table(batch, judge(batch), count=1)
    rows = text.splitlines()[2:]
    assert len(rows) == 2
    assert "overestimated" in rows[0]
    assert "-0.100" in rows[0] or "+0.600" in rows[0]
    assert "<b>" not in text
    batch.outcome_B = torch.tensor([0, 1, 0, 1])
    assert misjudged_table(batch, judge(batch)) == ""


def test_figures_are_drawn():
    figure = order_figure([judge(rollouts(RETURNS, OUTCOMES, GROUPS))] * 2)
    assert figure is not None
    assert len(figure.axes) == 4
    assert order_figure([judge(rollouts([[0.1]], [1], [0]))]) is None
    assert difficulty_figure([5, 1, 2], [5, 5, 2]).axes

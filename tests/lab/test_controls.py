"""Controls of online balancing leave out as many answers as it does, of the kind that they name."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from callbacks_data import rollouts

from benchmarks.lab.controls import LeaveOut
from lit_uniopd.functional.balance import balance_outcomes

OUTCOMES = [*(1, 0, 0, 0), *(1, 1, 1, 0), *(0, 0, 0, 0), *(1, 1, 0, -1)]
GROUPS = [group for group in range(4) for _ in range(4)]
"""Balancing 1:1 leaves out two wrong answers of the first prompt, two right ones of the second and one of the last."""


def left_out(of: Any, step: int = 0) -> list[int]:
    scored = rollouts([[0.1]] * len(OUTCOMES), OUTCOMES, GROUPS)
    LeaveOut(of).on_rollouts_scored(SimpleNamespace(global_step=step), None, scored)  # pyright: ignore[reportArgumentType]
    return (~scored.keep_B).nonzero().flatten().tolist()


@pytest.mark.parametrize(("of", "kinds"), [("any", {0, 1}), ("correct", {1}), ("incorrect", {0})])
def test_as_many_as_balancing_leaves_out_of_the_kind_that_is_named(of, kinds):
    assert int((~balance_outcomes(torch.tensor(OUTCOMES), torch.tensor(GROUPS))).sum()) == 5
    over_steps = [left_out(of, step) for step in range(20)]
    assert all(len(rows) == 5 for rows in over_steps)
    assert {OUTCOMES[row] for rows in over_steps for row in rows} == kinds
    assert len({tuple(rows) for rows in over_steps}) > 1
    assert left_out(of, 3) == over_steps[3]


def test_no_more_are_left_out_than_there_are():
    """One right answer is there; balancing would leave out nine wrong ones."""
    outcomes = [1] + [0] * 10
    scored = rollouts([[0.1]] * 11, outcomes, [0] * 11)
    LeaveOut("correct").on_rollouts_scored(SimpleNamespace(global_step=0), None, scored)  # pyright: ignore[reportArgumentType]
    assert scored.keep_B.tolist() == [False] + [True] * 10

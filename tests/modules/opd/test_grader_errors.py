"""An error inside a grader is counted under its name in the metrics of a rollout."""

from dataclasses import replace

import pytest
from callbacks_data import rollouts

from lit_uniopd.modules.opd.rollout_metrics import rollout_statistics
from lit_uniopd.rewards import GraderPool
from lit_uniopd.rewards.grading import grade_answers


def test_errors_are_counted_by_grader_and_never_as_outcomes():
    batch = rollouts([[0.1]] * 5, [0] * 5, [0, 1, 2, 3, 4])
    golds = [("yes_no", "perhaps"), ("yes_no", "yes"), ("numeric", "seven"), ("exact", "yes"), (None, None)]
    batch.prompts = [replace(p, grader=g, gold=gold) for p, (g, gold) in zip(batch.prompts, golds, strict=True)]
    batch.text = ["yes"] * 5
    with GraderPool() as graders:
        grade_answers(batch, graders)
    assert batch.outcome_B.tolist()[:4] == [-1, 1, -1, 1]
    state = rollout_statistics(batch, None, (), ()).state()
    assert state["rollout/grader_error/yes_no"] == [1.0, 2.0]
    assert state["rollout/grader_error/numeric"] == [1.0, 1.0]
    assert state["rollout/grader_error/exact"] == [0.0, 1.0]
    assert state["rollout/grader_error/math"] == [0.0, 0.0]  # no answers: left out of the log
    total, count = state["rollout/outcome_rate"]
    assert total / count == pytest.approx(1.0)

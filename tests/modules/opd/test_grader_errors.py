"""An error inside a grader is counted under its name in the metrics of a rollout."""

from dataclasses import replace

import pytest
from callbacks_data import rollouts
from tiny import Prompts, module, prompts, trainer

from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd.rollout_metrics import rollout_statistics
from lit_uniopd.rewards import GraderPool, named_grader
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


def test_those_of_a_user_s_grader_too(model_dirs, tmp_path):
    def odd(text, row):
        if row["number"] in (2, 3):  # one of each domain
            raise LookupError("even ones only")
        return True

    name = named_grader(odd)
    asked = [replace(p, grader=name, gold=None, row={"number": i}) for i, p in enumerate(prompts(4))]
    runner = trainer(tmp_path)
    runner.fit(module(model_dirs), Prompts(asked))  # no gold answers: it needs none
    assert float(runner.callback_metrics[f"rollout/grader_error/{name}"]) == 0.5
    assert float(runner.callback_metrics["rollout/unknown_outcomes"]) == 0.5
    assert float(runner.callback_metrics["rollout/outcome_rate"]) == 1.0


def test_a_grader_that_always_breaks_down_stops_the_run_before_it_begins(model_dirs, tmp_path):
    def broken(text, row):
        return row["no_such_column"]

    name = named_grader(broken)
    words = (
        f"Grader '{name}' broke down on 4 of 4 training prompts that were tried (KeyError: 'no_such_column'); mend it"
    )
    with pytest.raises(UserError) as error:
        trainer(tmp_path).fit(module(model_dirs), Prompts([replace(p, grader=name) for p in prompts(8)]))
    assert str(error.value).startswith(words)

"""`MemoryPlanner` alone: a setup by hand, no module."""

from typing import Any

import pytest
from tiny import adam, trainer

from lit_uniopd.errors import UserError
from lit_uniopd.memory import Setup, Workload, plan_memory, trainer_facts
from lit_uniopd.memory.planner import MemoryPlanner
from lit_uniopd.policy import PolicyArgs


@pytest.fixture
def run(model_dirs, tmp_path) -> tuple[Any, Setup]:
    runner = trainer(tmp_path)
    workload = Workload(train_tokens=64, longest_row=16)
    return runner, Setup(PolicyArgs(path=model_dirs["student"]), "policy", adam, workload, **trainer_facts(runner))


def test_the_plan_is_that_of_the_setup(run):
    runner, setup = run
    planner = MemoryPlanner()
    assert planner.plan is None
    planner.check(runner, lambda: [setup])
    assert planner.plan == plan_memory(setup)


def test_what_cannot_fit_is_refused(run, monkeypatch):
    runner, setup = run
    monkeypatch.setattr("lit_uniopd.memory.planner.free_bytes", lambda *_: 1000)
    with pytest.raises(UserError, match=r"cannot fit"):
        MemoryPlanner().check(runner, lambda: [setup])


def test_what_may_not_fit_is_refused_unless_it_is_asked_for(run, monkeypatch):
    runner, setup = run
    plan = plan_memory(setup)
    assert plan.least < plan.total - 1
    monkeypatch.setattr("lit_uniopd.memory.planner.free_bytes", lambda *_: plan.total - 1)
    planner = MemoryPlanner()
    with pytest.raises(UserError, match=r"may not fit: about .*; --allow_oom starts it as it is\.$"):
        planner.check(runner, lambda: [setup])
    monkeypatch.setattr(UserError, "on_command_line", False)
    with pytest.raises(UserError, match=r"; module\.memory\.allow_oom = True starts it as it is\.$"):
        planner.check(runner, lambda: [setup])
    planner.allow_oom = True
    with pytest.warns(UserWarning, match="may not fit"):
        planner.check(runner, lambda: [setup])


def test_a_users_mistake_passes_and_an_odd_model_is_logged(run, caplog):
    runner, _ = run

    def mistaken() -> list[Setup]:
        raise UserError("--model.policy.path is empty; give one.")

    def odd() -> list[Setup]:
        raise KeyError("layers")

    with pytest.raises(UserError, match="is empty"):
        MemoryPlanner().check(runner, mistaken)
    planner = MemoryPlanner()
    planner.check(runner, odd)
    assert planner.plan is None
    assert "no memory plan for this model (KeyError: 'layers')" in caplog.text

"""The configs of a real model, with an untrained one in its place: experts are found where they were written."""

import json
import shlex
from pathlib import Path

import pytest

from docs import hooks
from lit_uniopd.cli import main
from lit_uniopd.playground.untrained import write_tiny_text

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_experts_are_made_and_teach_one_student(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_tiny_text(tmp_path / "tiny", 0)
    experts = hooks.read_head(Path("configs/real/expert.yaml")).commands
    assert len(experts) == 2
    for command in experts:
        main([*shlex.split(command)[1:], "--model.policy.path", "tiny", "--trainer.max_steps", "2"])
    (command,) = hooks.read_head(Path("configs/real/experts.yaml")).commands
    short = {"trainer.limit_train_batches": 2, "trainer.val_check_interval": 2, "trainer.callbacks.max_rows": 4}
    short |= {"model.student.path": "tiny", "model.sampling.n": 2, "data.batch_size": 4}
    short |= {"model.warm_start.steps": 1}
    main([*shlex.split(command)[1:], *(word for name, value in short.items() for word in (f"--{name}", str(value)))])
    summary = json.loads(Path("runs/experts_student/version_0/summary.json").read_text())
    for when in ("before", "after", "teachers"):
        assert summary[when].keys() == {"sums", "lists"}
    rollouts = Path("runs/experts_student/version_0/rollouts.jsonl").read_text().splitlines()
    routed = {(group["prompt"].split()[0], group["teacher"]) for group in map(json.loads, rollouts)}
    assert routed == {("What", "sums"), ("Write", "lists")}

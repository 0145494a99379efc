"""The real quickstart, cut short: a model that reads worked examples teaches itself without them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lit_uniopd.utils.jsonl import read_lines

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "configs/real/self_teacher.yaml"
SHORT = {
    "trainer.limit_train_batches": 2,
    "trainer.val_check_interval": 2,
    "data.batch_size": 2,
    "data.val.limit": 6,
    "model.sampling.n": 2,
}


def test_the_examples_are_the_teachers_alone_and_a_table_ends_the_run(playground, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/playground").symlink_to(playground)
    options = [word for name, value in SHORT.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "lit_uniopd", "fit", "-c", str(CONFIG), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Held-out prompts" in done.stdout
    run = tmp_path / "runs/self_teacher/version_0"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["before"] == {"sums": 0.0}  # it answers, and never in a box
    assert summary["teachers"]["sums"] > 0  # by its examples alone: the weights are the same
    assert 0 <= summary["after"]["sums"] <= 1
    groups = list(read_lines(run / "rollouts.jsonl"))
    assert groups
    for group in groups:
        assert "boxed" not in group["prompt"]
        assert group["read"].count("boxed") == 4
        assert group["read"].endswith(f"user: {group['prompt']}")

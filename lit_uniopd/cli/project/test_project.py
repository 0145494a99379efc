"""`python -m pytest` in this folder."""

import json
from pathlib import Path

import pytest
from my_data import Differences
from my_grader import is_right

from lit_uniopd.cli import main

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("text", "right"), [("3-4=4,4-1=3", True), ("3-4=4,4-1=2", False), ("3", True), ("", False), ("3 or 4=3.", False)]
)
def test_the_grader(text: str, right: bool):
    assert is_right(text, gold="3") is right


def test_held_out_prompts_are_not_trained_on():
    data = Differences()
    assert not {p.id for p in data.train_prompts} & {p.id for p in data.val_prompts}


def test_a_run_of_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(HERE)  # where runs/playground/ is, once it is made
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.check_val_every_n_epoch=1"]
    main(["fit", "-c", "config.yaml", *short, f"--trainer.logger.save_dir={tmp_path}"])
    [summary] = tmp_path.glob("mine/version_0/summary.json")
    assert set(json.loads(summary.read_text())["after"]) == {"math"}

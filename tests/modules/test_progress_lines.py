"""When a run will end, as its lines say it; `tests/test_signs_of_life.py` has lines of whole runs."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, Timer

from lit_uniopd.modules import progress_lines
from lit_uniopd.modules.progress_lines import ProgressLines

FIRST_S, OTHERS_S = 100.0, 10.0


def run(monkeypatch: pytest.MonkeyPatch, steps: int, **options: Any) -> str:
    """What is said of the end after so many steps, of which the first took longer."""
    clock = [0.0]
    monkeypatch.setattr(progress_lines, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    settings = {"max_epochs": 3, "max_steps": -1, "num_training_batches": 20, "accumulate_grad_batches": 1}
    settings |= {"callbacks": [], "callback_metrics": {}, "distributed_sampler_kwargs": None, "global_step": 0}
    trainer: Any = SimpleNamespace(**settings | options)
    module: Any = SimpleNamespace(steps_per_batch=1)
    lines, began = ProgressLines(), trainer.global_step
    lines.on_train_start(trainer, module)
    for step in range(1, steps + 1):
        clock[0] += FIRST_S if step == 1 else OTHERS_S
        trainer.global_step = began + step
        lines.on_train_batch_end(trainer, module, None, [0], step)
    return lines._time_left(trainer, clock[0])


class Limited(Timer):
    """Two minutes are left."""

    def time_remaining(self, stage: Any = "train") -> float:
        return 120.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "9 min left of 10 min"),  # 55 of 60 steps, three epochs of 20 batches
        ({"max_steps": 35}, "5 min left of 5 min"),
        ({"accumulate_grad_batches": 4}, "1 min left of 2 min"),  # 10 of 15 steps
        ({"global_step": 30}, "4 min left of 10 min"),  # resumed: 25 of 60
        ({"callbacks": [EarlyStopping("val/accuracy")]}, "at most 9 min left of 10 min"),
        ({"callbacks": [Limited("00:00:10:00")]}, "at most 2 min left of 2 min"),
        ({"callbacks": [Limited("00:00:10:00")], "max_epochs": -1}, "at most 2 min left of 2 min"),
        ({"max_epochs": -1}, ""),
        ({"max_steps": 5}, ""),
    ],
)
def test_the_end_at_the_pace_of_all_steps_but_the_first(options, expected, monkeypatch):
    assert run(monkeypatch, 5, **options) == expected


def test_two_steps_are_too_few_for_the_whole(monkeypatch):
    assert run(monkeypatch, 2) == "53 min left"
    assert run(monkeypatch, 3) == "9 min left of 10 min"

"""Online balancing inside the datamodule's hook."""

from typing import Any

import pytest
import torch
from lightning import Callback
from tiny import Memory, module, trainer

from datamodules import PromptDataModule, SourceArgs
from datamodules.balancing import OnlineBalanceArgs
from lit_uniopd.errors import UserError
from lit_uniopd.types import Rollouts


class Outcomes(PromptDataModule):
    """The first answer to each prompt is right, the second unknown."""

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        rollouts.outcome_B[:] = torch.tensor([1, -1, 0, 0]).repeat(len(rollouts) // 4)
        super().on_rollouts_scored(trainer, pl_module, rollouts)


class Spy(Callback):
    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        self.rollouts = rollouts


def fit(paths: dict[str, str], tmp_path: Any, args: OnlineBalanceArgs | None, logger: Any = False) -> Spy:
    file = tmp_path / "train.jsonl"
    file.write_text("".join(f'{{"prompt": "{i}=", "answer": "{i}", "domain": "math"}}\n' for i in range(4)))
    spy = Spy()
    model = module(paths)
    model.sampling.n = 4
    data = Outcomes(train=SourceArgs(str(file), grader="exact"), batch_size=4, online_balance=args)
    trainer(tmp_path, callbacks=[spy], logger=logger).fit(model, data)
    return spy


def test_callbacks_and_the_update_see_balanced_answers(model_dirs, tmp_path):
    memory = Memory()
    spy = fit(model_dirs, tmp_path, OnlineBalanceArgs(), memory)
    keep = spy.rollouts.keep_B.reshape(4, 4)
    assert keep[:, :2].all()  # the right and the unknown one
    assert keep[:, 2:].sum(dim=1).tolist() == [1, 1, 1, 1]
    assert memory.values["balance/removed_incorrect"] == 0.25
    assert memory.values["balance/removed_correct"] == 0
    assert memory.values["balance/unknown"] == 0.25
    assert memory.values["balance/correct_share"] == 0.5


def test_without_it_every_answer_trains(model_dirs, tmp_path):
    assert fit(model_dirs, tmp_path, None).rollouts.keep_B.all()


def test_a_negative_ratio_is_refused():
    with pytest.raises(UserError, match=r"--data\.online_balance\.ratio"):
        OnlineBalanceArgs(ratio=-1)

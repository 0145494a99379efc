"""Tokens that end answers are not gap-masked, and what the mask takes can be seen."""

import logging
from typing import Any

import pytest
import torch
from callbacks_data import rollouts as scored_rollouts
from lightning import Callback
from tiny import Memory, Prompts, module, prompts, trainer

from callbacks.margin_calibration import MarginCalibration
from lit_uniopd.modules import LossArgs
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.modules.opd.losses import end_tokens, never_gap_masked
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import Rollouts
from lit_uniopd.view.records import group_record


class AbhorsEnds(Callback):
    """The teacher is the student, but for tokens that end answers: it has them at 23 nats less."""

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        self.ends = torch.isin(rollouts.tokens_BT, torch.tensor(sorted(pl_module.policy.eos_ids))) & rollouts.mask_BT
        rollouts.teacher_logps_BT = rollouts.student_logps_BT - 23.0 * self.ends
        rollouts.advantages_BT = -23.0 * self.ends
        self.rollouts = rollouts


def step(paths: dict[str, str], tmp_path: Any, loss: LossArgs, **options: Any) -> tuple[AbhorsEnds, dict[str, float]]:
    teacher, memory = AbhorsEnds(), Memory()
    model = module(paths, loss=loss, sampling=SamplingArgs(n=64, max_new_tokens=4), gradient_clip=None, **options)
    trainer(tmp_path, callbacks=[teacher], logger=memory).fit(model, Prompts(prompts(4)))
    return teacher, memory.values


def test_premature_ends_train_unless_the_released_behaviour_is_asked_for(model_dirs, tmp_path):
    teacher, values = step(model_dirs, tmp_path, LossArgs())
    ends, lengths = teacher.ends, teacher.rollouts.lengths_B
    assert 0 < int(ends.sum()) < len(ends)
    assert (values["train/gap_fraction"], values["train/gap_fraction_eos"]) == (0, 0)
    assert values["train/grad_norm"] > 0
    # By hand: an end costs 23 nats, shared by the tokens of its answer; the mean is over 256 answers.
    assert values["train/loss"] == pytest.approx(float((23 * ends.sum(dim=1) / lengths).sum()) / 256, rel=1e-4)
    kl = 23 * int(ends.sum()) / int(lengths.sum())
    assert values["train/kl_all_tokens"] == pytest.approx(kl, rel=1e-4)

    _, released = step(model_dirs, tmp_path, LossArgs(gap_mask_ends=True))
    assert released["train/gap_fraction"] == pytest.approx(int(ends.sum()) / int(lengths.sum()))
    assert (released["train/gap_fraction_eos"], released["train/loss"]) == (1, pytest.approx(0, abs=1e-5))
    assert released["train/grad_norm"] < 1e-4
    assert released["train/kl_all_tokens"] == pytest.approx(kl, rel=1e-4)  # what the loss does not see


@pytest.mark.parametrize("kind", ["reverse_kl", "sampled"])
def test_the_kl_over_all_tokens_is_logged_for_every_loss(model_dirs, tmp_path, kind):
    teacher, values = step(model_dirs, tmp_path, LossArgs(kind=kind))
    expected = 23 * int(teacher.ends.sum()) / int(teacher.rollouts.mask_BT.sum())
    assert values["train/kl_all_tokens"] == pytest.approx(expected, rel=1e-4)


def test_a_mask_of_many_tokens_is_warned_of_once(model_dirs, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        model = module(model_dirs, loss=LossArgs(gap_threshold=0.5))
        trainer(tmp_path).fit(model, Prompts(prompts(12)))
        assert model.global_step == 3
    (warning,) = [record.getMessage() for record in caplog.records if "gap mask" in record.getMessage()]
    assert "--model.loss.gap_threshold 0.5" in warning
    assert "train/kl_all_tokens" in warning
    caplog.clear()
    trainer(tmp_path).fit(module(model_dirs, loss=LossArgs(gap_threshold=1e6)), Prompts(prompts(4)))
    assert "gap mask" not in caplog.text


def test_ends_are_found_by_every_id_that_ends_an_answer_and_not_in_padding():
    batch = scored_rollouts([[0.0, 0.0, 0.0], [0.0]], [1, 0], [0, 0])
    batch.tokens_BT = torch.tensor([[5, 7, 9], [9, 0, 0]])
    assert end_tokens(batch, frozenset({9, 0})).tolist() == [[False, False, True], [True, False, False]]
    assert not end_tokens(batch, frozenset()).any()
    assert never_gap_masked(batch, LossArgs(gap_mask_ends=True), frozenset({9})) is None


def test_margins_and_records_spare_the_same_tokens_as_the_loss():
    batch = scored_rollouts([[-0.2, -23.0], [-0.1, 0.0]], [1, 0], [0, 0])
    spared = torch.tensor([[False, True], [False, False]])
    margin = MarginCalibration().calibrate(batch, gap_threshold=10.0, never_gap_masked_BT=spared).margin_before.item()
    assert margin == pytest.approx((-0.2 - 23) / 2 + 0.1 / 2)
    assert MarginCalibration().calibrate(batch, gap_threshold=10.0).margin_before.item() == pytest.approx(-0.2 + 0.05)
    common: Any = {"step": 1, "teacher": "", "why": ["best"], "pieces": lambda ids: ["x"] * len(ids), "max_tokens": 9}
    for mask, flags in ((spared, ".."), (None, ".g")):
        record = group_record(batch, [0, 1], gap_threshold=10.0, never_gap_masked_BT=mask, **common)
        assert record["answers"][0]["flags"] == flags


class Pushes(Callback):
    """Makes the student write even more of what it writes, and so drift from its start."""

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        rollouts.advantages_BT = torch.ones_like(rollouts.advantages_BT) * rollouts.mask_BT
        self.drift = float((rollouts.student_logps_BT - rollouts.teacher_logps_BT).abs().max())


def test_where_nobody_teaches_there_is_no_gap(model_dirs, tmp_path):
    """What drifts from the reference is what its KL is to hold, and outcomes go on to train it."""
    alone = AdvantageArgs(teacher_weight=0, outcome_weight=1, reference_weight=0.1)
    memory, pushes = Memory(), Pushes()
    model = module(model_dirs, teachers={}, advantage=alone, loss=LossArgs(gap_threshold=0.01))
    trainer(tmp_path, max_steps=2, max_epochs=9, logger=memory, callbacks=[pushes]).fit(model, Prompts(prompts(4)))
    assert pushes.drift > 0.01
    assert memory.values["train/gap_fraction"] == 0

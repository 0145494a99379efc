"""A run goes on from a checkpoint of its own, and from no other's."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import Prompts, adam, module, prompts, sgd, trainer
from torch.optim.lr_scheduler import ConstantLR

from callbacks import MarginCalibration
from lit_uniopd.errors import UserError
from lit_uniopd.modules import SFT
from lit_uniopd.modules.opd.horizon import HorizonArgs
from lit_uniopd.modules.same_run import RECORD
from lit_uniopd.policy import LoraArgs, PolicyArgs
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.teachers import ReadsArgs, TeacherArgs

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
]
LORA = LoraArgs(rank=4, alpha=8)


def sft(model_dirs: dict[str, str], lora: LoraArgs | None = None, **options: Any) -> SFT:
    settings: dict[str, Any] = {"optimizer": adam, "lr_scheduler": None, "seed": 3}
    return SFT(PolicyArgs(path=model_dirs["student"], lora=lora), **{**settings, **options})


def fit(root: Path, model: Any, data: Any = None, steps: int = 1, **resumed: Any) -> Path:
    saver = ModelCheckpoint(root / "saved", save_last=True, enable_version_counter=False)
    run = trainer(root, callbacks=[saver], enable_checkpointing=True, max_epochs=9, max_steps=steps)
    run.fit(model, data or Prompts(prompts(4)), weights_only=True, **resumed)
    return root / "saved/last.ckpt"


def test_a_checkpoint_says_what_run_it_is_of(tmp_path, model_dirs):
    record = torch.load(fit(tmp_path, sft(model_dirs)), weights_only=True)[RECORD]
    assert record["objective"] == "SFT"
    assert record["optimizer"] == "AdamW"
    assert record["settings"]["data.batch_size"] == "4"
    assert record["settings"]["model.seed"] == "3"
    assert len(record["rows"]) == 16


@pytest.mark.parametrize(
    ("other", "data", "sentence"),
    [
        (lambda dirs: module(dirs), None, "is of a run of SFT, --model is UniOPD; give a checkpoint of UniOPD"),
        (lambda dirs: sft(dirs, LORA, optimizer=sgd), None, r"--model\.optimizer AdamW, not SGD; give the one"),
        (lambda dirs: sft(dirs, LORA, lr_scheduler=ConstantLR), None, r"--model\.lr_scheduler none, not ConstantLR"),
        (lambda dirs: sft(dirs, LORA), Prompts(list(prompts(5))[1:]), "is of a run on other training rows"),
        (lambda dirs: sft(dirs, LORA), Prompts(list(prompts(4))[::-1]), "is of a run on other training rows"),
        (lambda dirs: sft(dirs, LoraArgs(rank=4, alpha=16)), None, r"holds adapters of --model\.policy\.lora .*'8"),
        (lambda dirs: sft(dirs), None, "holds another model"),
    ],
    ids=["objective", "optimizer", "schedule", "rows", "order", "alpha", "adapters"],
)
def test_another_run_is_refused_in_one_sentence(other, data, sentence, tmp_path, model_dirs):
    last = fit(tmp_path / "first", sft(model_dirs, LORA))
    with pytest.raises(UserError, match=sentence):
        fit(tmp_path / "second", other(model_dirs), data, steps=2, ckpt_path=last)


def test_other_weights_of_the_same_objective_may_be_validated_whatever_made_them(tmp_path, model_dirs):
    last = fit(tmp_path / "first", sft(model_dirs))
    trainer(tmp_path).validate(
        module(model_dirs), Prompts(prompts(4)), ckpt_path=last, verbose=False, weights_only=True
    )


def test_settings_that_may_change_are_logged(tmp_path, model_dirs, caplog):
    def faster(params: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr=0.5)

    last = fit(tmp_path / "first", module(model_dirs, optimizer=adam))
    lr = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"][0]["lr"]
    changed = module(model_dirs, optimizer=faster, sampling=SamplingArgs(n=2, max_new_tokens=6))
    with caplog.at_level(logging.WARNING):
        last = fit(tmp_path / "second", changed, Prompts(prompts(4), batch_size=2), steps=2, ckpt_path=last)
    assert "data.batch_size 2 (was 4)" in caplog.text
    assert "model.sampling.n 2 (was 3)" in caplog.text
    assert f"not with this run's: model.optimizer.lr 0.5 (was {lr})" in caplog.text
    assert torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"][0]["lr"] == lr  # as it says


def test_changed_teachers_options_that_were_null_and_calibration_are_logged(tmp_path, model_dirs, caplog):
    teachers = {name: TeacherArgs(path=model_dirs[name]) for name in ("math", "code")}
    last = fit(tmp_path / "first", module(model_dirs, teachers=teachers, grader_killed="incorrect"))
    teachers["math"] = TeacherArgs(path=model_dirs["code"], reads=ReadsArgs(template="Solve: {prompt}"))
    options: dict[str, Any] = {"horizon": HorizonArgs(2, 3), "grader_killed": "unknown", "teachers": teachers}
    with caplog.at_level(logging.WARNING):
        saver = ModelCheckpoint(tmp_path / "saved", save_last=True)
        run = trainer(
            tmp_path, callbacks=[saver, MarginCalibration()], enable_checkpointing=True, max_epochs=9, max_steps=2
        )
        run.fit(module(model_dirs, **options), Prompts(prompts(4)), ckpt_path=last, weights_only=True)
    for change in (
        f"model.teachers.math.path {model_dirs['code']} (was {model_dirs['math']})",
        "model.teachers.math.reads set (was None)",
        "model.horizon set (was None)",
        "model.grader_killed unknown (was incorrect)",
        "trainer.callbacks ['MarginCalibration'] (was [])",
    ):
        assert change in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fit(tmp_path / "third", module(model_dirs), steps=3, ckpt_path=tmp_path / "saved/last.ckpt")
    assert "model.horizon None (was set)" in caplog.text
    assert "trainer.callbacks [] (was ['MarginCalibration'])" in caplog.text


@pytest.mark.parametrize("objective", [module, lambda paths: sft(paths)])
def test_a_run_that_goes_on_as_it_was_has_no_other_settings(objective, tmp_path, model_dirs, caplog):
    """Also where a machine has chosen something for it, the engine of `auto` say."""
    last = fit(tmp_path / "first", objective(model_dirs))
    with caplog.at_level(logging.WARNING):
        fit(tmp_path / "second", objective(model_dirs), steps=2, ckpt_path=last)
    assert "other settings" not in caplog.text


def test_an_older_checkpoint_is_loaded_and_said_to_be_one(tmp_path, model_dirs, caplog):
    last = fit(tmp_path / "first", sft(model_dirs))
    content = torch.load(last, weights_only=True)
    del content[RECORD]
    torch.save(content, last)
    with caplog.at_level(logging.WARNING):
        fit(tmp_path / "second", sft(model_dirs), steps=2, ckpt_path=last)
    assert "The checkpoint has no record of its run" in caplog.text


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path, model_dirs):
    last = fit(tmp_path / "first", sft(model_dirs))
    content = torch.load(last, weights_only=True)
    content[RECORD]["format"] = 99
    torch.save(content, last)
    with pytest.raises(UserError, match=r"newer version \(format 99, .*; install a newer lit_uniopd"):
        fit(tmp_path / "second", sft(model_dirs), steps=2, ckpt_path=last)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"max_steps": 2}, "has taken 2 steps, --trainer.max_steps is 2; raise it"),
        ({"max_epochs": 1}, "has taken 1 epochs, --trainer.max_epochs is 1; raise it"),
    ],
)
def test_a_finished_run_says_that_nothing_is_left(limit, said, tmp_path, model_dirs, caplog):
    last = fit(tmp_path / "first", sft(model_dirs), Prompts(prompts(8)), steps=2)
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path / "second", **limit).fit(
            sft(model_dirs), Prompts(prompts(8)), ckpt_path=last, weights_only=True
        )
    assert f"There is nothing left to do: the checkpoint {said}" in caplog.text
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"max_epochs": -1, "max_steps": 4}], ids=["epochs", "steps"])
@pytest.mark.parametrize("every", [None, 99], ids=["saved at each epoch's end", "saved at the run's end"])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.thinned(3)
def test_a_run_that_is_prolonged_from_its_end_leaves_no_batch_out(steps, every, limits, tmp_path, model_dirs):
    """Two batches an epoch: a run ends in the midst of one or at its end, and its last checkpoint is written there."""
    root = tmp_path / "part"
    saver = ModelCheckpoint(root, save_last=True, every_n_train_steps=every)
    options = {"enable_checkpointing": True, "callbacks": [saver], "max_epochs": 9, "max_steps": steps}
    trainer(tmp_path, **options).fit(sft(model_dirs), Prompts(prompts(8)))
    batches: list[tuple[int, int]] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            batches.append((trainer.current_epoch, batch_idx))

    resumed = trainer(tmp_path, callbacks=[Watch()], **limits)
    resumed.fit(sft(model_dirs), Prompts(prompts(8)), ckpt_path=root / "last.ckpt", weights_only=True)
    assert batches == [(0, 0), (0, 1), (1, 0), (1, 1)][steps:]

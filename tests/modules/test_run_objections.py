"""Optimizer, schedule and trainer settings that would do something else than they say, and usual ones that do not."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from doctor_data import of
from tiny import CHAT, Prompts, make_tokenizer, module, prompts, sgd, trainer
from torch.optim import lr_scheduler

from callbacks import BenchmarkEvaluation
from lit_uniopd.doctor import run_all_checks
from lit_uniopd.modules.run_objections import (
    end_objections,
    optimizer_objections,
    policy_objections,
    precision_objections,
    trainer_objections,
)
from lit_uniopd.policy import LoraArgs, PolicyArgs
from lit_uniopd.policy.chat_template import AnswerEnd
from lit_uniopd.policy.template_options import unread_options
from lit_uniopd.schedules import WarmupCosine

QWEN = {"enable_thinking": False}


def said(objections: Any) -> list[tuple[bool, str]]:
    return [(objection.refused, objection.message) for objection in objections]


def scheduled(make: Any, steps: int | None = 100) -> list[tuple[bool, str]]:
    return said(optimizer_objections(sgd, make, steps))


def test_a_rate_of_nothing():
    [(refused, message)] = said(optimizer_objections(lambda params: torch.optim.AdamW(params, lr=0.0), None, 5))
    assert not refused
    assert "--model.optimizer.lr 0 nothing is learned" in message
    assert scheduled(None) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.LinearLR(o, start_factor=0.2, total_iters=4),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=100),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=500),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=20),
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=100),
        lambda o: lr_scheduler.StepLR(o, step_size=10, gamma=0.9),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 10)),  # a warm-up from 0
        lambda o: WarmupCosine(o, total_steps=10),  # says so itself when the run begins
    ],
)
def test_schedules_that_fit_the_run(make):
    assert scheduled(make) == []
    assert scheduled(make, None) == []


def test_schedules_that_do_not():
    [(refused, message)] = scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=30))
    assert not refused
    assert "CosineAnnealingLR falls to 0 after 29 optimizer steps and rises again, in a run of 100" in message
    [(refused, message)] = scheduled(lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=40))
    assert refused
    assert "OneCycleLR ends after 40 steps, and the run takes 100" in message
    [(refused, message)] = scheduled(lambda o: lr_scheduler.PolynomialLR(o, total_iters=50))
    assert not refused
    assert "PolynomialLR falls to 0 after 50 optimizer steps, so the last 50 train nothing" in message


def test_precision():
    def with_precision(precision: str, scaler: Any = None, clips: bool = True, **args: Any) -> list[tuple[bool, str]]:
        run: Any = SimpleNamespace(precision=precision, precision_plugin=SimpleNamespace(scaler=scaler))
        return said(precision_objections(run, PolicyArgs(path="x", **args), "model.student", clips_by_hand=clips))

    assert with_precision("bf16-mixed") == with_precision("32-true") == []
    [(refused, message)] = with_precision("16-mixed", scaler=object())
    assert refused
    assert "set --trainer.precision bf16-mixed" in message
    assert with_precision("16-mixed", scaler=object(), clips=False) == []  # Lightning unscales before it clips
    for precision in ("bf16-true", "16-true"):
        [(refused, message)] = with_precision(precision)
        assert (refused, "loses small steps" in message) == (False, True)
        assert with_precision(precision, lora=LoraArgs()) == []
    [(refused, message)] = with_precision("32-true", dtype="bfloat16")
    assert (refused, "--model.student.dtype bfloat16 loses small steps" in message) == (False, True)
    assert with_precision("bf16-mixed", dtype="bfloat16", lora=LoraArgs()) == []


def test_adapters_that_are_multiplied_by_nothing():
    for alpha, count in ((0, 1), (-4, 1), (1, 0)):
        args = PolicyArgs(path="x", lora=LoraArgs(rank=4, alpha=alpha))
        assert len(said(policy_objections(args, "model.student", make_tokenizer()))) == count


@pytest.mark.parametrize(
    ("template", "options", "unread"),
    [
        (CHAT, QWEN, []),  # a model that does not think is what was asked for
        (CHAT, {"thinking": False}, []),
        (None, QWEN, []),
        (CHAT, {"enable_thinking": True}, ["enable_thinking"]),
        (CHAT, {"enable_thinkin": False}, ["enable_thinkin"]),
        (CHAT, {"system_prompt": "x"}, ["system_prompt"]),
        (CHAT + "{% if enable_thinking is defined %}{% endif %}", QWEN, []),
        (CHAT + "{% if thinking is defined and thinking %}<think>{% endif %}", QWEN, ["enable_thinking"]),
        (CHAT + "{% if reasoning_effort is defined %}{% endif %}", {"reasoning_effort": "low"}, []),
    ],
)
def test_options_that_a_template_never_reads(template, options, unread):
    assert unread_options(make_tokenizer(template), options) == unread
    assert len(
        said(policy_objections(PolicyArgs(path="x", chat_template_kwargs=options), "m", make_tokenizer(template)))
    ) == bool(unread)


def test_answers_that_nothing_ends():
    assert said(end_objections(AnswerEnd("<eos>", 2, ("<eos>",), False), "model.policy")) == []
    [(refused, message)] = said(end_objections(AnswerEnd("", None, (), False), "model.policy"))
    assert (refused, "name a tokenizer that has one by --model.policy.tokenizer" in message) == (False, True)


@pytest.mark.parametrize(
    ("settings", "steps_per_batch", "message"),
    [
        ({"max_steps": 50, "val_check_interval": 10}, 1, None),
        ({"max_steps": 50, "val_check_interval": 50}, 1, None),
        (
            {"max_steps": 50, "val_check_interval": 20},
            4,
            "val_check_interval 20 batches is more than the 13 of the run",
        ),
        ({"max_steps": 5, "val_check_interval": 20}, 1, "more than the 5 of the run"),
        ({"max_steps": 5, "val_check_interval": 20, "accumulate_grad_batches": 4}, 1, None),
        ({"max_epochs": 1, "limit_train_batches": 100, "val_check_interval": 20}, 4, None),
        ({"max_epochs": 2, "limit_train_batches": 5, "val_check_interval": 20}, 1, "more than the 10 of the run"),
        ({"max_epochs": 1}, 1, None),
        ({"max_epochs": 3, "check_val_every_n_epoch": 3}, 1, None),
        ({"max_epochs": 2, "check_val_every_n_epoch": 3}, 1, "check_val_every_n_epoch 3 is more than the 2 epochs"),
    ],
)
def test_validations_that_never_come(tmp_path, settings, steps_per_batch, message):
    if "val_check_interval" in settings:
        settings = {"check_val_every_n_epoch": None, **settings}
    run: Any = trainer(tmp_path, **{"max_epochs": -1, "limit_val_batches": 1, **settings})
    run.datamodule = SimpleNamespace(val_prompts=[1], batch_size=4)
    objections = said(trainer_objections(run, steps_per_batch))
    assert len(objections) == (message is not None)
    assert message is None or message in objections[0][1]
    run.callbacks.append(BenchmarkEvaluation())
    assert said(trainer_objections(run, steps_per_batch)) == []  # after the last step they are
    run.callbacks.pop()
    run.datamodule = SimpleNamespace()
    assert said(trainer_objections(run, steps_per_batch)) == []


def test_steps_of_fewer_rows_than_asked_for(tmp_path):
    run: Any = trainer(tmp_path, accumulate_grad_batches=8)
    run.datamodule = SimpleNamespace(train_pairs=[0] * 20, batch_size=2)
    assert said(trainer_objections(run, 1)) == []
    run.datamodule.batch_size = 4
    [(refused, message)] = said(trainer_objections(run, 1))
    assert not refused
    assert "A step is to take 32 rows" in message
    assert "has 20" in message


def test_fit_says_so_and_the_doctor_too(model_dirs, tmp_path, caplog):
    model = module(model_dirs, optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, max_steps=1).fit(model, Prompts(prompts(8)))
    assert caplog.text.count("With --model.optimizer.lr 0 nothing is learned") == 1
    model = module(model_dirs, optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    finding = of(run_all_checks(model, Prompts(prompts(8)), trainer(tmp_path), quick=True), "settings")[0]
    assert (finding.status, finding.message) == ("yellow", "With --model.optimizer.lr 0 nothing is learned.")
    assert finding.remedy == "Set it to the rate that you mean."

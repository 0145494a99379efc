import json
import logging
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import Prompts, adam, module, prompts, sgd, trainer, weights

from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs
from lit_uniopd.policy import LoraArgs, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import Prompt, Rollouts


class Recorder(Callback):
    """Keeps the rollouts of every step and the metrics that were logged."""

    def __init__(self) -> None:
        self.rollouts: list[Rollouts] = []
        self.metrics: list[dict[str, float]] = []

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        self.rollouts.append(rollouts)

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def run(
    paths: dict[str, str], tmp_path: Any, *, count: int = 4, callbacks: tuple[Callback, ...] = (), **options: Any
) -> Any:
    model, recorder = module(paths, **options), Recorder()
    trainer(tmp_path, callbacks=[*callbacks, recorder]).fit(model, Prompts(prompts(count)))
    return model, recorder


def test_a_step_samples_grades_scores_and_moves_the_student_only(model_dirs, tmp_path):
    model = module(model_dirs)
    recorder = Recorder()
    fit = trainer(tmp_path, callbacks=[recorder])
    fit.fit(model, Prompts(prompts(4)))
    rollouts = recorder.rollouts[0]
    assert len(rollouts) == 12
    assert rollouts.group_B.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert set(rollouts.outcome_B.tolist()) <= {0, 1}
    expected = (rollouts.teacher_logps_BT - rollouts.student_logps_BT) * rollouts.mask_BT
    torch.testing.assert_close(rollouts.advantages_BT, expected)
    assert fit.global_step == 1
    fresh = module(model_dirs)
    fresh.trainer = fit
    fresh.configure_model()
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), fresh.parameters(), strict=True))


def test_the_step_is_the_gradient_of_the_written_objective(model_dirs, tmp_path):
    """SGD's step against autograd of the plain formula on the recorded rollout, token by token, with plain logits."""
    model, recorder = run(model_dirs, tmp_path, gradient_clip=None)
    after = weights(model)
    fresh = module(model_dirs)
    fresh.trainer = trainer(tmp_path)
    fresh.configure_model()
    rollouts, loss = recorder.rollouts[0], torch.zeros(())
    for row in range(len(rollouts)):
        response = rollouts.tokens_BT[row][rollouts.mask_BT[row]]
        start = rollouts.prompt_tokens[row]
        logits = fresh.policy.model(input_ids=torch.cat([torch.tensor(start), response])[None]).logits[
            0, len(start) - 1 : -1
        ]
        logps = logits.log_softmax(-1).gather(1, response[:, None])[:, 0]
        advantages = rollouts.advantages_BT[row, : len(response)]
        gap_ok = (logps.detach() - rollouts.teacher_logps_BT[row, : len(response)]).abs() < 10
        loss = loss - (logps * advantages * gap_ok).mean() / len(rollouts)  # the ratio is 1, its gradient that of logps
    loss.backward()
    for name, p in fresh.named_parameters():
        torch.testing.assert_close(
            after[name], p.detach() - 0.1 * (p.grad if p.grad is not None else 0), atol=2e-5, rtol=1e-4
        )


@pytest.mark.parametrize("kind", ["sampled", "reverse_kl", "topk"])
@pytest.mark.parametrize("budget", [1, 60])
@pytest.mark.thinned(2)
def test_any_split_into_micro_batches_gives_the_same_step(model_dirs, tmp_path, budget, kind):
    whole, _ = run(model_dirs, tmp_path, loss=LossArgs(kind=kind, top_k=4))
    parts, _ = run(model_dirs, tmp_path, loss=LossArgs(kind=kind, top_k=4), micro_batch_tokens=budget)
    for name, p in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], p, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sampled", "reverse_kl", "forward_kl", "jsd", "topk"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.thinned(4)
def test_a_student_that_is_its_own_teacher_stays_where_it_is(model_dirs, tmp_path, temperature, kind):
    own = {"default": PolicyArgs(path=model_dirs["student"])}
    sampling = SamplingArgs(n=3, max_new_tokens=6, temperature=temperature)
    _, recorder = run(model_dirs, tmp_path, teachers=own, sampling=sampling, loss=LossArgs(kind=kind))
    assert recorder.rollouts[0].advantages_BT.abs().max() < 1e-4
    assert abs(recorder.metrics[0]["train/loss"]) < 1e-4
    assert recorder.metrics[0]["train/grad_norm"] < 1e-3


@pytest.mark.parametrize("kind", ["sampled", "reverse_kl", "forward_kl", "jsd", "topk"])
@pytest.mark.thinned(3)
def test_every_loss_brings_the_student_nearer_to_its_teachers(model_dirs, tmp_path, kind):
    options: dict[str, Any] = {
        "loss": LossArgs(kind=kind),
        "optimizer": adam,
        "sampling": SamplingArgs(n=16, max_new_tokens=6),
    }
    _, recorder = run(model_dirs, tmp_path, count=60, **options)
    kl = [metrics["domain/math/kl"] + metrics["domain/code/kl"] for metrics in recorder.metrics]
    assert sum(kl[-3:]) < 0.9 * sum(kl[:3])


def test_updates_per_rollout_are_optimizer_steps(model_dirs, tmp_path):
    model = module(model_dirs, updates_per_rollout=3)
    fit = trainer(tmp_path)
    fit.fit(model, Prompts(prompts(8)))
    assert fit.global_step == 6  # two rollouts
    with pytest.raises(UserError, match=r"--model\.updates_per_rollout 99 is more than the 12 answers"):
        run(model_dirs, tmp_path, updates_per_rollout=99)


def test_the_schedule_is_stepped_once_per_optimizer_step(model_dirs, tmp_path):
    def warmup(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3)

    _, recorder = run(model_dirs, tmp_path, count=12, lr_scheduler=warmup)
    assert [metrics["train/lr"] for metrics in recorder.metrics] == pytest.approx([0.025, 0.05, 0.075])


def test_answers_without_a_text_and_different_ones_are_counted(model_dirs, tmp_path):
    shares, different = [], []

    class Blank(Callback):
        def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
            rollouts.text[:5] = ["", " ", "\n", "0", "."]
            rollouts.text[6:9] = ["the same", "the same", "another"]  # the third prompt's
            shares.append(sum(not text.strip() for text in rollouts.text) / len(rollouts))
            different.append(len({(prompt.id, t) for prompt, t in zip(rollouts.prompts, rollouts.text, strict=True)}))

    fit = trainer(tmp_path, callbacks=[Blank()], max_steps=1)
    fit.fit(module(model_dirs), Prompts(prompts(4)))
    assert shares[0] >= 3 / 12
    assert float(fit.callback_metrics["rollout/empty"]) == pytest.approx(shares[0])
    assert different[0] <= 11
    assert float(fit.callback_metrics["rollout/distinct"]) == pytest.approx(different[0] / 12)


def test_datamodule_and_callbacks_see_scored_rollouts_in_order(model_dirs, tmp_path):
    seen = []

    class Data(Prompts):
        def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
            seen.append("datamodule")
            rollouts.keep_B[:] = False

    class Calibration(Callback):
        def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
            seen.append(f"callback after {int(rollouts.keep_B.sum())} kept")

    model = module(model_dirs)
    fit = trainer(tmp_path, callbacks=[Calibration()])
    fit.fit(model, Data(prompts(4)))
    assert seen == ["datamodule", "callback after 0 kept"]
    assert fit.callback_metrics["train/grad_norm"] == 0  # all removed: nothing moves
    assert fit.callback_metrics["rollout/removed"] == 1


def test_curves_are_split_by_domain_and_teacher(model_dirs, tmp_path):
    _, recorder = run(model_dirs, tmp_path)
    names = recorder.metrics[0]
    wanted = {
        f"{kind}/{name}/{what}"
        for kind in ("domain", "teacher")
        for name in ("math", "code")
        for what in ("kl", "outcome_rate", "length")
    }
    wanted |= {
        f"train/{name}"
        for name in ("loss", "entropy", "grad_norm", "clip_fraction", "gap_fraction", "logp_drift", "lr")
    }
    wanted |= {f"time/{part}" for part in ("rollout", "grade", "score", "update", "step")}
    wanted |= {
        "rollout/empty",
        "rollout/tokens_per_second",
        "rollout/truncated",
        "rollout/teacher_failed",
        "rollout/unknown_outcomes",
    }
    assert wanted <= set(names)
    assert names["train/logp_drift"] < 1e-4


# --- checkpoints -----------------------------------------------------------------------------------------------------


def checkpointed(tmp_path: Any, **options: Any) -> Any:
    saver = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True, every_n_train_steps=1)
    return trainer(
        tmp_path, **{"enable_checkpointing": True, "callbacks": [saver], "max_steps": 4, "max_epochs": -1, **options}
    )


def shuffled_prompts(tmp_path: Any) -> PromptDataModule:
    """10 rows in batches of 4: step 3 crosses into the second epoch."""
    rows = [
        {"prompt": p.messages[0]["content"], "answer": p.gold, "domain": p.domain, "grader": "exact"}
        for p in prompts(10)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PromptDataModule(train=SourceArgs(path=str(tmp_path / "train.jsonl")), batch_size=4, seed=3)


class Killed(RuntimeError):
    pass


class KillAt(Callback):
    """Stops the run in the middle of a step: after the rollout, before the update."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        if trainer.global_step == self.step:
            raise Killed


@pytest.mark.parametrize("killed_at", [1, 3])
@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4, alpha=8, dropout=0.1)])
@pytest.mark.thinned(2)
def test_a_killed_and_resumed_run_equals_an_unbroken_one(model_dirs, tmp_path, lora, killed_at):
    student = PolicyArgs(path=model_dirs["student"], lora=lora)
    whole = module(model_dirs, student=student, optimizer=adam)
    checkpointed(tmp_path / "whole").fit(whole, shuffled_prompts(tmp_path))

    first = checkpointed(tmp_path / "first")
    first.callbacks.append(KillAt(killed_at))
    with pytest.raises(Killed):
        first.fit(module(model_dirs, student=student, optimizer=adam), shuffled_prompts(tmp_path))
    torch.rand(5)  # whatever else happens in between
    last = tmp_path / "first/ckpt/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == killed_at

    second = module(model_dirs, student=student, optimizer=adam)
    checkpointed(tmp_path / "second").fit(second, shuffled_prompts(tmp_path), ckpt_path=last, weights_only=True)
    assert all(torch.equal(p, weights(whole)[name]) for name, p in weights(second).items())


def test_checkpoints_hold_trained_weights_only(model_dirs, tmp_path):
    lora = PolicyArgs(path=model_dirs["student"], lora=LoraArgs(rank=2))
    checkpointed(tmp_path).fit(module(model_dirs, student=lora), Prompts(prompts(4)))
    checkpoint = torch.load(tmp_path / "ckpt/last.ckpt", weights_only=True)
    assert checkpoint["state_dict"]
    assert all("lora_" in name for name in checkpoint["state_dict"])
    checkpointed(tmp_path / "full").fit(module(model_dirs), Prompts(prompts(4)))
    names = torch.load(tmp_path / "full/ckpt/last.ckpt", weights_only=True)["state_dict"]
    assert all(name.startswith("policy.model.") for name in names)


def test_a_checkpoint_of_another_model_is_refused(model_dirs, tmp_path):
    lora = PolicyArgs(path=model_dirs["student"], lora=LoraArgs(rank=2))
    checkpointed(tmp_path).fit(module(model_dirs, student=lora), Prompts(prompts(4)))
    with pytest.raises(UserError, match=r"--ckpt_path holds another model than --model\.student\.path"):
        checkpointed(tmp_path / "again").fit(
            module(model_dirs), Prompts(prompts(4)), ckpt_path=tmp_path / "ckpt/last.ckpt", weights_only=True
        )


# --- validation, prediction, mistakes --------------------------------------------------------------------------------


def test_validation_is_accuracy_per_domain(model_dirs, tmp_path):
    model = module(model_dirs)
    scores = trainer(tmp_path, limit_val_batches=1.0).validate(model, Prompts(prompts(4)), verbose=False)[0]
    assert set(scores) == {"val/math/accuracy", "val/code/accuracy", "val/accuracy"}
    answers: Any = trainer(tmp_path).predict(module(model_dirs), Prompts(prompts(4)))
    right = {domain: float(grade.correct) for domain, grade in zip(answers[0].domain, answers[0].grades, strict=True)}
    assert scores["val/math/accuracy"] == right["math"]
    assert scores["val/accuracy"] == (right["math"] + right["code"]) / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grader": "nope"}, "nope"),
        ({"gold": None}, "has grader 'exact' but no gold answer"),
        ({"domain": "law"}, r"--model\.teachers has only math, code"),
    ],
)
def test_mistakes_in_prompts_are_found_before_any_model_is_loaded(tmp_path, changes, message):
    from dataclasses import replace

    model = module({"student": "./no-such-model", "math": "./none", "code": "./none"})
    model.prepare_data = lambda: None  # type: ignore[method-assign]
    bad: list[Prompt] = [replace(prompts(1)[0], **changes)]
    with pytest.raises(UserError, match=message):
        trainer(tmp_path).fit(model, Prompts(bad))


def test_truncated_sampling_is_warned_about(model_dirs, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run(model_dirs, tmp_path, sampling=SamplingArgs(n=3, max_new_tokens=6, top_p=0.9))
    assert "set top_p 1 and top_k 0 to be on-policy" in caplog.text
    assert "Teacher math scores the answers to 2 prompts" in caplog.text


def test_sgd_is_what_the_other_tests_assume():
    p = torch.nn.Parameter(torch.ones(1))
    p.grad = torch.ones(1)
    sgd([p]).step()
    assert float(p.detach()) == pytest.approx(0.9)

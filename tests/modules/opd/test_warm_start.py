"""The first steps on the answers of teachers."""

import logging
from typing import Any

import pytest
import torch
from lightning import Callback
from modules.opd.test_uni_opd import KillAt, Killed, checkpointed, shuffled_prompts
from tiny import Prompts, adam, module, prompts, sgd, trainer, weights

from lit_uniopd.errors import UserError
from lit_uniopd.modules import LossArgs, UniOPD
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.modules.opd.warm_start import Phase, WarmStartArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.args import ColocateArgs
from lit_uniopd.teachers import HttpArgs, TeacherArgs


class Writers(Callback):
    """Whose log-probs the answers of each step were drawn with, and what was logged."""

    def __init__(self) -> None:
        self.by_student: list[bool] = []
        self.logged: list[set[str]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        rollouts = pl_module.rollouts
        self.by_student.append(torch.allclose(rollouts.sampler_logps_BT, rollouts.student_logps_BT, atol=1e-4))
        self.logged.append(set(trainer.callback_metrics))


def test_its_steps_are_those_of_teachers_that_write(model_dirs, tmp_path):
    """Bit for bit those of `writer: teacher`, where the run's own loss is the sampled one."""
    results = []
    for options in (
        {"warm_start": WarmStartArgs(2)},
        {"writer": "teacher", "loss": LossArgs(kind="forward_kl")},
    ):
        model = module(model_dirs, optimizer=sgd, **options)
        trainer(tmp_path, max_steps=2).fit(model, Prompts(prompts(8)))
        results.append(weights(model))
    assert all(torch.equal(a, b) for a, b in zip(*(r.values() for r in results), strict=True))


def test_then_the_student_writes(model_dirs, tmp_path, caplog):
    """Each rollout is used up by the loss that it began with; the loss of the run has its own options."""
    caplog.set_level(logging.INFO)
    writers = Writers()
    start = WarmStartArgs(3, "jsd")
    loss = LossArgs(importance_cap=2.0)
    model = module(model_dirs, warm_start=start, loss=loss, updates_per_rollout=2, optimizer=sgd)
    trainer(tmp_path, max_steps=8, callbacks=[writers]).fit(model, Prompts(prompts(16)))
    assert writers.by_student == [False, False, True, True]
    assert ["train/divergence" in tags for tags in writers.logged[:2]] == [True, True]
    assert ["train/clip_fraction" in tags for tags in writers.logged] == [False, False, True, True]
    assert caplog.text.count("Step 4: the warm start is over") == 1


@pytest.mark.parametrize("kill", [1, 2, 3])
@pytest.mark.thinned(3)
def test_a_killed_and_resumed_run_equals_an_unbroken_one(model_dirs, tmp_path, kill):
    def model() -> UniOPD:
        return module(model_dirs, optimizer=adam, warm_start=WarmStartArgs(2))

    unbroken = model()
    checkpointed(tmp_path / "whole").fit(unbroken, shuffled_prompts(tmp_path))
    first = checkpointed(tmp_path / "first")
    first.callbacks.append(KillAt(kill))
    with pytest.raises(Killed):
        first.fit(model(), shuffled_prompts(tmp_path))
    second, last = model(), tmp_path / "first/ckpt/last.ckpt"
    checkpointed(tmp_path / "second").fit(second, shuffled_prompts(tmp_path), ckpt_path=last, weights_only=True)
    assert all(torch.equal(p, weights(unbroken)[name]) for name, p in weights(second).items())


def test_vllm_writes_behind_it():
    sampling = SamplingArgs(engine="vllm", colocate=ColocateArgs(kv_cache_gib=1.0))
    own = Phase("student", sampling, LossArgs())
    warm = own.at(WarmStartArgs(4, "reverse_kl"), 3)
    assert (warm.writer, warm.sampling.engine, warm.loss.kind) == ("teacher", "loop", "reverse_kl")
    assert own.at(WarmStartArgs(4), 4) is own
    assert own.at(None, 0) is own


MIXED = {"default": TeacherArgs(mixture={"math": 1.0, "code": 1.0})}


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        (
            {"placement": "http", "http": HttpArgs(["http://127.0.0.1:1"])},
            {},
            r"had with --model\.teachers\.math\.placement h",
        ),
        (
            {"placement": "disk_cache", "cache": "c"},
            {},
            r"had with --model\.teachers\.math\.placement disk_cache; place",
        ),
        ({"cross_tokenizer": True}, {}, r"had with --model\.teachers\.math\.cross_tokenizer; place"),
        ({"gather": "layers"}, {}, r"had with --model\.teachers\.math\.gather layers; place"),
        (
            {},
            {"mixed": True},
            r"warm_start lets one model write, and --model\.teachers\.default\.mixture has a mixture of 2",
        ),
        ({}, {"writer": "teacher", "loss": LossArgs(kind="jsd")}, r"with --model\.writer teacher it never does"),
        ({}, {"advantage": AdvantageArgs(teacher="self")}, r"--model\.advantage leaves none to ask"),
    ],
)
def test_what_it_cannot_begin_with_is_refused(model_dirs, teacher, options, message):
    args = {
        name: TeacherArgs(path=model_dirs[name], **(teacher if name == "math" else {})) for name in ("math", "code")
    }
    args |= MIXED if options.pop("mixed", False) else {}
    with pytest.raises(UserError, match=message):
        module(model_dirs, teachers=args, warm_start=WarmStartArgs(2), **options)


def test_a_row_that_mixes_teachers_is_refused_and_so_are_no_steps(model_dirs, tmp_path):
    from dataclasses import replace

    model = module(model_dirs, warm_start=WarmStartArgs(2))
    data = Prompts([replace(prompt, teacher={"math": 1.0, "code": 1.0}) for prompt in prompts(4)])
    with pytest.raises(UserError, match=r"warm_start lets one model write, and prompt 'p0' has a mixture of 2"):
        trainer(tmp_path, max_steps=1).fit(model, data)
    clipped = LossArgs(kind="forward_kl", entry_clip=0.05)
    with pytest.raises(UserError, match=r"--model\.warm_start\.kind topk has no place for --model\.loss\.entry_clip"):
        module(model_dirs, warm_start=WarmStartArgs(2, "topk"), loss=clipped)
    module(model_dirs, warm_start=WarmStartArgs(2, "jsd"), loss=clipped)
    with pytest.raises(UserError, match=r"warm_start\.steps must be at least 1, got 0"):
        WarmStartArgs(0)

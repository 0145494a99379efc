"""UniOPD with a teacher that has another tokenizer: what trains, what is logged, and what a resumed run is."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from modules.opd.test_uni_opd import KillAt, Killed, checkpointed, shuffled_prompts
from tiny import Prompts, make_model, sgd, trainer, weights
from tiny_tokenizers import byte_level, sentencepiece

from lit_uniopd.errors import UserError
from lit_uniopd.functional.opd import opd_loss
from lit_uniopd.modules import UniOPD
from lit_uniopd.modules.opd.losses import LossArgs, sampled_loss
from lit_uniopd.modules.opd.preflight import check_images
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import TeacherArgs
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt, Rollouts


@pytest.fixture(scope="module")
def dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {
        "student": str(make_model(root / "student", tokenizer=byte_level())),
        "other": str(make_model(root / "other", seed=1, tokenizer=sentencepiece())),
    }


def questions(count: int) -> list[Prompt]:
    return [Prompt(id=str(i), messages=({"role": "user", "content": f"the sum of {i} and 2?"},)) for i in range(count)]


def opd(dirs: dict[str, str], teacher: str = "other", **options: Any) -> UniOPD:
    return UniOPD(
        PolicyArgs(path=dirs["student"]),
        {"default": TeacherArgs(path=dirs[teacher], cross_tokenizer=True)},
        sampling=SamplingArgs(n=3, max_new_tokens=12),
        optimizer=sgd,
        grader_workers=1,
        seed=7,
        **options,
    )


def test_a_run_learns_and_logs_what_is_aligned(dirs, tmp_path):
    module = opd(dirs)
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(module, Prompts(questions(4), batch_size=2))
    before = Policy.load(PolicyArgs(path=dirs["student"]), trainable=True)
    after = weights(module)
    assert any(not torch.equal(p, after[f"policy.{name}"]) for name, p in before.named_parameters())
    logged = {name: float(value) for name, value in fit.callback_metrics.items()}
    assert 0 < logged["teacher/default/one_to_one"] < 1
    # A random student writes bytes at random, of which most are no text.
    assert 0 < logged["teacher/default/unaligned"] < 1
    rollouts = module.rollouts
    assert rollouts is not None
    unscored_BT = rollouts.mask_BT & ~rollouts.scored_BT
    share = float(unscored_BT.sum() / rollouts.mask_BT.sum())
    assert logged["teacher/default/unaligned"] == pytest.approx(share)
    kl = (rollouts.student_logps_BT - rollouts.teacher_logps_BT)[rollouts.scored_BT & rollouts.teacher_ok_B[:, None]]
    assert logged["train/kl_all_tokens"] == pytest.approx(float(kl.mean()), rel=1e-4)


def test_with_its_own_weights_it_learns_nothing(dirs, tmp_path, caplog):
    module = opd(dirs, teacher="student")
    before = Policy.load(PolicyArgs(path=dirs["student"]), trainable=True)
    trainer(tmp_path, max_steps=1).fit(module, Prompts(questions(2), batch_size=2))
    assert "is the student as it is now" in caplog.text
    for name, parameter in before.named_parameters():
        torch.testing.assert_close(weights(module)[f"policy.{name}"], parameter, atol=1e-5, rtol=0)


def test_unaligned_tokens_have_no_gradient(dirs):
    """Against the formula over the other tokens alone, whose weights are those that they had among all."""
    policy = Policy.load(PolicyArgs(path=dirs["student"]), trainable=True)
    rollouts = write_answers(policy, questions(2), SamplingArgs(n=2, max_new_tokens=8), seed=0)
    noise = torch.Generator().manual_seed(1)
    rollouts.advantages_BT = torch.randn(rollouts.mask_BT.shape, generator=noise) * rollouts.mask_BT
    rollouts.teacher_logps_BT = rollouts.student_logps_BT + rollouts.advantages_BT
    rollouts.teacher_ok_B = torch.ones(len(rollouts), dtype=torch.bool)
    rollouts.scored_BT = rollouts.mask_BT & (torch.rand(rollouts.mask_BT.shape, generator=noise) < 0.5)
    loss = sampled_loss(policy, rollouts, LossArgs(), temperature=1.0, denominator=4, trained=WeightedMeans())
    trained = [p for p in policy.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(loss, trained)
    logps_BT, _ = policy.token_logps(rollouts.prompt_tokens, rollouts.tokens_BT, rollouts.mask_BT)
    kept_BT = rollouts.advantages_BT * rollouts.scored_BT
    expected = -(((logps_BT - logps_BT.detach()).exp() * kept_BT).sum(1) / rollouts.lengths_B).sum() / 4
    for ours, theirs in zip(gradient, torch.autograd.grad(expected, trained), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert not torch.equal(rollouts.scored_BT, rollouts.mask_BT)


def test_unscored_tokens_stay_in_the_mean_of_the_loss():
    logps_BT, mask_BT = torch.full((1, 4), -1.0), torch.ones(1, 4).bool()
    scored_BT = torch.tensor([[True, False, True, True]])
    result = opd_loss(logps_BT, logps_BT, torch.full((1, 4), 2.0), mask_BT, scored_BT=scored_BT)
    assert (float(result.loss), int(result.tokens), result.active_BT.tolist()) == (-1.5, 3, scored_BT.tolist())


def test_a_killed_and_resumed_run_is_the_unbroken_one(dirs, tmp_path):
    unbroken = opd(dirs)
    checkpointed(tmp_path / "whole", max_steps=3).fit(unbroken, shuffled_prompts(tmp_path))
    first = checkpointed(tmp_path / "first", max_steps=3)
    first.callbacks.append(KillAt(1))
    with pytest.raises(Killed):
        first.fit(opd(dirs), shuffled_prompts(tmp_path))
    resumed, last = opd(dirs), tmp_path / "first/ckpt/last.ckpt"
    fit = checkpointed(tmp_path / "second", max_steps=3)
    fit.fit(resumed, shuffled_prompts(tmp_path), ckpt_path=last, weights_only=True)
    assert all(torch.equal(p, weights(unbroken)[name]) for name, p in weights(resumed).items())


def test_saved_rollouts_keep_what_was_scored_and_older_files_are_read(dirs, tmp_path):
    policy = Policy.load(PolicyArgs(path=dirs["student"]), trainable=True)
    rollouts = write_answers(policy, questions(1), SamplingArgs(n=2, max_new_tokens=4), seed=0)
    rollouts.scored_BT[0, 0] = False
    rollouts.save(tmp_path / "new.pt")
    assert torch.equal(Rollouts.load(tmp_path / "new.pt").scored_BT, rollouts.scored_BT)
    state = torch.load(tmp_path / "new.pt", weights_only=True)
    del state["scored_BT"]
    torch.save(state, tmp_path / "old.pt")
    assert torch.equal(Rollouts.load(tmp_path / "old.pt").scored_BT, rollouts.mask_BT)


def test_pictures_are_refused(dirs):
    pool = TeacherPool({"default": TeacherArgs(path=dirs["other"], cross_tokenizer=True)})
    pictured = replace(questions(1)[0], images=("a.png",))
    args = PolicyArgs(path=dirs["student"])
    with pytest.raises(UserError, match=r"has pictures, and --model\.teachers\.default\.cross_tokenizer aligns texts"):
        check_images([], [pictured], student=args, flag="model.student", teachers=pool)


def test_the_plan_knows_the_teachers_own_prompts(dirs):
    """Its tokens for the same text are others, and more or fewer."""
    pool = TeacherPool({"default": TeacherArgs(path=dirs["other"], cross_tokenizer=True)})
    prompts = questions(3)
    tokenizer: Any = sentencepiece()
    longest = pool.longest_prompts(prompts, byte_level(), PolicyArgs(path=dirs["student"]))
    text = tokenizer.apply_chat_template(list(prompts[0].messages), tokenize=False, add_generation_prompt=True)
    assert longest == {"default": len(tokenizer(text, add_special_tokens=False).input_ids)}
    assert pool.lengths(prompts[:1]) == [longest["default"]]

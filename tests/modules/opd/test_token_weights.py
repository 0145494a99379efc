"""Where a teacher's word counts: the share of tokens kept, limits of entries, baselines, the KL to the start."""

from pathlib import Path
from typing import Any

import pytest
import torch
from modules.opd.test_uni_opd import KillAt, Killed, checkpointed, run, shuffled_prompts
from teachers.test_reading import exact_logps
from tiny import Prompts, adam, module, prompts, trainer, weights

from callbacks import MarginCalibration
from lit_uniopd.errors import UserError
from lit_uniopd.functional import divergence
from lit_uniopd.functional.opd import opd_loss
from lit_uniopd.modules import LossArgs, UniOPD
from lit_uniopd.modules.opd.advantages import AdvantageArgs, rollout_advantages
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.teachers import HttpArgs, TeacherArgs
from lit_uniopd.types import Rollouts

TEXT = "<bos>u:{}<end><bos>a:"


def exact(paths: dict[str, str], rollouts: Rollouts) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Tokens, and log-probs of all tokens at each of their places by the student and its teacher, in float64."""
    results = []
    for prompt, tokens, mask in zip(rollouts.prompts, rollouts.tokens_BT, rollouts.mask_BT, strict=True):
        asked, answer = TEXT.format(prompt.messages[0]["content"]), tokens[mask].tolist()
        both = [exact_logps(paths[name], asked, answer).detach() for name in ("student", prompt.domain)]
        results.append((torch.tensor(answer), *both))
    return results


# --- the share of tokens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4, alpha=8)])
@pytest.mark.parametrize("kind", ["sampled", "forward_kl"])
@pytest.mark.thinned(2)
def test_the_step_is_that_of_the_masked_loss(model_dirs, tmp_path, kind, lora):
    """Tokens chosen by hand from plain logits, the loss of those by autograd; SGD's step shows the gradient."""
    student = PolicyArgs(path=model_dirs["student"], lora=lora)
    options: dict[str, Any] = {"student": student, "gradient_clip": None}
    model, recorder = run(model_dirs, tmp_path, loss=LossArgs(kind=kind, keep_tokens=0.4), **options)
    fresh = module(model_dirs, **options)
    fresh.trainer = trainer(tmp_path)
    fresh.configure_model()
    rollouts, loss, kept = recorder.rollouts[0], torch.zeros(()), 0
    for row, (tokens, _, teacher) in enumerate(exact(model_dirs, rollouts)):
        start = torch.tensor(rollouts.prompt_tokens[row])
        logits = fresh.policy.model(input_ids=torch.cat([start, tokens])[None]).logits[0, len(start) - 1 : -1]
        logps = logits.log_softmax(-1)
        entropy = -(logps.exp() * logps).sum(-1).detach()
        count = -(-len(tokens) * 2 // 5)
        chosen = sorted(range(len(tokens)), key=lambda t, entropy=entropy: -float(entropy[t]))[:count]
        kept += count
        if kind == "sampled":
            losses = -logps.gather(1, tokens[:, None])[:, 0] * rollouts.advantages_BT[row, : len(tokens)]
        else:
            losses = (teacher.exp() * (teacher - logps.double())).sum(-1)
        loss = loss + losses[chosen].mean() / len(rollouts)
    assert kept < rollouts.mask_BT.sum()
    loss.backward()
    after = weights(model)
    for name, p in fresh.named_parameters():
        step = 0.1 * p.grad if p.grad is not None else torch.zeros_like(p)
        torch.testing.assert_close(after[name], p.detach() - step, atol=3e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["sampled", "topk"])
def test_neither_micro_batches_nor_servers_change_which_are_kept(model_dirs, tmp_path, model_servers, kind):
    loss = LossArgs(kind=kind, top_k=5, top_k_direction="forward", keep_tokens=0.4)
    at_once, _ = run(model_dirs, tmp_path, loss=loss)
    parts, _ = run(model_dirs, tmp_path, loss=loss, micro_batch_tokens=1)
    served = {n: TeacherArgs(placement="http", http=HttpArgs(model_servers.urls["math"])) for n in ("math", "code")}
    here = {name: PolicyArgs(path=model_dirs["math"]) for name in ("math", "code")}
    pair = [run(model_dirs, tmp_path, loss=loss, teachers=t)[0] for t in (served, here)]
    for one, other in ((at_once, parts), tuple(pair)):
        for name, p in weights(one).items():
            torch.testing.assert_close(weights(other)[name], p, atol=1e-5, rtol=1e-4)


def test_all_tokens_are_kept_by_default_bit_for_bit(model_dirs, tmp_path):
    plain, _ = run(model_dirs, tmp_path)
    kept, _ = run(model_dirs, tmp_path, loss=LossArgs(keep_tokens=1.0))
    assert all(torch.equal(p, weights(plain)[name]) for name, p in weights(kept).items())


# --- the baseline ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kl", "topk"])
def test_a_baseline_leaves_the_mean_gradient_and_lowers_its_variance(kind):
    """Every token of a tiny vocabulary, weighed by its probability, in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, dtype=torch.float64, generator=generator).requires_grad_()
    teacher = (2 * torch.randn(7, dtype=torch.float64, generator=generator)).log_softmax(0)
    one, mask = torch.ones(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    top_k = {"kl": None, "topk": 3}[kind]
    kl = divergence(one, one, logits[:, None], teacher[:, None], mask, kind="reverse", top_k=top_k).detach()
    p = logits.softmax(0).detach()
    gradients: dict[str, torch.Tensor] = {}
    for name, baseline in (("none", torch.zeros_like(kl)), (kind, -kl)):
        rows = []
        for token in range(7):
            logp = logits.log_softmax(0)[token].reshape(1, 1)
            advantage = (teacher[token] - logp - baseline).detach()
            rows.append(torch.autograd.grad(opd_loss(logp, logp.detach(), advantage, mask).loss, logits)[0])
        gradients[name] = torch.stack(rows)
    means = {name: (p[:, None] * rows).sum(0) for name, rows in gradients.items()}
    variances = {n: float((p[:, None] * (rows - means[n]) ** 2).sum()) for n, rows in gradients.items()}
    (expected,) = torch.autograd.grad((logits.softmax(0) * (logits.log_softmax(0) - teacher)).sum(), logits)
    for mean in means.values():
        torch.testing.assert_close(mean, expected, atol=1e-12, rtol=0)
    assert variances[kind] < variances["none"]


@pytest.mark.parametrize("kind", ["kl", "topk"])
def test_advantages_are_compared_with_their_mean(model_dirs, tmp_path, kind):
    """Against sums over plain logits in float64; one micro-batch or many, and with equal weights nothing is left."""
    loss = LossArgs(top_k=4)
    _, plain = run(model_dirs, tmp_path, loss=loss)
    for tokens in (10_000, 40):
        options: dict[str, Any] = {"loss": loss, "micro_batch_tokens": tokens}
        _, recorder = run(model_dirs, tmp_path, advantage=AdvantageArgs(baseline=kind), **options)
        rollouts = recorder.rollouts[0]
        change_BT = rollouts.advantages_BT - plain.rollouts[0].advantages_BT
        for row, (tokens_T, student, teacher) in enumerate(exact(model_dirs, rollouts)):
            p, q = student.exp(), teacher.exp()
            if kind == "topk":
                top = p.topk(4).indices
                p, q = (torch.cat([v.gather(1, top), 1 - v.gather(1, top).sum(1, keepdim=True)], 1) for v in (p, q))
            kl = (p * (p / q).log()).sum(-1)
            torch.testing.assert_close(change_BT[row, : len(tokens_T)].double(), kl, atol=3e-5, rtol=0)
        assert not change_BT[~rollouts.mask_BT].any()
    same: dict[str, str] = dict.fromkeys(list(model_dirs), model_dirs["student"])
    _, recorder = run(same, tmp_path, loss=loss, advantage=AdvantageArgs(baseline=kind))
    assert float(recorder.rollouts[0].advantages_BT.abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("advantage", "teacher", "message"),
    [
        ({"baseline": "kl", "teacher": "shuffled"}, {}, r"baseline kl is the mean of a real teacher's signal"),
        ({"baseline": "kl", "teacher_weight": 0, "outcome_weight": 1}, {}, "is the mean of a real teacher's signal"),
        (
            {"baseline": "topk"},
            {"placement": "http", "http": HttpArgs(["http://h"])},
            r"baseline topk .*placement http",
        ),
        ({"baseline": "kl"}, {"placement": "disk_cache", "cache": "c"}, r"baseline kl .*placement disk_cache has none"),
        ({"reference_weight": -1.0}, {}, "reference_weight must be 0 or more"),
    ],
)
def test_baselines_that_cannot_be_had_are_refused(model_dirs, advantage, teacher, message):
    with pytest.raises(UserError, match=message):
        module(
            model_dirs,
            advantage=AdvantageArgs(**advantage),
            teachers={"default": TeacherArgs(path=model_dirs["math"], **teacher)},
        )


def test_calibration_has_no_use_for_a_baseline(model_dirs, tmp_path):
    model = module(model_dirs, advantage=AdvantageArgs(baseline="kl"))
    fit = trainer(tmp_path, max_steps=1, callbacks=[MarginCalibration()])
    with pytest.raises(UserError, match=r"--model\.advantage\.baseline kl takes that out"):
        fit.fit(model, Prompts(prompts(4)))


# --- the KL to the start --------------------------------------------------------------------------------------------


def test_the_start_pulls_with_its_own_kl(model_dirs, tmp_path):
    """Nothing at the first step; later the student's log-ratio to the model it was, times the weight."""
    held = AdvantageArgs(reference_weight=0.3)
    _, plain = run(model_dirs, tmp_path, count=8)
    model, recorder = run(model_dirs, tmp_path, count=8, advantage=held)
    first, later = recorder.rollouts
    torch.testing.assert_close(first.advantages_BT, plain.rollouts[0].advantages_BT, atol=1e-5, rtol=0)
    start = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
    reference_BT, _ = start.token_logps(later.prompt_tokens, later.tokens_BT, later.mask_BT)
    pull_BT = 0.3 * (reference_BT - later.student_logps_BT) * later.mask_BT
    expected = (later.teacher_logps_BT - later.student_logps_BT) * later.mask_BT + pull_BT
    torch.testing.assert_close(later.advantages_BT, expected, atol=1e-5, rtol=0)
    assert float(pull_BT.abs().max()) > 1e-3
    assert len(model.policy.references) == 1


def test_its_mean_gradient_is_that_of_both_divergences():
    """Every token of a tiny vocabulary, in float64: KL to the teacher and 0.3 times KL to the start."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher, start = (torch.randn(6, dtype=torch.float64, generator=generator) for _ in range(3))
    logits.requires_grad_()
    teacher, start, p = teacher.log_softmax(0), start.log_softmax(0), logits.softmax(0).detach()
    mean = torch.zeros(6, dtype=torch.float64)
    for token in range(6):
        logp = logits.log_softmax(0)[token].reshape(1, 1)
        rollouts: Any = type("Scored", (), {})()
        rollouts.student_logps_BT, rollouts.teacher_logps_BT = logp.detach(), teacher[token].reshape(1, 1)
        rollouts.mask_BT, rollouts.teacher_ok_B = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
        rollouts.scored_BT = rollouts.mask_BT
        advantages_BT = rollout_advantages(
            rollouts, AdvantageArgs(reference_weight=0.3), reference_logps_BT=start[token].reshape(1, 1), seed=0
        )
        loss = opd_loss(logp, logp.detach(), advantages_BT, rollouts.mask_BT).loss
        mean += p[token] * torch.autograd.grad(loss, logits)[0]
    q = logits.softmax(0)
    objective = (q * (q.log() - teacher)).sum() + 0.3 * (q * (q.log() - start)).sum()
    torch.testing.assert_close(mean, torch.autograd.grad(objective, logits)[0], atol=1e-12, rtol=0)


# --- all of them ----------------------------------------------------------------------------------------------------

KNOBS: dict[str, dict[str, Any]] = {
    "keep_tokens": {"loss": LossArgs(keep_tokens=0.5)},
    "entry_clip": {"loss": LossArgs(kind="jsd", entry_clip=0.05, keep_tokens=0.5)},
    "baseline": {"advantage": AdvantageArgs(baseline="kl", reference_weight=0.1)},
}


@pytest.mark.parametrize("knob", KNOBS)
@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4, alpha=8)])
@pytest.mark.thinned(8)
def test_a_killed_and_resumed_run_equals_an_unbroken_one(model_dirs, tmp_path, knob, lora):
    def model() -> UniOPD:
        student = PolicyArgs(path=model_dirs["student"], lora=lora)
        return module(model_dirs, student=student, optimizer=adam, **KNOBS[knob])

    unbroken = model()
    checkpointed(tmp_path / "whole").fit(unbroken, shuffled_prompts(tmp_path))
    first, last = checkpointed(tmp_path / "first"), Path(tmp_path / "first/ckpt/last.ckpt")
    first.callbacks.append(KillAt(2))
    with pytest.raises(Killed):
        first.fit(model(), shuffled_prompts(tmp_path))
    second = model()
    checkpointed(tmp_path / "second").fit(second, shuffled_prompts(tmp_path), ckpt_path=last, weights_only=True)
    assert all(torch.equal(p, weights(unbroken)[name]) for name, p in weights(second).items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_tokens": 0.0}, r"keep_tokens must be in \(0, 1\]"),
        ({"keep_tokens": 1.5}, r"keep_tokens must be in \(0, 1\]"),
        ({"entry_clip": 0.05}, "entry_clip has no meaning for --model.loss.kind sampled"),
        ({"entry_clip": 0.05, "kind": "topk"}, "entry_clip has no meaning for --model.loss.kind topk"),
        ({"entry_clip": -1.0, "kind": "jsd"}, "entry_clip must be positive or null"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        LossArgs(**options)

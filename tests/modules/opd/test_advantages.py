"""Baselines and controls of UniOPD: what stands in the place of the teacher's token scores."""

import math
from typing import Any

import pytest
import torch
from lightning import Callback
from tiny import Prompts, make_model, make_tokenizer, module, prompts, trainer, weights
from transformers import AutoModelForCausalLM

from lit_uniopd.errors import UserError
from lit_uniopd.functional.outcome import outcome_advantages
from lit_uniopd.modules import LossArgs
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.rewards.grading import Grading
from lit_uniopd.types import Rollouts


class Keep(Callback):
    def __init__(self) -> None:
        self.rollouts: list[Rollouts] = []

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        self.rollouts.append(rollouts)


def run(paths: dict[str, str], tmp_path: Any, count: int = 4, **options: Any) -> tuple[Any, list[Rollouts], Any]:
    model, keep = module(paths, **options), Keep()
    fit = trainer(tmp_path, callbacks=[keep])
    fit.fit(model, Prompts(prompts(count)))
    return model, keep.rollouts, fit.callback_metrics


def half_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second answer counts as correct, whatever it says."""

    def finish(self: Grading) -> None:
        self.rollouts.outcome_B = torch.arange(len(self.rollouts)) % 2

    monkeypatch.setattr(Grading, "finish", finish)


def test_plain_distillation_is_the_default_bit_for_bit(model_dirs, tmp_path):
    default, *_ = run(model_dirs, tmp_path)
    explicit, *_ = run(model_dirs, tmp_path, advantage=AdvantageArgs(), writer="student")
    assert all(torch.equal(p, q) for p, q in zip(default.parameters(), explicit.parameters(), strict=True))


def test_the_outcome_is_added_to_the_teachers_scores(model_dirs, tmp_path, monkeypatch):
    half_right(monkeypatch)
    _, (plain,), _ = run(model_dirs, tmp_path)
    _, (mixed,), _ = run(
        model_dirs, tmp_path, advantage=AdvantageArgs(teacher_weight=0.5, outcome_weight=2.0, outcome_scale="std")
    )
    bonus_B = outcome_advantages(plain.outcome_B, plain.group_B, scale="std")
    expected = (0.5 * plain.advantages_BT + 2 * bonus_B[:, None]) * plain.mask_BT
    torch.testing.assert_close(mixed.advantages_BT, expected)
    assert bonus_B.abs().max() > 0


def test_grpo_needs_no_teacher_and_learns_from_outcomes(model_dirs, tmp_path, monkeypatch):
    half_right(monkeypatch)
    grpo = AdvantageArgs(teacher_weight=0, outcome_weight=1.0, outcome_scale="std")
    model, (rollouts,), logged = run(
        model_dirs, tmp_path, teachers={"math": PolicyArgs(path="./no-such-model")}, advantage=grpo
    )
    assert not model.teachers
    assert "teacher/math/kl" not in logged
    assert float(logged["train/gap_fraction"]) == 0
    expected = outcome_advantages(rollouts.outcome_B, rollouts.group_B, scale="std")[:, None] * rollouts.mask_BT
    torch.testing.assert_close(rollouts.advantages_BT, expected)
    assert float(logged["train/grad_norm"]) > 0


def test_a_rollout_of_one_outcome_teaches_grpo_nothing(model_dirs, tmp_path):
    grpo = AdvantageArgs(teacher_weight=0, outcome_weight=1.0)
    _, (rollouts,), logged = run(model_dirs, tmp_path, advantage=grpo)
    assert not rollouts.advantages_BT.any()
    assert float(logged["train/grad_norm"]) == 0


def test_extrapolation_moves_away_from_the_first_student(model_dirs, tmp_path):
    """At the first step the student is its own reference: ExOPD is OPD times its scale. Later it is not."""
    _, plain, _ = run(model_dirs, tmp_path, count=8)
    model, beyond, _ = run(model_dirs, tmp_path, count=8, advantage=AdvantageArgs(extrapolation=1.25))
    torch.testing.assert_close(beyond[0].advantages_BT, 1.25 * plain[0].advantages_BT, atol=1e-5, rtol=1e-4)
    first = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
    later = beyond[1]
    reference, _ = first.token_logps(later.prompt_tokens, later.tokens_BT, later.mask_BT)
    expected = 1.25 * later.teacher_logps_BT - 0.25 * reference - later.student_logps_BT
    torch.testing.assert_close(later.advantages_BT, expected * later.mask_BT, atol=1e-4, rtol=1e-4)
    assert not any("reference" in name for name in model.state_dict())


def test_its_own_teacher_has_no_opinion_at_first_and_pulls_back_later(model_dirs, tmp_path):
    loud = AdvantageArgs(teacher="self", outcome_weight=0.0)
    model, (first,), logged = run(model_dirs, tmp_path, advantage=loud)
    assert not model.teachers
    assert first.advantages_BT.abs().max() < 1e-5
    assert float(logged["train/grad_norm"]) < 1e-3


def test_controls_keep_the_strength_and_lose_the_place(model_dirs, tmp_path):
    _, (real,), _ = run(model_dirs, tmp_path)
    _, (shuffled,), _ = run(model_dirs, tmp_path, advantage=AdvantageArgs(teacher="shuffled"))
    _, (constant,), _ = run(model_dirs, tmp_path, advantage=AdvantageArgs(teacher="constant_negative"))
    mask = real.mask_BT
    assert sorted(shuffled.advantages_BT[mask].tolist()) == sorted(real.advantages_BT[mask].tolist())
    assert not torch.equal(shuffled.advantages_BT, real.advantages_BT)
    assert (constant.advantages_BT[mask] == constant.advantages_BT[mask][0]).all()
    torch.testing.assert_close(constant.advantages_BT[mask].mean(), -real.advantages_BT[mask].abs().mean())


def test_off_policy_answers_are_the_teachers(model_dirs, tmp_path):
    loss = LossArgs(kind="forward_kl")
    model, (rollouts,), logged = run(model_dirs, tmp_path, loss=loss, writer="teacher")
    _, (own,), _ = run(model_dirs, tmp_path, loss=loss)
    assert rollouts.group_B.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert rollouts.text != own.text
    for row in range(len(rollouts)):
        part = rollouts[[row]]
        teacher = model.teachers[model.teachers.route(part.prompts[0])]
        expected, _ = teacher.token_logps(part.prompt_tokens, part.tokens_BT, part.mask_BT)
        torch.testing.assert_close(part.teacher_logps_BT, expected, atol=1e-5, rtol=1e-4)
    first = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False)
    expected, _ = first.token_logps(rollouts.prompt_tokens, rollouts.tokens_BT, rollouts.mask_BT)
    torch.testing.assert_close(rollouts.student_logps_BT, expected, atol=1e-5, rtol=1e-4)
    assert float(logged["rollout/reward"]) > 0  # the teacher likes its own answers better than the student does
    assert float(logged["train/divergence"]) > 0


def test_too_many_failures_stop_the_run_and_few_train_without_them(model_dirs, tmp_path, monkeypatch):
    from lit_uniopd.teachers.pool import TeacherPool

    score = TeacherPool.score

    def failing(self: TeacherPool, rollouts: Rollouts, **options: Any) -> Any:
        logps_BT, ok_B = score(self, rollouts, **options)
        ok_B[:3] = False
        self.failures["math, no answer (TimeoutError)"] = 3
        return logps_BT.masked_fill(~ok_B[:, None], 0), ok_B

    monkeypatch.setattr(TeacherPool, "score", failing)
    with pytest.raises(UserError, match=r"could not score 25% .*math, no answer .*: 3\).*max_teacher_failures 0\.1"):
        run(model_dirs, tmp_path)
    _, (rollouts,), logged = run(model_dirs, tmp_path, max_teacher_failures=0.25)
    assert float(logged["rollout/teacher_failed"]) == 0.25
    assert not rollouts.advantages_BT[:3].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teachers": {}}, r"Set --model\.teachers"),
        ({"writer": "teacher"}, "forward_kl"),
        (
            {"loss": LossArgs(kind="jsd"), "advantage": AdvantageArgs(extrapolation=1.25)},
            r"advantage has no meaning for --model\.loss\.kind jsd",
        ),
    ],
)
def test_contradictions_are_named(model_dirs, options, message):
    with pytest.raises(UserError, match=message):
        module(model_dirs, **options)


def test_no_signal_at_all_is_refused():
    with pytest.raises(UserError, match="nothing is learned"):
        AdvantageArgs(teacher_weight=0)


def test_weights_move_in_every_baseline(model_dirs, tmp_path, monkeypatch):
    half_right(monkeypatch)
    fresh = module(model_dirs)
    fresh.trainer = trainer(tmp_path)
    fresh.configure_model()
    for advantage in (AdvantageArgs(extrapolation=1.25), AdvantageArgs(teacher_weight=0, outcome_weight=1)):
        model, *_ = run(model_dirs, tmp_path, advantage=advantage)
        moved = [not torch.equal(p, weights(fresh)[name]) for name, p in weights(model).items()]
        assert any(moved)


@pytest.mark.thinned(2)
def test_plugs_that_change_nothing_leave_plain_distillation_bit_for_bit(model_dirs, tmp_path, monkeypatch):
    """Taking balancing and calibration out of YAML is plain distillation; being there alone draws no random number."""
    from callbacks import MarginCalibration, OrderDiagnostics
    from datamodules.balancing import OnlineBalanceArgs, balance_rollouts

    half_right(monkeypatch)
    plain, *_ = run(model_dirs, tmp_path, count=8)

    class Balanced(Prompts):
        def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
            balance_rollouts(rollouts, OnlineBalanceArgs(), seed=0)
            rollouts.keep_B[:] = True

    model = module(model_dirs)
    callbacks = [MarginCalibration(delta=-1e9), OrderDiagnostics()]
    trainer(tmp_path, callbacks=callbacks).fit(model, Balanced(prompts(8)))
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), model.parameters(), strict=True))
    shifted = module(model_dirs)
    trainer(tmp_path, callbacks=[MarginCalibration(delta=5.0)]).fit(shifted, Prompts(prompts(8)))
    assert any(not torch.equal(p, q) for p, q in zip(plain.parameters(), shifted.parameters(), strict=True))


@pytest.fixture
def half_blind(model_dirs, tmp_path) -> dict[str, str]:
    """Teachers whose states are not finite behind a 7, and a student that knows tokens which they do not."""
    for i, name in enumerate(("math", "code")):
        path = tmp_path / f"blind_{name}"
        make_model(path, seed=i + 1)
        teacher = AutoModelForCausalLM.from_pretrained(path)
        teacher.config.tie_word_embeddings = False
        teacher.lm_head.weight = torch.nn.Parameter(teacher.model.embed_tokens.weight.detach().clone())
        with torch.no_grad():
            teacher.model.embed_tokens.weight[make_tokenizer().convert_tokens_to_ids("7")] = math.nan
        teacher.save_pretrained(path)
    make_model(tmp_path / "more", seed=5, tokenizer=make_tokenizer(extra=tuple("ABCDEFGH")))
    return {"student": str(tmp_path / "more"), **{name: str(tmp_path / f"blind_{name}") for name in ("math", "code")}}


@pytest.mark.parametrize(
    "options",
    [
        {"loss": LossArgs(kind="reverse_kl")},
        {"loss": LossArgs(kind="topk", top_k=4)},
        {"loss": LossArgs(kind="forward_kl"), "updates_per_rollout": 2},
        {"advantage": AdvantageArgs(baseline="kl")},
    ],
    ids=["reverse_kl", "topk", "forward_kl, two updates", "baseline"],
)
def test_answers_that_no_teacher_could_score_train_nothing(half_blind, tmp_path, options):
    """Neither by states that are not finite nor by tokens that the teacher does not have."""
    model, keep = module(half_blind, max_teacher_failures=0.9, micro_batch_tokens=40, **options), Keep()
    fit = trainer(tmp_path, callbacks=[keep])
    fit.fit(model, Prompts(prompts(8), batch_size=8))
    (rollouts,) = keep.rollouts
    assert 0 < int(rollouts.teacher_ok_B.sum()) < len(rollouts)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert float(fit.callback_metrics["train/grad_norm"]) > 0
    if options.get("loss") == LossArgs(kind="reverse_kl"):
        scored = rollouts.teacher_ok_B.nonzero().flatten().tolist()
        expected = [kl_by_transformers(half_blind, rollouts[[i]]) for i in scored]
        assert float(fit.callback_metrics["train/loss"]) == pytest.approx(sum(expected) / len(rollouts), rel=1e-4)


@torch.no_grad()
def kl_by_transformers(paths: dict[str, str], answer: Rollouts) -> float:
    """Mean over an answer's tokens of KL(student || teacher), over the vocabulary that both have."""
    start, tokens = answer.prompt_tokens[0], answer.tokens_BT[0].tolist()
    logits = [
        AutoModelForCausalLM.from_pretrained(paths[name])(torch.tensor([start + tokens])).logits[0, len(start) - 1 : -1]
        for name in ("student", answer.prompts[0].domain)
    ]
    shared = min(logits_TV.shape[1] for logits_TV in logits)
    student_TV, teacher_TV = (logits_TV[:, :shared].double().log_softmax(-1) for logits_TV in logits)
    return float((student_TV.exp() * (student_TV - teacher_TV)).sum(-1).mean())

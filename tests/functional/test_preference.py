"""Omni-DPO against the official code's numbers, and its baselines against the official code and TRL."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_uniopd.functional import preference
from lit_uniopd.functional.preference import (
    PreferenceLoss,
    dpo_loss,
    dpop_loss,
    hinge_loss,
    ipo_loss,
    kto_pair_loss,
    omni_dpo_loss,
    orpo_loss,
    quality_weights,
    robust_dpo_loss,
    simpo_loss,
)

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = {"beta": "beta", "qual_eta": "eta", "tau_ref": "tau_ref", "perf_gamma": "gamma", "nll_lambda": "lam"}
NAMES |= {"tau_good": "tau_good"}
LOGPS = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
TOLERANCE: dict[str, Any] = {"float64": {"rtol": 1e-10, "atol": 1e-12}, "float32": {"rtol": 2e-6, "atol": 1e-7}}


def cases(*files: str) -> list[Any]:
    rows = [case for file in files for case in json.loads((GOLDEN / f"omni_dpo_{file}.json").read_text())["cases"]]
    return [pytest.param(case, id=case["name"]) for case in rows]


def inputs_of(case: dict, dtype: torch.dtype) -> list[Tensor]:
    """Log-probs, of which the policy's want gradients, and scores where the case has them."""
    names = (*LOGPS, "score_chosen", "score_rejected")
    tensors = [torch.tensor(case["inputs"][name], dtype=dtype) for name in names if name in case["inputs"]]
    for policy in tensors[:2]:
        policy.requires_grad_()
    return tensors


def check(result: PreferenceLoss, inputs: list[Tensor], expected: dict, precision: str) -> None:
    """Loss per pair, its mean and the mean's gradients."""
    dtype = getattr(torch, precision)
    result.loss.backward()
    for value, name in (
        (result.per_pair, "loss_per_pair"),
        (result.loss, "loss_mean"),
        (inputs[0].grad, "grad_loss_mean_wrt_policy_chosen_logps"),
        (inputs[1].grad, "grad_loss_mean_wrt_policy_rejected_logps"),
    ):
        assert value is not None
        torch.testing.assert_close(value.detach(), torch.tensor(expected[name], dtype=dtype), **TOLERANCE[precision])


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("case", cases("loss_cases", "ablations", "extremes"))
def test_omni_dpo_equals_the_official_code(case, precision):
    inputs = inputs_of(case, getattr(torch, precision))
    options = {NAMES[name]: value for name, value in case["hyperparameters"].items()}
    result = omni_dpo_loss(*inputs, **options)
    official = case["official_outputs"][precision]
    check(result, inputs, official, precision)
    # Where float32 makes the released 1 - sigmoid exactly 0, the log-space form still has a value.
    stable = case["closed_form_float64"]["w_perf_stable"]
    for name, numbers in (
        ("w_quality", official["w_qual"]),
        ("w_performance", stable),
        ("nll_active", official["cnll_indicator"]),
    ):
        expected = torch.tensor(numbers, dtype=result.terms[name].dtype)
        loose: Any = {"rtol": 2e-5, "atol": 0.0} if precision == "float32" else TOLERANCE[precision]
        torch.testing.assert_close(result.terms[name], expected, **loose)
    torch.testing.assert_close(
        result.chosen_rewards, torch.tensor(official["chosen_rewards"], dtype=inputs[0].dtype), **TOLERANCE[precision]
    )
    assert float(result.correct.float().mean()) == pytest.approx(official["reward_accuracy"])


@pytest.mark.parametrize("case", cases("loss_cases"))
def test_the_detached_weight_has_the_gradient_of_the_closed_form(case):
    inputs = inputs_of(case, torch.float64)
    options = {NAMES[name]: value for name, value in case["hyperparameters"].items()}
    omni_dpo_loss(*inputs, **options, detach_performance=True).loss.backward()
    contrast = case["closed_form_float64"]["contrast_detached_w_perf"]
    (name,) = [name for name in contrast if "chosen" in name]
    assert inputs[0].grad is not None
    torch.testing.assert_close(
        inputs[0].grad, torch.tensor(contrast[name], dtype=torch.float64), rtol=1e-10, atol=1e-12
    )


def test_saturated_margins_with_gamma_below_one_stay_finite():
    """The official expression gives NaN gradients here, which its golden file shows."""
    golden = json.loads((GOLDEN / "omni_dpo_extremes.json").read_text())
    inputs = inputs_of(golden["cases"][0], torch.float32)
    result = omni_dpo_loss(*inputs, beta=2.0, tau_ref=1.0, gamma=0.5)
    result.loss.backward()
    official = golden["gamma_below_one_nan_check"]
    assert None in official["grad_policy_chosen"]
    for i, (loss, slope) in enumerate(zip(official["loss_per_pair"], official["grad_policy_chosen"], strict=True)):
        assert inputs[0].grad is not None
        assert result.per_pair[i].item() == pytest.approx(loss, rel=1e-3, abs=1e-6)
        if slope is not None:
            assert inputs[0].grad[i].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)
        assert math.isfinite(inputs[0].grad[i])


@pytest.mark.parametrize("case", cases("baselines"))
def test_baselines_equal_the_official_code(case):
    inputs = inputs_of(case, torch.float64)
    options = dict(case["hyperparameters"])
    name = case["name"]
    if name.startswith("dpo_sigmoid"):
        result = dpo_loss(*inputs, **options)
    elif name.startswith("ipo"):
        result = ipo_loss(*inputs, **options)
    elif name.startswith("simpo"):
        result = simpo_loss(*inputs[:2], **options, kind="hinge" if "hinge" in name else "sigmoid")
    else:
        result = dpop_loss(*inputs, penalty=options.pop("penalty_lambda"), **options)
    check(result, inputs, case["official_outputs_float64"], "float64")


def trl_loss(kind: str, token_logps: Tensor, mask: Tensor, refs: Sequence[Tensor], **options: Any) -> Tensor:
    """What TRL's DPOTrainer computes from token log-probs ``[2P, T]`` that a model returns; chosen answers first."""
    trainer_module = pytest.importorskip("trl.trainer.dpo_trainer")
    rows, width = mask.shape
    everyone = SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", **vars(everyone)),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        loss_types=[kind],
        loss_weights=[1.0],
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **{"label_smoothing": 0.0} | options,
    )
    zeros = torch.zeros(rows, width)
    outputs = SimpleNamespace(log_probs=token_logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    first = torch.zeros(rows, 1, dtype=mask.dtype)
    inputs = {
        "input_ids": torch.zeros(rows, width + 1, dtype=torch.long),
        "attention_mask": torch.ones(rows, width + 1),
        "completion_mask": torch.cat([first, mask], dim=1),
        "ref_chosen_logps": refs[0],
        "ref_rejected_logps": refs[1],
    }
    return trainer_module.DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)


@pytest.mark.parametrize(
    ("kind", "loss_function", "average", "options"),
    [
        ("sigmoid", dpo_loss, False, {}),
        ("sigmoid_norm", dpo_loss, True, {}),
        ("hinge", hinge_loss, False, {}),
        ("ipo", ipo_loss, True, {}),
        ("robust", robust_dpo_loss, False, {"label_smoothing": 0.2}),
    ],
)
def test_losses_and_gradients_equal_trl(kind, loss_function, average, options):
    generator = torch.Generator().manual_seed(0)
    pairs, width = 6, 9
    lengths = torch.randint(1, width + 1, (2 * pairs,), generator=generator)
    mask = (torch.arange(width) < lengths[:, None]).float()
    our_logps = (-torch.rand(2 * pairs, width, generator=generator) * mask).requires_grad_()
    trl_logps = our_logps.detach().clone().requires_grad_()
    refs = (-torch.rand(2 * pairs, width, generator=generator) * mask).sum(dim=1).chunk(2)

    trl_value = trl_loss(kind, trl_logps, mask, refs, beta=0.3, **options)
    divide = lengths if average else torch.ones_like(lengths)
    logps = (our_logps.sum(dim=1) / divide).chunk(2)
    reference = [ref / count for ref, count in zip(refs, divide.chunk(2), strict=True)]
    result = loss_function(*logps, *reference, beta=0.3, **options).loss

    torch.testing.assert_close(result, trl_value, rtol=2e-6, atol=1e-7)
    result.backward()
    trl_value.backward()
    torch.testing.assert_close(our_logps.grad, trl_logps.grad, rtol=2e-6, atol=1e-7)


def test_simpo_equals_trl():
    """TRL keeps SimPO in its CPO trainer."""
    cpo = pytest.importorskip("trl.experimental.cpo")
    chosen, rejected = torch.tensor([-0.9, -1.2, -0.1]), torch.tensor([-1.0, -0.7, -3.0])
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"),
        loss_type="simpo",
        simpo_gamma=1.0,
        beta=2.0,
        label_smoothing=0.1,
        alpha=0.0,
    )
    trl_value, *_ = cpo.CPOTrainer.cpo_loss(trainer, chosen, rejected)
    result = simpo_loss(chosen, rejected, beta=2.0, gamma_beta_ratio=0.5, label_smoothing=0.1)
    torch.testing.assert_close(result.per_pair, trl_value, rtol=2e-6, atol=1e-7)


def test_orpo_equals_trl():
    """Its log odds, where they do not cancel."""
    orpo = pytest.importorskip("trl.experimental.orpo")
    chosen, rejected = torch.tensor([-0.9, -1.2, -0.3]), torch.tensor([-1.0, -0.7, -3.0])
    trl_value, *_ = orpo.ORPOTrainer.odds_ratio_loss(
        SimpleNamespace(beta=0.5, accelerator=SimpleNamespace(device="cpu")), chosen, rejected
    )
    result = orpo_loss(chosen, rejected, beta=0.5)
    torch.testing.assert_close(result.per_pair, -trl_value - chosen, rtol=2e-6, atol=1e-7)


def test_kto_compares_each_answer_with_the_mean_of_the_other_kind():
    policy = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    ref = torch.tensor([-1.5, -2.2]), torch.tensor([-1.0, -1.2])
    result = kto_pair_loss(*policy, *ref, beta=0.5)
    # Log-ratios: chosen .5 and .2 (mean .35), rejected -.5 and .2 (mean -.15, so 0).
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    expected = [(2 - sigmoid(0.5 * c) - sigmoid(0.5 * (0.35 - r))) / 2 for c, r in ((0.5, -0.5), (0.2, 0.2))]
    assert result.per_pair.tolist() == pytest.approx(expected, rel=1e-6)


def test_no_weights_and_no_nll_leave_length_normalised_dpo():
    inputs = inputs_of(cases("loss_cases")[0].values[0], torch.float64)
    bare = omni_dpo_loss(*inputs, beta=2.0, tau_ref=1.0, use_quality=False, use_performance=False, use_nll=False)
    torch.testing.assert_close(bare.per_pair, dpo_loss(*inputs[:4], beta=2.0).per_pair, rtol=0, atol=0)
    assert bare.terms["w_quality"].tolist() == bare.terms["w_performance"].tolist() == [1.0] * 4
    flat = omni_dpo_loss(*inputs, beta=2.0, tau_ref=1.0, gamma=0.0, lam=0.0, use_quality=False)
    torch.testing.assert_close(flat.per_pair, bare.per_pair, rtol=0, atol=0)


def test_the_focal_ablation_replaces_the_logit_of_the_performance_weight():
    inputs = inputs_of(cases("loss_cases")[0].values[0], torch.float64)
    logit = torch.tensor([3.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    result = omni_dpo_loss(*inputs, beta=2.0, tau_ref=1.0, gamma=2.0, performance_logit=logit)
    torch.testing.assert_close(result.terms["w_performance"], (1 - torch.sigmoid(logit)) ** 2)


def test_the_nll_can_be_per_token_where_the_rest_is_summed():
    inputs = inputs_of(cases("loss_cases")[0].values[0], torch.float64)
    plain = omni_dpo_loss(*inputs, beta=2.0, tau_ref=1.0, lam=0.2)
    other = omni_dpo_loss(*inputs, beta=2.0, tau_ref=1.0, lam=0.2, nll_chosen=inputs[0] / 7)
    active = plain.terms["nll_active"]
    torch.testing.assert_close(other.per_pair - plain.per_pair, 0.2 * active * (inputs[0] - inputs[0] / 7))
    assert 0 < active.sum() < 4


finite = st.floats(-1e4, 0.0, width=32)
rows = st.lists(st.tuples(finite, finite, finite, finite, st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1)


@given(rows, st.floats(0.01, 20), st.floats(0, 8), st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_finite_input_has_a_finite_loss_and_gradient(pairs, beta, gamma, dtype):
    columns = [torch.tensor(column, dtype=dtype) for column in zip(*pairs, strict=True)]
    for policy in columns[:2]:
        policy.requires_grad_()
    losses = [omni_dpo_loss(*columns, beta=beta, gamma=gamma, tau_ref=1.0)]
    losses += [loss(*columns[:4], beta=beta) for loss in (dpo_loss, hinge_loss, ipo_loss, kto_pair_loss)]
    losses += [loss(*columns[:2], beta=beta) for loss in (simpo_loss, orpo_loss)]
    for loss in losses:
        columns[0].grad = None
        loss.loss.backward()
        assert loss.per_pair.dtype == torch.float32
        assert torch.isfinite(loss.per_pair).all()
        assert torch.isfinite(columns[0].grad).all()  # type: ignore[arg-type]


def test_thresholds_are_inclusive_in_the_precision_of_the_scores():
    logps = (torch.tensor([-1.0]), torch.tensor([-1.5]), torch.tensor([-0.9]), torch.tensor([-1.5]))
    at = omni_dpo_loss(*logps, torch.tensor([3.2]), torch.tensor([1.0]), beta=2.0, tau_ref=1.0)
    below = omni_dpo_loss(*logps, torch.tensor([3.1999]), torch.tensor([1.0]), beta=2.0, tau_ref=1.0)
    assert (at.terms["nll_active"].item(), below.terms["nll_active"].item()) == (1.0, 0.0)


def test_scores_that_are_tied_weigh_one_half():
    assert quality_weights(torch.tensor([2, 5]), torch.tensor([2, 1]), eta=0.7).tolist() == pytest.approx(
        [0.5, 1 / (1 + math.exp(-2.8))]
    )


ONE = torch.tensor([-1.0, -2.0])
PAIR = (ONE, ONE, ONE, ONE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dpo_loss(*PAIR[:3], torch.zeros(3), beta=1.0), r"ref_rejected has shape \[3\]"),
        (lambda: dpo_loss(*(PAIR[0] * torch.ones(2, 1) for _ in PAIR), beta=1.0), r"policy_chosen has shape \[2, 2\]"),
        (lambda: dpo_loss(*(p[:0] for p in PAIR), beta=1.0), "at least one pair"),
        (lambda: dpo_loss(*PAIR, beta=0.0), "beta is 0"),
        (lambda: dpo_loss(*PAIR, beta=1.0, label_smoothing=0.5), "label_smoothing is 0.5"),
        (lambda: robust_dpo_loss(*PAIR, beta=1.0, label_smoothing=-0.1), "label_smoothing is -0.1"),
        (lambda: dpo_loss(PAIR[0].long(), *PAIR[1:], beta=1.0), "policy_chosen is torch.int64"),
        (lambda: omni_dpo_loss(*PAIR, *PAIR[:2], beta=1.0, tau_ref=1.0, gamma=-1.0), "gamma is -1"),
        (lambda: omni_dpo_loss(*PAIR, PAIR[0], torch.zeros(1), beta=1.0, tau_ref=1.0), "score_rejected has shape"),
        (lambda: simpo_loss(*PAIR[:2], beta=1.0, kind="cosine"), "kind is 'cosine'"),  # type: ignore[arg-type]
        (lambda: dpop_loss(*PAIR, beta=1.0, penalty=-1.0), "penalty is -1"),
        (lambda: quality_weights(*PAIR[:2], eta=math.nan), "eta is nan"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_loss_is_public():
    from lit_uniopd import functional

    for name in vars(preference):
        if name.endswith("_loss") and not name.startswith("_"):
            assert name in functional.__all__


def test_what_both_answers_begin_with_has_no_gradient():
    """Of sums, the shared tokens' log-probs cancel in the margin, exactly."""
    shared, good, bad = (torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (3, 2, 4))
    sums = [torch.cat([shared, tail], dim=1).sum(dim=1) for tail in (good, bad)]
    preference.dpo_loss(*sums, *(total.detach() - 0.3 for total in reversed(sums)), beta=0.5).loss.backward()
    assert shared.grad is not None
    assert good.grad is not None
    assert torch.equal(shared.grad, torch.zeros_like(shared))
    assert bool((good.grad < 0).all())

"""Preference losses against their definitions in 60 digits, and against finite differences."""

import itertools
from collections.abc import Callable
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor

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

TOLERANCE: dict[torch.dtype, Any] = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 2e-6, "atol": 1e-7},
}


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def by_the_book(pair: tuple[float, ...], beta: float, gamma: float, tau_ref: float, lam: float) -> dict[str, Any]:
    """The paper's formula as it is printed, and its derivative with respect to both log-probs of the policy."""
    chosen, rejected, ref_w, ref_l, good, bad = map(mp.mpf, pair)
    u = beta * (chosen - rejected) - tau_ref
    z = beta * ((chosen - rejected) - (ref_w - ref_l))
    quality, performance = sigmoid(mp.mpf("0.7") * (good - bad)), (1 - sigmoid(u)) ** gamma
    active = int(ref_w > chosen and good >= mp.mpf(3.25))
    loss = -quality * performance * mp.log(sigmoid(z)) - lam * active * chosen
    slope = -quality * beta * performance * (sigmoid(-z) - gamma * sigmoid(u) * mp.log(sigmoid(z)))
    return {
        "loss": loss,
        "chosen": slope - lam * active,
        "rejected": -slope,
        "w_quality": quality,
        "w_performance": performance,
        "mastery": sigmoid(u),
        "nll_active": active,
        "nll_loss": -lam * active * chosen,
        "chosen_rewards": beta * (chosen - ref_w),
        "rejected_rewards": beta * (rejected - ref_l),
    }


LOGPS = (0.0, -0.25, -1.5, -45.0, -1e4)
PAIRS = [
    (*logps, *scores)
    for logps, scores in zip(
        itertools.product(LOGPS, repeat=4), itertools.cycle([(4.0, 1.5), (3.25, 3.25), (1.0, 9.0), (3.0, 2.5)])
    )
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("beta", "gamma", "tau_ref", "lam"),
    [
        (2, 3, 1, 0.001),
        (10, 3, 0.75, 0.25),
        (2, 0.5, 1, 0.0),
        (0.125, 0.25, 0, 0.25),
        (3.5, 0, 2, 0.001),
        (2, 5, -1, 1),
    ],
)
def test_omni_dpo_is_what_the_paper_prints(dtype, beta, gamma, tau_ref, lam):
    """625 pairs, most of them saturated, each number of a grid that float32 holds exactly."""
    columns: Any = [torch.tensor(column, dtype=dtype) for column in zip(*PAIRS, strict=True)]
    for policy in columns[:2]:
        policy.requires_grad_()
    result = omni_dpo_loss(*columns, beta=beta, gamma=gamma, tau_ref=tau_ref, lam=lam, tau_good=3.25)  # pyright: ignore[reportArgumentType]
    result.per_pair.sum().backward()
    with mp.workdps(60):
        expected = [by_the_book(pair, beta, gamma, tau_ref, mp.mpf(lam)) for pair in PAIRS]
        numbers = {name: torch.tensor([float(row[name]) for row in expected], dtype=dtype) for name in expected[0]}
    actual = {
        "loss": result.per_pair.detach(),
        "chosen": columns[0].grad,
        "rejected": columns[1].grad,
        "chosen_rewards": result.chosen_rewards,
        "rejected_rewards": result.rejected_rewards,
        **result.terms,
    }
    for name, values in numbers.items():
        torch.testing.assert_close(actual[name], values, **TOLERANCE[dtype], msg=lambda m, n=name: f"{n}: {m}")
    assert 50 < int(result.terms["nll_active"].sum()) < 575


def book_of_baselines(c: Any, r: Any, w: Any, x: Any) -> dict[str, Any]:
    """Losses of one pair with beta 0.5: chosen and rejected under the policy, chosen and rejected under the reference."""
    half, h = mp.mpf("0.5"), (c - r) - (w - x)
    log_odds = [p - mp.log(1 - mp.exp(p)) for p in (c, r)] if c and r else [mp.mpf(0)] * 2
    return {
        "dpo": -mp.log(sigmoid(half * h)),
        "cdpo": -0.75 * mp.log(sigmoid(half * h)) - 0.25 * mp.log(sigmoid(-half * h)),
        "robust": (-0.75 * mp.log(sigmoid(half * h)) + 0.25 * mp.log(sigmoid(-half * h))) / half,
        "hinge": max(mp.mpf(0), 1 - half * h),
        "ipo": (h - 1) ** 2,
        "simpo": -mp.log(sigmoid(half * (c - r) - half * mp.mpf("0.25"))),
        "dpop": -mp.log(sigmoid(half * h - 3 * max(mp.mpf(0), w - c))),
        "orpo": -c - half * mp.log(sigmoid(log_odds[0] - log_odds[1])),
    }


BASELINES: dict[str, Callable[..., PreferenceLoss]] = {
    "dpo": lambda *four: dpo_loss(*four, beta=0.5),
    "cdpo": lambda *four: dpo_loss(*four, beta=0.5, label_smoothing=0.25),
    "robust": lambda *four: robust_dpo_loss(*four, beta=0.5, label_smoothing=0.25),
    "hinge": lambda *four: hinge_loss(*four, beta=0.5),
    "ipo": lambda *four: ipo_loss(*four, beta=0.5),
    "simpo": lambda *four: simpo_loss(*four[:2], beta=0.5, gamma_beta_ratio=0.25),
    "dpop": lambda *four: dpop_loss(*four, beta=0.5, penalty=3.0),
    "orpo": lambda *four: orpo_loss(*four[:2], beta=0.5),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.thinned(5)
def test_baselines_are_what_their_papers_print(name, dtype):
    logps = (-(2.0**-10), -0.25, -1.5, -45.0, -512.0)
    rows = list(itertools.product(logps, repeat=4))
    columns = [torch.tensor(column, dtype=dtype, requires_grad=True) for column in zip(*rows, strict=True)]
    result = BASELINES[name](*columns)
    with mp.workdps(400):  # exp(-512) beside 1
        expected = torch.tensor([float(book_of_baselines(*map(mp.mpf, row))[name]) for row in rows], dtype=dtype)
    torch.testing.assert_close(result.per_pair.detach(), expected, **TOLERANCE[dtype])
    result.loss.backward()
    for policy in columns[:2]:
        assert policy.grad is not None
        assert bool(torch.isfinite(policy.grad).all())


JUDGED: Any = (torch.tensor([4.0, 3.0, 1.0]).double(), torch.tensor([1.0, 3.5, 2.0]).double())
ALL: dict[str, Callable[..., PreferenceLoss]] = {
    **BASELINES,
    "kto_pair": lambda *four: kto_pair_loss(*four, beta=0.5),
    "simpo_hinge": lambda *four: simpo_loss(*four[:2], beta=0.5, kind="hinge"),
    "omni_dpo": lambda *four: omni_dpo_loss(*four, *JUDGED, beta=2.0, tau_ref=1.0, lam=0.2, gamma=0.5),
    "omni_dpo_sharp": lambda *four: omni_dpo_loss(*four, *JUDGED, beta=10.0, tau_ref=0.8, gamma=3.0),
}


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences_and_have_the_right_sign(name):
    """A chosen answer that becomes likelier never raises a loss, a rejected one never lowers it."""
    # Log-ratios are negative on average, so KTO's detached KL estimates are 0 and do not move.
    policy = [torch.tensor(v).double().requires_grad_() for v in ([-0.9, -1.4, -0.4], [-1.1, -0.8, -0.6])]
    reference = [torch.tensor(v).double() for v in ([-0.5, -1.2, -0.3], [-0.9, -0.6, -0.4])]

    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        return ALL[name](chosen, rejected, *reference).per_pair

    assert torch.autograd.gradcheck(loss, policy, eps=1e-6, atol=1e-7)
    loss(*policy).sum().backward()
    up, down = (p.grad for p in policy)
    assert up is not None
    assert down is not None
    assert bool((up < 0).all())
    assert bool((down > 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    columns = [torch.tensor(v, dtype=dtype) for v in ([-0.9, -1.4], [-1.1, -0.8], [-0.5, -1.5], [-0.9, -0.6])]
    scores: Any = torch.tensor([4.0, 3.0], dtype=dtype), torch.tensor([1.0, 3.5], dtype=dtype)
    result = omni_dpo_loss(*columns, *scores, beta=2.0, tau_ref=1.0)
    wider: Any = (*(c.float() for c in columns), *(s.float() for s in scores))
    wide = omni_dpo_loss(*wider, beta=2.0, tau_ref=1.0)
    assert {t.dtype for t in (result.loss, result.chosen_rewards, *result.terms.values())} == {torch.float32}
    assert torch.equal(result.per_pair, wide.per_pair)
    assert quality_weights(*scores).dtype == torch.float32
    several: Any = (*(c.double() for c in columns), *(s.float() for s in scores))
    mixed = omni_dpo_loss(*several, beta=2.0, tau_ref=1.0)
    assert {t.dtype for t in (mixed.loss, *mixed.terms.values())} == {torch.float64}


ONE, NAN = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, float("nan")])


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ((NAN, ONE), {}, "score_chosen has values that are not finite"),
        ((ONE, NAN), {}, "score_rejected has values that are not finite"),
        ((NAN, ONE), {"use_quality": False}, "score_chosen has values that are not finite"),
        ((ONE, ONE / 0), {"use_nll": False}, "score_rejected has values that are not finite"),
        ((ONE, ONE), {"quality": NAN}, "quality has values that are not finite"),
        ((ONE, ONE), {"quality": ONE[:1]}, r"quality has shape \[1\]"),
        ((ONE, ONE), {"nll_chosen": ONE[:1]}, r"nll_chosen has shape \[1\]"),
        ((ONE, ONE), {"performance_logit": ONE[:1]}, r"performance_logit has shape \[1\]"),
        ((ONE, ONE), {"tau_good": float("nan")}, "tau_good is nan"),
        ((ONE, ONE), {"tau_ref": float("nan")}, "tau_ref is nan"),
        ((ONE, ONE), {"eta": -0.1}, "eta is -0.1"),
        ((ONE, ONE), {"lam": -0.1}, "lam is -0.1"),
        ((ONE, ONE), {"beta": -1.0}, "beta is -1.0"),
    ],
)
def test_scores_that_are_read_must_be_numbers(scores, options, message):
    with pytest.raises(ValueError, match=message):
        omni_dpo_loss(ONE, ONE, ONE, ONE, *scores, **{"beta": 1.0, "tau_ref": 1.0} | options)


def test_scores_that_nobody_reads_may_be_missing():
    result = omni_dpo_loss(ONE, ONE, ONE, ONE, NAN, NAN, beta=1.0, tau_ref=1.0, use_quality=False, use_nll=False)
    assert bool(torch.isfinite(result.per_pair).all())
    ready = omni_dpo_loss(ONE, ONE, ONE, ONE, ONE, NAN, beta=1.0, tau_ref=1.0, quality=ONE.abs())
    assert bool(torch.isfinite(ready.per_pair).all())

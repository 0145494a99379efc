"""Every hyper-parameter changes the losses that it is documented for, and no other."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from lit_uniopd.modules.preference.losses import Kind, PairLogps, PairLossArgs, pair_loss

LOGPS = PairLogps(
    policy_P2=torch.tensor([[-4.0, -9.0], [-6.0, -5.0], [-3.0, -2.5]]),
    lengths_P2=torch.tensor([[4, 6], [5, 3], [2, 2]]),
    reference_P2=torch.tensor([[-5.0, -8.0], [-5.0, -5.5], [-2.0, -3.0]]),
)
JUDGED: dict[str, Any] = {
    "score_chosen": torch.tensor([5.0, 3.0, 4.0]),
    "score_rejected": torch.tensor([1.0, 2.5, 4.5]),
    "quality": torch.tensor([0.9, 0.6, 0.4]),
}
ALL = set(get_args(Kind))
WITH_SMOOTHING = {"dpo", "simpo", "dpo_positive", "robust"}
KNOBS: dict[str, tuple[Any, set[str]]] = {
    "average": (None, ALL),
    "beta": (0.7, ALL),
    "gamma": (0.5, {"omni_dpo"}),
    "tau_ref": (0.2, {"omni_dpo"}),
    "lam": (0.5, {"omni_dpo"}),
    "tau_good": (5.0, {"omni_dpo"}),
    "use_quality": (False, {"omni_dpo"}),
    "performance": ("focal", {"omni_dpo"}),
    "use_nll": (False, {"omni_dpo"}),
    "label_smoothing": (0.2, WITH_SMOOTHING),
    "gamma_beta_ratio": (1.5, {"simpo"}),
    "penalty": (3.0, {"dpo_positive"}),
    "chosen_nll": (0.3, ALL),
}


def loss_of(args: PairLossArgs) -> torch.Tensor:
    return pair_loss(args, LOGPS, **JUDGED).loss


@pytest.mark.parametrize("kind", sorted(ALL))
@pytest.mark.parametrize("knob", KNOBS)
def test_a_knob_acts_where_it_is_documented_to(knob, kind):
    value, kinds = KNOBS[knob]
    args: Any = PairLossArgs(kind=kind)
    changed = replace(args, **{knob: not args.takes_means if knob == "average" else value})
    assert (abs(float(loss_of(args)) - float(loss_of(changed))) > 1e-6) == (kind in kinds)


def test_detaching_the_weight_changes_the_gradient_alone():
    found = []
    for detach in (False, True):
        policy = LOGPS.policy_P2.clone().requires_grad_()
        loss = pair_loss(PairLossArgs(detach_performance=detach), replace(LOGPS, policy_P2=policy), **JUDGED).loss
        loss.backward()
        found.append((loss.detach(), policy.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1], rtol=1e-2)


def test_the_released_code_sums_the_nll_where_log_probs_are_sums():
    sums = PairLossArgs(average=False, beta=0.1, lam=0.5, performance="off", use_quality=False)
    paper, released = (pair_loss(replace(sums, nll_per_token=value), LOGPS, **JUDGED) for value in (True, False))
    # The third answer alone has lost probability (-3 after -2), and scores above 3.2; so has the second, at 3.
    assert paper.terms["nll_active"].tolist() == [0, 0, 1]
    assert (released.per_pair - paper.per_pair).tolist() == pytest.approx([0, 0, 0.5 * (3 - 3 / 2)])
    means = [pair_loss(PairLossArgs(lam=0.5, nll_per_token=value), LOGPS, **JUDGED).loss for value in (True, False)]
    assert torch.equal(*means)


def test_every_argument_is_listed():
    assert {"kind", "detach_performance", "nll_per_token", *KNOBS} == set(PairLossArgs.__dataclass_fields__)

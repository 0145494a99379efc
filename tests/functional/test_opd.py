import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_uniopd.functional.margin import margin_mask, margin_shift
from lit_uniopd.functional.opd import OPDLoss, extrapolated_advantages, importance_weights, opd_advantages, opd_loss

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "uni_opd_loss.json").read_text())
SAMPLES = GOLDEN["samples"]
CASES = {case["name"]: case for case in GOLDEN["cases"]}
GROUP = torch.tensor([s["gid"] for s in SAMPLES])
OUTCOME = torch.tensor([int(s["correct"]) for s in SAMPLES])
KEEP = torch.tensor([bool(s["loss_mask"]) for s in SAMPLES])
TEACHER_OK = torch.tensor([s["teacher"][0] != -100.0 for s in SAMPLES])


def pad(rows: list[list[float]], value=0.0, width=5) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def field(name: str, value=0.0) -> Tensor:
    return pad([s[name] for s in SAMPLES], value)


MASK = field("teacher", 0.0) != 0.0


def golden_advantages(*, shift: dict | None = None, mask: dict | None = None) -> Tensor:
    advantages = opd_advantages(field("teacher"), field("student_old"), MASK, teacher_ok_B=TEACHER_OK)
    if shift is not None:
        return margin_shift(advantages, MASK, OUTCOME, GROUP, **shift).advantages
    return advantages if mask is None else margin_mask(advantages, MASK, OUTCOME, GROUP, **mask).advantages


def golden_loss(current: Tensor, advantages: Tensor, *, gap: bool, rows=slice(None), denominator=None) -> OPDLoss:
    return opd_loss(
        current[rows],
        field("student_old")[rows],
        advantages[rows],
        MASK[rows],
        teacher_logps_BT=field("teacher")[rows] if gap else None,
        keep_B=KEEP[rows],
        teacher_ok_B=TEACHER_OK[rows],
        denominator=denominator,
    )


@pytest.mark.parametrize("split", [[10], [5, 5], [1] * 10, [3, 1, 6]], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_official_advantages_losses_and_gradients(case, split):
    shift = {k: case[k] for k in ("scope", "direction", "delta")} | {"statistic": case["mode"]}
    advantages = golden_advantages(shift=shift if case["margin_shift"] else None)
    torch.testing.assert_close(advantages, pad(case["advantages"]), rtol=0, atol=1e-6)

    current = field(case["current_logprobs"]).requires_grad_()
    gap = case["logprob_gap_mask_threshold"] is not None
    starts = itertools.accumulate(split, initial=0)
    rows = [slice(start, start + n) for start, n in zip(starts, split, strict=False)]
    micro_losses = [golden_loss(current, advantages, gap=gap, rows=r, denominator=10) for r in rows]
    torch.stack([micro.loss for micro in micro_losses]).sum().backward()

    assert sum(micro.loss.item() for micro in micro_losses) == pytest.approx(
        case["loss_divided_by_num_samples"], abs=1e-6
    )
    assert current.grad is not None
    torch.testing.assert_close(
        current.grad * 10, pad(case["grad_wrt_current_logprobs_of_sum"]), rtol=0, atol=2e-6
    )  # the file holds gradients of the sum, rounded to 1e-6
    # The official per-token loss is written down before the loss mask, which zeroes removed and failed samples.
    expected = pad(case["pg_loss_per_token_after_masks"]) * (KEEP & TEACHER_OK)[:, None]
    torch.testing.assert_close(torch.cat([micro.per_token for micro in micro_losses]), expected, rtol=0, atol=1e-6)
    assert all(micro.clip_fraction == 0 and micro.kl == 0 for micro in micro_losses)


@pytest.mark.parametrize(
    ("current", "calibration", "total"),
    [  # totals of the official functions for the three settings whose details are not in the file
        ("student_cur", {"shift": {}}, 0.044583),
        ("student_cur_offpolicy", {"shift": {}}, 0.037278),
        ("student_cur", {"mask": {}}, -0.014167),
    ],
    ids=["text_setting", "off_policy", "greedy_mask"],
)
def test_official_totals(current, calibration, total):
    loss = golden_loss(field(current), golden_advantages(**calibration), gap=True)
    assert loss.loss.item() == pytest.approx(total, abs=1e-6)


def test_counts_of_the_golden_batch():
    # 10 samples with 23 tokens; the removed one has 4 and the failed one 2; gaps 12.0 and exactly 10.0 are left out.
    loss = golden_loss(field("student_cur"), golden_advantages(), gap=True)
    assert loss.tokens == 17
    assert loss.kept_tokens == 15
    assert loss.gap_fraction.item() == pytest.approx(2 / 17)


def test_clipping_follows_the_sign_of_the_advantage():
    # log-ratio, advantage -> loss, gradient by log-prob; ratio clipped to [0.8, 1.28]
    rows = [
        (0.0, 2.0, -2.0, -2.0),  # on policy: -A, and its gradient -A
        (0.5, 2.0, -2.56, 0.0),  # ratio 1.65: gain clipped
        (0.5, -2.0, 3.297443, 3.297443),  # ratio 1.65: harm never clipped
        (-0.5, 2.0, -1.213061, -1.213061),  # ratio 0.61: still to be raised
        (-0.5, -2.0, 1.6, 0.0),  # ratio 0.61: already lowered enough
    ]
    ratio, advantage, loss, grad = torch.tensor(rows).unbind(dim=1)
    current = ratio[:, None].clone().requires_grad_()
    got = opd_loss(current, torch.zeros(5, 1), advantage[:, None], torch.ones(5, 1, dtype=torch.bool))
    torch.testing.assert_close(got.per_token[:, 0], loss)
    (got.loss * 5).backward()
    assert current.grad is not None
    torch.testing.assert_close(current.grad[:, 0], grad)
    assert got.clip_fraction.item() == pytest.approx(2 / 5)
    assert got.kl.item() == pytest.approx(0.0)
    single = opd_loss(current[1:2], torch.zeros(1, 1), advantage[1:2, None], torch.ones(1, 1, dtype=torch.bool))
    assert single.kl.item() == pytest.approx(-0.5)  # old - current


def test_gap_mask_looks_at_the_current_policy_and_keeps_strictly_below():
    current = torch.tensor([[-1.0, -1.0, -1.0, -1.0]])
    teacher = torch.tensor([[-11.0, -10.99, -1.0, -30.0]])  # gaps 10, 9.99, 0, 29
    old = torch.tensor([[-11.0, -1.0, -30.0, -30.0]])  # would judge the first, third and last differently
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss = opd_loss(current, old, torch.ones(1, 4), mask, teacher_logps_BT=teacher)
    assert (loss.per_token != 0).tolist() == [[False, True, True, False]]
    assert opd_loss(current, old, torch.ones(1, 4), mask).gap_fraction == 0


def test_micro_batches_of_any_split_add_up():
    # Token sums of losses 1 | 2 + 3 + 4 over 1 and 3 tokens with denominator 2: (1/1 + 9/3) / 2 = 2.
    advantages = -torch.tensor([[1.0, 0.0, 0.0], [2.0, 3.0, 4.0]])
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
    zeros = torch.zeros(2, 3)
    assert opd_loss(zeros, zeros, advantages, mask).loss.item() == pytest.approx(2.0)
    micro_losses = [opd_loss(zeros[i], zeros[i], advantages[i], mask[i], denominator=2).loss for i in ([0], [1])]
    assert sum(micro_losses).item() == pytest.approx(2.0)  # type: ignore[union-attr]


def test_removed_and_failed_samples_count_in_the_denominator_only():
    zeros, advantages, mask = torch.zeros(4, 2), -torch.ones(4, 2), torch.ones(4, 2, dtype=torch.bool)
    current = zeros.clone().requires_grad_()
    keep, ok = torch.tensor([True, False, True, True]), torch.tensor([True, True, False, True])
    loss = opd_loss(current, zeros, advantages, mask, keep_B=keep, teacher_ok_B=ok)
    assert loss.loss.item() == pytest.approx(2 / 4)
    loss.loss.backward()
    assert current.grad is not None
    assert current.grad.tolist() == [[0.125, 0.125], [0.0, 0.0], [0.0, 0.0], [0.125, 0.125]]


@pytest.mark.parametrize("seed", range(5))
def test_padding_and_empty_answers_never_leak(seed):
    """Random lengths down to 0; NaN, infinities and impossible tokens in the padding; any extra width."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 5, (6,), generator=generator)
    lengths[0] = 0
    mask = torch.arange(4)[None] < lengths[:, None]
    clean = [-torch.rand(6, 4, generator=generator) for _ in range(3)]
    expected = 0.0
    for i, n in enumerate(lengths.tolist()):  # the definition, sample by sample
        now, old, teacher = (t[i, :n] for t in clean)
        advantage, ratio = teacher - old, (now - old).exp()
        per_token = torch.maximum(-ratio * advantage, -ratio.clamp(0.8, 1.28) * advantage)
        expected += per_token.mean().item() / 6 if n else 0.0
    for poison in (torch.nan, -torch.inf, torch.inf, 0.0):
        now, old, teacher = (torch.nn.functional.pad(t.masked_fill(~mask, poison), (0, 3), value=poison) for t in clean)
        now.requires_grad_()
        wide = torch.nn.functional.pad(mask, (0, 3))
        advantages = opd_advantages(teacher, old, wide)
        assert (advantages[~wide] == 0).all()
        loss = opd_loss(now, old, advantages.masked_fill(~wide, poison), wide, teacher_logps_BT=teacher)
        assert loss.loss.item() == pytest.approx(expected, abs=1e-6)
        loss.loss.backward()
        assert now.grad is not None
        assert now.grad.isfinite().all()
        assert (now.grad[~wide] == 0).all()


def test_a_batch_in_which_nothing_trains_is_zero_with_a_gradient():
    current = torch.zeros(2, 3, requires_grad=True)
    loss = opd_loss(current, current.detach(), torch.ones(2, 3), torch.zeros(2, 3))
    loss.loss.backward()
    assert loss.loss == 0
    assert current.grad is not None
    assert not current.grad.any()
    assert loss.gap_fraction == loss.clip_fraction == loss.kl == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_self_distillation_does_nothing(temperature):
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokens = torch.randint(0, 7, (3, 4), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 4, dtype=torch.bool)
    now = torch.log_softmax(logits / temperature, -1).gather(-1, tokens[..., None])[..., 0]
    teacher = now.detach().clone()
    advantages = opd_advantages(teacher, now, mask)
    assert not advantages.any()
    assert not advantages.requires_grad
    loss = opd_loss(now, now.detach(), advantages, mask, teacher_logps_BT=teacher)
    loss.loss.backward()
    assert loss.loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


class Toy:
    """A tabular policy over all prefixes of answers of fixed length, small enough to enumerate every answer."""

    def __init__(self, vocabulary: int, length: int) -> None:
        self.answers = torch.tensor(list(itertools.product(range(vocabulary), repeat=length)))
        prefixes = [p for t in range(length) for p in itertools.product(range(vocabulary), repeat=t)]
        index = {prefix: i for i, prefix in enumerate(prefixes)}
        self.states = torch.tensor([[index[tuple(a[:t])] for t in range(length)] for a in self.answers.tolist()])
        generator = torch.Generator().manual_seed(vocabulary)
        self.student, self.teacher = (
            torch.randn(len(prefixes), vocabulary, generator=generator, dtype=torch.float64) for _ in range(2)
        )

    def logps(self, logits: Tensor) -> Tensor:
        """Log-probs ``[answers, length]`` of every answer's tokens."""
        return torch.log_softmax(logits, -1)[self.states, self.answers]

    def state_kl(self, logits: Tensor, weight: Tensor) -> Tensor:
        """Reverse KL at each state, summed with the given weights of states."""
        p, q = torch.log_softmax(logits, -1), torch.log_softmax(self.teacher, -1)
        return (weight * (p.exp() * (p - q)).sum(-1)).sum()

    def visits(self, logits: Tensor) -> Tensor:
        """Expected number of visits of each state."""
        probability = self.logps(logits).sum(dim=1).exp()
        counts = torch.zeros(len(logits), dtype=torch.float64)
        return counts.index_add(0, self.states.flatten(), probability.repeat_interleave(self.states.shape[1]))


@pytest.mark.parametrize(("vocabulary", "length"), [(3, 3), (5, 2)])
def test_expected_gradient_is_that_of_the_reverse_kl_at_visited_states(vocabulary, length):
    toy = Toy(vocabulary, length)
    logits = toy.student.clone().requires_grad_()
    now = toy.logps(logits)
    old = now.detach()
    mask = torch.ones_like(old, dtype=torch.bool)
    advantages = opd_advantages(toy.logps(toy.teacher), old, mask)
    # The expectation over answers: one sample at a time, weighted by its probability.
    probability = old.sum(dim=1).exp()
    assert probability.sum().item() == pytest.approx(1.0)
    losses = [
        opd_loss(now[i : i + 1], old[i : i + 1], advantages[i : i + 1], mask[i : i + 1]).loss for i in range(len(now))
    ]
    (torch.stack(losses) * probability).sum().backward()

    reference = toy.student.clone().requires_grad_()
    visits = toy.visits(toy.student)
    (toy.state_kl(reference, visits) / length).backward()  # the loss is a mean over tokens
    torch.testing.assert_close(logits.grad, reference.grad, rtol=1e-9, atol=1e-12)

    assert logits.grad is not None
    stepped = toy.student - 0.1 * logits.grad
    assert toy.state_kl(stepped, visits) < toy.state_kl(toy.student, visits)
    # The state distribution moves too; the divergence of whole answers still falls.
    assert toy.state_kl(stepped, toy.visits(stepped)) < toy.state_kl(toy.student, visits)


def test_monte_carlo_gradient_agrees_with_the_enumeration():
    """On a 3-token vocabulary; a reward that did not depend on the action would average to another gradient."""
    toy = Toy(3, 1)
    p = torch.softmax(toy.student[0], -1)
    samples = torch.multinomial(p, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))[:, None]
    logits = toy.student.clone().requires_grad_()
    now = torch.log_softmax(logits, -1)[0][samples]
    teacher = torch.log_softmax(toy.teacher, -1)[0][samples]
    mask = torch.ones_like(samples, dtype=torch.bool)
    opd_loss(now, now.detach(), opd_advantages(teacher, now, mask), mask).loss.backward()
    reference = toy.student.clone().requires_grad_()
    toy.state_kl(reference, toy.visits(toy.student)).backward()
    torch.testing.assert_close(logits.grad, reference.grad, rtol=0, atol=0.01)  # standard error is about 0.002


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cap", [0.5, 2.0, 1e9])
def test_importance_weights_multiply_each_tokens_loss(seed, cap):
    """Against the definition in plain floats; padding and left-out tokens may hold anything."""
    generator = torch.Generator().manual_seed(seed)
    now, old, sampler, teacher = (-3 * torch.rand(5, 4, generator=generator) for _ in range(4))
    mask = torch.arange(4)[None] < torch.tensor([4, 1, 3, 2, 4])[:, None]
    keep = torch.tensor([True, True, False, True, True])
    expected_weights = torch.zeros(5, 4)
    expected = 0.0
    for i in range(5):
        length = int(mask[i].sum())
        for t in range(length):
            weight = min(math.exp(float(old[i, t]) - float(sampler[i, t])), cap)
            expected_weights[i, t] = weight
            gap = abs(float(now[i, t]) - float(teacher[i, t]))
            if not keep[i] or gap >= 1.5:
                continue
            advantage = float(teacher[i, t]) - float(old[i, t])
            ratio = math.exp(float(now[i, t]) - float(old[i, t]))
            worse = max(-ratio * advantage, -min(max(ratio, 0.8), 1.28) * advantage)
            expected += weight * worse / length / 5
    for poison in (0.0, torch.nan, -torch.inf):
        now_, old_, sampler_, teacher_ = (t.masked_fill(~mask, poison) for t in (now, old, sampler, teacher))
        now_.requires_grad_()
        weights = importance_weights(old_, sampler_.requires_grad_(), mask, cap=cap)
        torch.testing.assert_close(weights, expected_weights)
        assert not weights.requires_grad
        advantages = opd_advantages(teacher_, old_, mask)
        options = {"teacher_logps_BT": teacher_, "keep_B": keep, "gap_threshold": 1.5}
        left_out = weights.masked_fill(~keep[:, None], poison)
        got = opd_loss(now_, old_, advantages, mask, importance_weights_BT=left_out, **options)
        assert got.loss.item() == pytest.approx(expected, abs=1e-6)
        got.loss.backward()
        assert now_.grad is not None
        assert now_.grad.isfinite().all()
        unit_weights = opd_loss(now_, old_, advantages, mask, importance_weights_BT=torch.ones(5, 4), **options)
        assert torch.equal(unit_weights.loss, opd_loss(now_, old_, advantages, mask, **options).loss)


def test_a_token_that_the_sampler_called_impossible_weighs_no_more_than_the_cap():
    logps, sampler = torch.tensor([[-1.0, -1.0, -200.0]]), torch.tensor([[-torch.inf, -9999.0, -1.0]])
    assert importance_weights(logps, sampler, torch.ones(1, 3), cap=2.0).tolist() == [[2.0, 2.0, 0.0]]


@pytest.mark.parametrize(("vocabulary", "length"), [(3, 1), (3, 3), (5, 2)])
def test_weights_give_the_policys_expected_gradient_over_another_samplers_tokens(vocabulary, length):
    """Every answer of a small vocabulary, by its probability under the sampler q, not the policy p."""
    toy = Toy(vocabulary, length)
    noise = torch.randn(toy.student.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    sampler = toy.logps(toy.student + 0.7 * noise)  # q
    visits = toy.visits(toy.student + 0.7 * noise)

    def expected_gradient(cap: float | None) -> Tensor:
        logits = toy.student.clone().requires_grad_()
        now = toy.logps(logits)
        mask = torch.ones_like(now, dtype=torch.bool)
        advantages = opd_advantages(toy.logps(toy.teacher), now.detach(), mask)
        weights = None if cap is None else importance_weights(now, sampler, mask, cap=cap)
        loss = opd_loss(now, now.detach(), advantages, mask, importance_weights_BT=weights)
        per_answer = torch.stack(
            [
                opd_loss(
                    now[i : i + 1],
                    now[i : i + 1].detach(),
                    advantages[i : i + 1],
                    mask[i : i + 1],
                    importance_weights_BT=None if weights is None else weights[i : i + 1],
                ).loss
                for i in range(len(now))
            ]
        )
        assert loss.loss.item() == pytest.approx(per_answer.mean().item())
        (per_answer * sampler.sum(dim=1).exp()).sum().backward()
        assert logits.grad is not None
        return logits.grad

    reference = toy.student.clone().requires_grad_()
    # At each state the policy's own expectation; states as often as the sampler visits them (p's if length is 1).
    (toy.state_kl(reference, visits) / length).backward()
    assert reference.grad is not None
    torch.testing.assert_close(expected_gradient(1e9), reference.grad, rtol=1e-9, atol=1e-12)
    biased, cut = expected_gradient(None), expected_gradient(1.0)
    assert (biased - reference.grad).norm() > 0.1 * reference.grad.norm()
    assert 1e-3 * reference.grad.norm() < (cut - reference.grad).norm() < (biased - reference.grad).norm()


def test_extrapolated_advantages():
    teacher, student, reference = (
        torch.tensor([[-1.0, -9.0]]),
        torch.tensor([[-2.0, -9.0]]),
        torch.tensor([[-3.0, 0.0]]),
    )
    mask = torch.tensor([[True, False]])
    rows = [
        (1.0, 1.0),  # plain OPD: -1 + 2
        (1.25, 1.5),  # 1.25 * -1 - 0.25 * -3 + 2
        (0.0, -1.0),  # the reference alone: -3 + 2
    ]
    for scale, expected in rows:
        assert extrapolated_advantages(teacher, student, reference, mask, scale=scale).tolist() == [[expected, 0.0]]
    failed = extrapolated_advantages(teacher, student, reference, mask, teacher_ok_B=torch.tensor([False]))
    assert failed.tolist() == [[0.0, 0.0]]


def test_mistakes_name_the_argument():
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    cases = [
        (lambda: opd_advantages(x, x[:, :2], mask), "student_logps_BT"),
        (lambda: opd_advantages(x, x, mask[:1]), "mask_BT"),
        (lambda: opd_advantages(x, x, mask, teacher_ok_B=mask), "teacher_ok_B"),
        (lambda: extrapolated_advantages(x, x, x[:1], mask), "reference"),
        (lambda: opd_loss(x, x[:1], x, mask), "old_logps_BT"),
        (lambda: opd_loss(x, x, x[:, :1], mask), "advantages_BT"),
        (lambda: opd_loss(x, x, x, mask[0]), "mask_BT"),
        (lambda: opd_loss(x, x, x, mask, teacher_logps_BT=x[:1]), "teacher_logps_BT"),
        (lambda: opd_loss(x, x, x, mask, keep_B=mask[0]), "keep_B"),
        (lambda: opd_loss(x, x, x, mask, teacher_ok_B=mask[0]), "teacher_ok_B"),
        (lambda: opd_loss(x, x, x, mask, clip_low=1.5), "clip_low"),
        (lambda: opd_loss(x, x, x, mask, clip_high=-0.1), "clip_high"),
        (lambda: opd_loss(x, x, x, mask, gap_threshold=0.0), "gap_threshold"),
        (lambda: opd_loss(x, x, x, mask, denominator=0), "denominator"),
        (lambda: opd_loss(x, x, x, mask, importance_weights_BT=x[:1]), "importance_weights_BT"),
        (lambda: importance_weights(x, x[:1], mask), "sampler_logps_BT"),
        (lambda: importance_weights(x, x, mask, cap=0.0), "cap"),
    ]
    for call, name in cases:
        with pytest.raises(ValueError, match=name):
            call()


def test_tokens_that_are_never_gap_masked_train_however_far_the_teacher_is():
    logps = torch.tensor([[-1.0, -0.1, -0.1]]).requires_grad_()
    teacher = torch.tensor([[-2.0, -30.0, -30.0]])
    mask, spared = torch.tensor([[True, True, True]]), torch.tensor([[False, False, True]])
    advantages = opd_advantages(teacher, logps.detach(), mask)
    result = opd_loss(logps, logps.detach(), advantages, mask, teacher_logps_BT=teacher, never_gap_masked_BT=spared)
    result.loss.backward()
    # A ratio of 1: the gradient is that of -A log pi, over all three tokens of the answer.
    assert logps.grad is not None
    torch.testing.assert_close(logps.grad, torch.tensor([[1.0, 0.0, 29.9]]) / 3)
    assert result.loss.item() == pytest.approx((1.0 + 29.9) / 3)
    assert result.active_BT.tolist() == [[True, False, True]]
    assert (result.gap_fraction.item(), result.kept_tokens.item()) == (pytest.approx(1 / 3), 2)


def test_sparing_no_token_and_sparing_padding_change_nothing():
    current, advantages = field("student_old"), golden_advantages()
    common: dict = {"teacher_logps_BT": field("teacher"), "keep_B": KEEP, "teacher_ok_B": TEACHER_OK}
    common["gap_threshold"] = 0.5
    before = opd_loss(current, field("student_old"), advantages, MASK, **common)
    for spared in (torch.zeros_like(MASK), ~MASK, ~KEEP[:, None] & MASK, ~TEACHER_OK[:, None] & MASK):
        after = opd_loss(current, field("student_old"), advantages, MASK, never_gap_masked_BT=spared, **common)
        assert torch.equal(after.per_token, before.per_token)
    assert before.gap_fraction > 0
    with pytest.raises(ValueError, match="never_gap_masked_BT"):
        opd_loss(current, current, advantages, MASK, never_gap_masked_BT=MASK[:, :2], **common)

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_uniopd.functional.divergence_tiles import Kind
from lit_uniopd.functional.logps import divergence, topk_forward_kl, topk_mass

KINDS = [("reverse", 0.5), ("forward", 0.5), ("jsd", 0.5), ("jsd", 0.3), ("jsd", 0.0), ("jsd", 1.0)]
# What TRL calls beta: its ends are the forward and the reverse KL.
TRL_BETA = {"reverse": 1.0, "forward": 0.0}


def make(batch=2, tokens=4, vocabulary=9, dtype=torch.float64, scale=1.0) -> tuple[Tensor, ...]:
    """Student 3 wide, teacher 5 wide, and a mask with holes."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return scale * torch.randn(*shape, generator=generator, dtype=dtype)

    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[0, -1] = mask[-1, 0] = False
    return normal(batch, tokens, 3), normal(batch, tokens, 5), normal(vocabulary, 3), normal(vocabulary, 5), mask


def formula(p: Tensor, q: Tensor, kind: str, beta: float) -> Tensor:
    """The definition over the last dimension; ``0 log 0 = 0``."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(a > 0, a * (a.clamp(min=1e-300).log() - b.clamp(min=1e-300).log()), 0.0).sum(dim=-1)

    if kind == "reverse" or (kind == "jsd" and beta == 1):
        return kl(p, q)
    if kind == "forward" or beta == 0:
        return kl(q, p)
    m = beta * q + (1 - beta) * p
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


def dense(h_s, h_t, w_s, w_t, mask, *, kind="reverse", beta=0.5, top_k=None, temperature=1.0, cap=None, bias=None):
    """Full logits, common vocabulary, and a loop over positions that really merges the tail into one bucket."""
    common = min(len(w_s), len(w_t))
    z_s = h_s @ w_s[:common].T + (0 if bias is None else bias[:common])
    z_s = z_s if cap is None else cap * torch.tanh(z_s / cap)
    p_all, q_all = torch.softmax(z_s / temperature, -1), torch.softmax(h_t @ w_t[:common].T / temperature, -1)
    out = torch.zeros(mask.shape, dtype=h_s.dtype)
    for b, t in mask.nonzero().tolist():
        p, q = p_all[b, t], q_all[b, t].detach()
        if top_k is not None and top_k < common:
            of_p, of_q = set(p.topk(top_k).indices.tolist()), set(q.topk(top_k).indices.tolist())
            chosen = {"reverse": of_p, "forward": of_q, "jsd": of_p | of_q}[
                kind if 0 < beta < 1 or kind != "jsd" else {1.0: "reverse", 0.0: "forward"}[beta]
            ]
            support = sorted(chosen)
            tail = [v for v in range(common) if v not in chosen]
            p = torch.cat([p[support], p[tail].sum()[None]])
            q = torch.cat([q[support], q[tail].sum()[None]])
        out[b, t] = formula(p, q, kind, beta)
    return out


@pytest.mark.parametrize("top_k", [None, 1, 3, 9])
@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_values_and_gradients_equal_the_dense_definition(kind, beta, top_k):
    h_s, h_t, w_s, w_t, mask = make()
    upstream = torch.randn(mask.shape, dtype=torch.float64)
    options: dict[str, Any] = {"kind": kind, "beta": beta, "top_k": top_k, "temperature": 0.7}
    results = []
    for function in (dense, divergence):
        h, w = h_s.clone().requires_grad_(), w_s.clone().requires_grad_()
        chunk: dict[str, Any] = {"chunk_tokens": 4} if function is divergence else {}
        values = function(h, h_t, w, w_t, mask, **options, **chunk)
        (values * upstream).sum().backward()
        results.append((values.detach(), h.grad, w.grad))
    # With a frozen head the gradient takes the other road.
    h = h_s.clone().requires_grad_()
    values = divergence(h, h_t, w_s, w_t, mask, **options, chunk_tokens=4)
    (values * upstream).sum().backward()
    results.append((values.detach(), h.grad, results[0][2]))
    for expected, *candidates in zip(*results, strict=True):
        for actual in candidates:
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    assert (results[1][0][~mask] == 0).all()


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_bias_and_softcap_of_the_student(kind, beta, trained):
    h_s, h_t, w_s, w_t, mask = make()
    bias = torch.linspace(-1, 1, 9, dtype=torch.float64)
    grads = []
    for function in (dense, divergence):
        h, w = h_s.clone().requires_grad_(), w_s.clone().requires_grad_(trained)
        b = bias.clone().requires_grad_(trained)
        cap = {"cap": 1.5, "bias": b} if function is dense else {"student_softcap": 1.5, "student_bias": b}
        function(h, h_t, w, w_t, mask, kind=kind, beta=beta, **cap).sum().backward()
        grads.append((h.grad, w.grad, b.grad))
    for expected, actual in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_bias_and_softcap_of_the_teacher():
    h_s, h_t, w_s, w_t, mask = make()
    bias = torch.linspace(-1, 1, 9, dtype=torch.float64)
    # Reverse KL with the two models swapped is the forward KL: the teacher's options must do what the student's do.
    teacher_options = divergence(h_s, h_t, w_s, w_t, mask, teacher_bias=bias, teacher_softcap=1.5)
    student_options = divergence(h_t, h_s, w_t, w_s, mask, kind="forward", student_bias=bias, student_softcap=1.5)
    torch.testing.assert_close(teacher_options, student_options)


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize(("v_s", "v_t"), [(9, 6), (6, 9)])
def test_padded_vocabularies_are_cut_to_their_common_ids(kind, beta, v_s, v_t):
    h_s, h_t, w_s, w_t, mask = make()
    h = h_s.clone().requires_grad_()
    w = w_s[:v_s].clone().requires_grad_()
    values = divergence(h, h_t, w, w_t[:v_t], mask, kind=kind, beta=beta)
    torch.testing.assert_close(values, dense(h_s, h_t, w_s[:v_s], w_t[:v_t], mask, kind=kind, beta=beta))
    values.sum().backward()
    assert w.grad is not None
    assert w.grad[:6].any()
    assert not w.grad[6:].any()


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_parity_with_trl(kind, beta, scale, monkeypatch):
    monkeypatch.setitem(os.environ, "TRL_EXPERIMENTAL_SILENCE", "1")
    gkd = pytest.importorskip("trl.experimental.gkd").GKDTrainer
    h_s, h_t, w_s, w_t, mask = make(tokens=6, vocabulary=101, dtype=torch.float32, scale=scale)
    trl_beta = TRL_BETA.get(kind, beta)
    labels = torch.where(mask, 0, -100)
    results = []
    for use_ours in (False, True):
        h, w = h_s.clone().requires_grad_(), w_s.clone().requires_grad_()
        if use_ours:
            loss = divergence(h, h_t, w, w_t, mask, kind=kind, beta=beta, temperature=0.9).sum() / mask.sum()
        else:
            loss = gkd.generalized_jsd_loss(h @ w.T, h_t @ w_t.T, labels, beta=trl_beta, temperature=0.9)
        loss.backward()
        results.append((loss.detach(), h.grad, w.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_float32_stays_close_to_float64(kind, beta):
    inputs = make(tokens=6, vocabulary=500, scale=2.0)
    single = [t.float() for t in inputs[:4]]
    exact = formula(
        torch.softmax(single[0].double() @ single[2].double().T / 0.7, -1),
        torch.softmax(single[1].double() @ single[3].double().T / 0.7, -1),
        kind,
        beta,
    )
    got = divergence(single[0], single[1], single[2], single[3], inputs[4], kind=kind, beta=beta, temperature=0.7)
    torch.testing.assert_close(got.double(), exact * inputs[4], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 2])
def test_a_model_does_not_diverge_from_itself(kind, beta, temperature, top_k):
    h_s, _, w_s, _, mask = make(dtype=torch.float32)
    h, w = h_s.clone().requires_grad_(), w_s.clone().requires_grad_()
    values = divergence(h, h_s, w, w_s, mask, kind=kind, beta=beta, temperature=temperature, top_k=top_k)
    values.sum().backward()
    tolerance = 0.0 if top_k is None else 1e-6  # the two tails are summed and subtracted again
    for tensor in (values.detach(), h.grad, w.grad):
        assert tensor is not None
        assert tensor.abs().max() <= tolerance


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("top_k", [None, 1])
def test_an_all_but_impossible_token_still_gets_a_gradient(kind, beta, top_k):
    # The student gives token 1 a probability of 1e-9, the teacher prefers it; with k = 1 it may sit in the tail.
    gap = 20.723265836946414
    weight = torch.eye(2, requires_grad=True)
    hidden = torch.tensor([[[gap, 0.0]]], requires_grad=True)
    teacher = torch.tensor([[[0.0, 2.0]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    divergence(hidden, teacher, weight, torch.eye(2), mask, kind=kind, beta=beta, top_k=top_k).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert hidden.grad[0, 0, 1] < 0  # downhill is up


def test_disjoint_distributions_give_finite_values_and_gradients():
    # 200 nats apart: each model is certain of another token. JSD is then at its bound, H(beta) = ln 2.
    hidden = torch.tensor([[[200.0, 0.0]]], requires_grad=True)
    teacher = torch.tensor([[[0.0, 200.0]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    expected: dict[Kind, float] = {"reverse": 200.0, "forward": 200.0, "jsd": 0.6931471805599453}
    for kind, value in expected.items():
        got = divergence(hidden, teacher, torch.eye(2), torch.eye(2), mask, kind=kind)
        torch.testing.assert_close(got, torch.tensor([[value]]))
        (grad,) = torch.autograd.grad(got.sum(), hidden)
        assert grad.isfinite().all()


def test_jsd_near_its_ends_points_like_the_kl_it_approaches():
    h_s, h_t, w_s, w_t, mask = make()

    def gradient(**options):
        h = h_s.clone().requires_grad_()
        return torch.autograd.grad(divergence(h, h_t, w_s, w_t, mask, **options).sum(), h)[0]

    for beta, scale, kind in ((1e-9, 1e-9, "forward"), (1 - 1e-9, 1e-9, "reverse")):
        torch.testing.assert_close(gradient(kind="jsd", beta=beta) / scale, gradient(kind=kind), rtol=1e-4, atol=1e-5)


def test_the_teacher_gets_no_gradient():
    h_s, h_t, w_s, w_t, mask = (t.requires_grad_(t.is_floating_point()) for t in make())
    divergence(h_s, h_t, w_s, w_t, mask).sum().backward()
    assert h_t.grad is None
    assert w_t.grad is None
    assert h_s.grad is not None
    assert w_s.grad is not None


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_what_stands_outside_the_mask_has_no_influence(trained):
    h_s, h_t, w_s, w_t, mask = make()
    w_s.requires_grad_(trained)
    bad_s = h_s.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    bad_t = h_t.masked_fill(~mask[..., None], torch.inf)
    values = divergence(bad_s, bad_t, w_s, w_t, mask)
    values.sum().backward()
    torch.testing.assert_close(values, divergence(h_s, h_t, w_s, w_t, mask))
    assert bad_s.grad is not None
    assert bad_s.grad.isfinite().all()
    assert (bad_s.grad[~mask] == 0).all()
    assert not trained or (w_s.grad is not None and w_s.grad.isfinite().all())


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_an_empty_mask_gives_zeros_with_a_graph(trained):
    h_s, h_t, w_s, w_t, mask = make()
    values = divergence(h_s.requires_grad_(), h_t, w_s.requires_grad_(trained), w_t, torch.zeros_like(mask))
    values.sum().backward()
    assert values.shape == mask.shape
    assert not values.any()
    assert h_s.grad is not None
    assert h_s.grad is not None
    assert not h_s.grad.any()


def test_bfloat16_weights():
    h_s, h_t, w_s, w_t, mask = (t.bfloat16() if t.is_floating_point() else t for t in make())
    h_s.requires_grad_()
    w_s.requires_grad_()
    values = divergence(h_s, h_t, w_s, w_t, mask)
    z_s, z_t = (h_s @ w_s.T).detach().double(), (h_t @ w_t.T).double()
    expected = formula(torch.softmax(z_s, -1), torch.softmax(z_t, -1), "reverse", 0.5) * mask
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-6)
    values.sum().backward()
    assert w_s.grad is not None
    assert w_s.grad.dtype == torch.bfloat16


def test_topk_mass_is_what_the_support_covers():
    # Student (.5, .3, .2, 0+), teacher (.1, .2, .3, .4), one token each, k = 1.
    p, q = torch.tensor([0.5, 0.3, 0.199, 0.001]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    mask = torch.tensor([[True, False]])
    args = (p.log().expand(1, 2, 4), q.log().expand(1, 2, 4), torch.eye(4), torch.eye(4), mask)
    rows: list[tuple[Kind, float, int, float]] = [
        ("reverse", 0.5, 1, 0.5),  # the student's own favourite
        ("forward", 0.5, 1, 0.4),  # the teacher's own favourite
        ("jsd", 0.25, 1, 0.25 * (0.1 + 0.4) + 0.75 * (0.5 + 0.001)),  # tokens 0 and 3 under the mixture
        ("jsd", 1.0, 2, 0.8),  # the reverse KL
        ("reverse", 0.5, 4, 1.0),
    ]
    for kind, beta, k, expected in rows:
        got = topk_mass(*args, kind=kind, beta=beta, top_k=k)
        torch.testing.assert_close(got, torch.tensor([[expected, 0.0]]))


def test_mistakes_name_the_argument():
    h_s, h_t, w_s, w_t, mask = make()
    cases = [
        (lambda: divergence(h_s, h_t, w_s, w_t, mask, kind="total"), "kind"),  # type: ignore[arg-type]
        (lambda: divergence(h_s, h_t, w_s, w_t, mask, kind="jsd", beta=1.1), "beta"),
        (lambda: divergence(h_s, h_t, w_s, w_t, mask, top_k=0), "top_k"),
        (lambda: divergence(h_s, h_t, w_s, w_t, mask, temperature=0.0), "temperature"),
        (lambda: divergence(h_s, h_t, w_s, w_t, mask, chunk_tokens=0), "chunk_tokens"),
        (lambda: divergence(h_t, h_t, w_s, w_t, mask), "student_hidden"),
        (lambda: divergence(h_s, h_s, w_s, w_t, mask), "teacher_hidden"),
        (lambda: divergence(h_s, h_t[:, :2], w_s, w_t, mask), "teacher_hidden"),
        (lambda: divergence(h_s, h_t, w_s, w_t, mask[:1]), "mask_BT"),
        (lambda: divergence(h_s, h_t, w_s, w_t, mask, teacher_softcap=0.0), "teacher_softcap"),
        (lambda: topk_mass(h_s, h_t, w_s, w_t, mask, top_k=-1), "top_k"),
    ]
    for call, name in cases:
        with pytest.raises(ValueError, match=name):
            call()


# --- a teacher that names its top tokens only ---


def top_of(h_t: Tensor, w_t: Tensor, k: int, shape: Any = None) -> tuple[Tensor, Tensor]:
    """As a server would say them, in float32."""
    logps, ids = torch.log_softmax(h_t @ w_t.T, -1).topk(k, dim=-1)
    return ids.int(), logps.float().to(logps.dtype)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("k", [1, 3, 8, 9])
def test_top_tokens_alone_give_the_forward_kl_and_its_gradients(k, frozen, cap):
    h_s, h_t, w_s, w_t, mask = make(scale=2.0)
    ids, logps = top_of(h_t, w_t, k)
    ids[~mask], logps[~mask] = -7, torch.nan  # what stands outside is not read
    bias, upstream = torch.linspace(-1, 1, len(w_s), dtype=torch.float64), torch.randn(mask.shape, dtype=torch.float64)
    results = []
    for named in (False, True):
        h, w, b = h_s.clone().requires_grad_(), w_s.clone().requires_grad_(not frozen), bias.clone()
        b.requires_grad_(not frozen)
        if named:
            values = topk_forward_kl(
                h, w, ids, logps, mask, student_bias=b, student_softcap=cap, temperature=1.0, chunk_tokens=2
            )
        else:
            values = dense(h, h_t, w, w_t, mask, kind="forward", top_k=k, cap=cap, bias=b)
        (values * upstream).sum().backward()
        results.append([values.detach(), h.grad, *(() if frozen else (w.grad, b.grad))])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 8.0, 40.0])
def test_in_float32_the_tail_of_a_sure_teacher_is_as_exact_as_its_mass(scale):
    """Nearly all probability is in the top tokens; then what is left of 1 has few digits, and gradients none the less."""
    h_s, h_t, w_s, w_t, mask = make(tokens=64, vocabulary=200, scale=scale**0.5)
    single = [t.float() for t in (h_s, h_t, w_s, w_t)]
    logps, ids = torch.log_softmax(single[1] @ single[3].T, -1).topk(20, dim=-1)
    results = []
    for named in (False, True):
        h = (single[0] if named else h_s).clone().requires_grad_()
        w = (single[2] if named else w_s).clone().requires_grad_()
        values = (
            topk_forward_kl(h, w, ids.int(), logps, mask)
            if named
            else divergence(h, h_t, w, w_t, mask, kind="forward", top_k=20)
        )
        values.sum().backward()
        assert h.grad is not None
        assert w.grad is not None
        results.append([t.double() for t in (values.detach(), h.grad, w.grad)])
    for expected, actual in zip(*results, strict=True):
        assert float((actual - expected).abs().max()) < 2e-5 * max(1.0, float(expected.abs().max()))


def test_ids_that_one_side_lacks_are_left_out_as_the_vocabularies_common_part_would_leave_them_out():
    h_s, h_t, w_s, w_t, mask = make(vocabulary=9)
    ids, logps = top_of(h_t, w_t, 9)  # all of the teacher's
    expected = divergence(h_s, h_t, w_s[:6], w_t, mask, kind="forward")
    torch.testing.assert_close(topk_forward_kl(h_s, w_s[:6], ids, logps, mask), expected, atol=1e-6, rtol=1e-6)
    # Ids that the student alone has are in its tail: by hand, over the buckets.
    p, q = torch.softmax(h_s @ w_s.T, -1), torch.softmax(h_t @ w_t[:4].T, -1)
    ids, logps = top_of(h_t, w_t[:4], 2)
    kept = q.gather(2, ids.long())
    buckets_p = torch.cat([p.gather(2, ids.long()), 1 - p.gather(2, ids.long()).sum(2, keepdim=True)], 2)
    buckets_q = torch.cat([kept, 1 - kept.sum(2, keepdim=True)], 2)
    values = topk_forward_kl(h_s, w_s, ids, logps, mask)
    torch.testing.assert_close(values[mask], formula(buckets_p, buckets_q, "forward", 0.5)[mask], atol=1e-6, rtol=1e-6)


def test_impossible_tokens_and_rounded_masses_are_no_infinities():
    h_s, _, w_s, _, _ = make(batch=1, tokens=3)
    ids = torch.tensor([[[0, 1], [0, 1], [0, 1]]])
    logps = torch.tensor([[[0.0, -torch.inf], [0.0, -9999.0], [5e-4, -40.0]]], dtype=torch.float64)
    h = h_s[:1].clone().requires_grad_()
    values = topk_forward_kl(h, w_s, ids, logps, torch.ones(1, 3, dtype=torch.bool))
    values.sum().backward()
    first = -torch.log_softmax(h_s[:1] @ w_s.T, -1)[..., 0]  # all of the teacher is one token
    torch.testing.assert_close(values.detach(), first, atol=5e-3, rtol=1e-3)
    torch.testing.assert_close(values[0, :2].detach(), first[0, :2], atol=1e-12, rtol=1e-12)
    assert h.grad is not None
    assert h.grad.isfinite().all()


def test_shapes_of_top_tokens_are_checked():
    h_s, h_t, w_s, w_t, mask = make()
    ids, logps = top_of(h_t, w_t, 3)
    with pytest.raises(ValueError, match="differ"):
        topk_forward_kl(h_s, w_s, ids[..., :2], logps, mask)
    with pytest.raises(ValueError, match="does not fit mask_BT"):
        topk_forward_kl(h_s, w_s, ids[:1], logps[:1], mask)
    empty = topk_forward_kl(h_s.requires_grad_(), w_s, ids, logps, torch.zeros_like(mask))
    empty.sum().backward()
    assert h_s.grad is not None
    assert not h_s.grad.any()

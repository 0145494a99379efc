"""Divergences whose entries are limited, against autograd of the definition in float64."""

import pytest
import torch
from functional.test_divergence import KINDS, make

from lit_uniopd.functional import MixtureTerm, divergence, mixture_divergence


def clipped(p: torch.Tensor, q: torch.Tensor, kind: str, beta: float, limit: float) -> torch.Tensor:
    """Entry by entry, each cut at the limit."""
    if kind == "reverse" or (kind == "jsd" and beta == 1):
        entries = p * (p / q).log()
    elif kind == "forward" or beta == 0:
        entries = q * (q / p).log()
    else:
        m = beta * q + (1 - beta) * p
        entries = beta * q * (q / m).log() + (1 - beta) * p * (p / m).log()
    return entries.clamp(max=limit).sum(-1)


@pytest.mark.parametrize("limit", [0.02, 0.05, 100.0])
@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("trained_head", [True, False])
def test_values_and_gradients_are_those_of_the_definition(kind, beta, limit, trained_head):
    h_s, h_t, w_s, w_t, mask = make(scale=1.5)
    inputs = [h_s.requires_grad_(), w_s.requires_grad_(trained_head)]
    options = {"kind": kind, "beta": beta, "entry_clip": limit, "temperature": 1.3}
    values = divergence(h_s, h_t, w_s, w_t, mask, **options)
    p, q = (h_s @ w_s.T / 1.3).softmax(-1), (h_t @ w_t.T / 1.3).softmax(-1)
    expected = clipped(p, q, kind, beta, limit) * mask
    torch.testing.assert_close(values, expected, atol=1e-12, rtol=0)
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    grads = [torch.autograd.grad(v.sum(), needed, retain_graph=True) for v in (values, expected)]
    for actual, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-11, rtol=0)
    unclipped = divergence(h_s, h_t, w_s, w_t, mask, kind=kind, beta=beta, temperature=1.3)
    assert bool((values <= unclipped + 1e-12).all())
    assert torch.allclose(values, unclipped, atol=1e-12) == (limit == 100.0)
    one = mixture_divergence(h_s, w_s, [MixtureTerm(h_t, w_t, 1.0)], mask, **options)
    assert torch.equal(one, values)


def test_equals_have_no_divergence_and_no_gradient_in_any_type():
    h, _, w, _, mask = make(dtype=torch.float32)
    h.requires_grad_()
    values = divergence(h, h, w, w, mask, kind="jsd", entry_clip=0.05)
    assert not values.any()
    assert float(torch.autograd.grad(values.sum(), h)[0].abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"), [({"entry_clip": 0.0}, "above 0"), ({"entry_clip": 1.0, "top_k": 2}, "one of the two")]
)
def test_what_does_not_fit_is_refused(options, message):
    h_s, h_t, w_s, w_t, mask = make()
    with pytest.raises(ValueError, match=message):
        divergence(h_s, h_t, w_s, w_t, mask, **options)

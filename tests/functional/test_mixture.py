"""Mixtures of teachers against sums over the whole vocabulary, in float64."""

import pytest
import torch
from functional.test_divergence import KINDS, formula
from torch import Tensor

from lit_uniopd.functional import MixtureTerm, divergence, mixture_divergence, mixture_logps

SHARES = [0.5, 0.3, 0.2]


def states(dtype: torch.dtype = torch.float64, vocabulary: int = 9) -> tuple[Tensor, Tensor, list[MixtureTerm], Tensor]:
    """A student 3 wide, teachers 5, 4 and 3 wide with other paddings of the vocabulary, one with bias and cap."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return 2 * torch.randn(*shape, generator=generator, dtype=dtype)

    sizes = zip(SHARES, (5, 4, 3), (2, 0, 1), strict=True)
    terms = [MixtureTerm(normal(2, 4, w), normal(vocabulary + extra, w), share) for share, w, extra in sizes]
    terms[1] = MixtureTerm(terms[1].hidden_BTH, terms[1].weight_VH, SHARES[1], normal(vocabulary), 3.0)
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[0, -1] = False
    return normal(2, 4, 3), normal(vocabulary, 3), terms, mask


def mixed(terms: list[MixtureTerm], vocabulary: int, temperature: float) -> Tensor:
    """The mixture's probabilities."""
    total = 0.0
    for term in terms:
        logits = term.hidden_BTH @ term.weight_VH.T + (0 if term.bias_V is None else term.bias_V)
        logits = logits if term.softcap is None else term.softcap * torch.tanh(logits / term.softcap)
        total = total + term.share * (logits[..., :vocabulary] / temperature).softmax(-1)
    return torch.as_tensor(total)


@pytest.mark.parametrize("trained_head", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_values_and_gradients_are_those_of_the_whole_vocabulary(kind, beta, temperature, trained_head):
    hidden, weight, terms, mask = states()
    inputs = [hidden.requires_grad_(), weight.requires_grad_(trained_head)]
    options = {"kind": kind, "beta": beta, "temperature": temperature, "chunk_tokens": 3}
    values = mixture_divergence(hidden, weight, terms, mask, **options)
    p = (hidden @ weight.T / temperature).softmax(-1)
    expected = formula(p, mixed(terms, 9, temperature), kind, beta) * mask
    torch.testing.assert_close(values, expected, atol=1e-12, rtol=0)
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    for actual, wanted in zip(
        torch.autograd.grad(values.sum(), needed), torch.autograd.grad(expected.sum(), needed), strict=True
    ):
        torch.testing.assert_close(actual, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixture_of_one_or_of_equals_is_that_teacher(dtype, top_k):
    hidden, weight, terms, mask = states(dtype)
    term = terms[0]
    options = {"kind": "reverse", "top_k": top_k}
    alone = divergence(hidden, term.hidden_BTH, weight, term.weight_VH, mask, **options)
    one = MixtureTerm(term.hidden_BTH, term.weight_VH, 1.0)
    assert torch.equal(mixture_divergence(hidden, weight, [one], mask, **options), alone)
    halves = [MixtureTerm(term.hidden_BTH, term.weight_VH, 0.5)] * 2
    torch.testing.assert_close(mixture_divergence(hidden, weight, halves, mask, **options), alone, atol=1e-5, rtol=1e-5)


def test_log_probs_of_a_mixture():
    probs = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).clamp(min=1e-3)
    expected = (torch.tensor(SHARES, dtype=torch.float64)[:, None] * probs).sum(0).log()
    torch.testing.assert_close(mixture_logps(list(probs.log()), SHARES), expected, atol=1e-14, rtol=0)
    assert mixture_logps([probs[0].log()], [1.0]).equal(probs[0].log())
    impossible = mixture_logps([torch.tensor([-torch.inf]), torch.tensor([-1.0])], [0.5, 0.5])
    torch.testing.assert_close(impossible, torch.tensor([-1.0]) + torch.tensor(0.5).log())


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.6], [1.5, -0.5], [1.0, 0.0]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        mixture_logps([torch.zeros(1)] * 2, weights)


def test_states_that_do_not_fit_are_refused():
    hidden, weight, terms, mask = states()
    with pytest.raises(ValueError, match="does not fit mask_BT"):
        mixture_divergence(hidden, weight, [MixtureTerm(terms[0].hidden_BTH[:1], terms[0].weight_VH, 1.0)], mask)

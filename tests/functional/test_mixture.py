"""Mixtures of teachers against sums over the whole vocabulary, in float64."""

import pytest
import torch
from functional.test_divergence import KINDS, formula
from torch import Tensor

from lit_uniopd.functional import (
    MixtureTerm,
    divergence,
    log_linear_logps,
    log_linear_token_logps,
    mixture_divergence,
    mixture_logps,
)
from lit_uniopd.functional.projection import Projection

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


def mixed(terms: list[MixtureTerm], vocabulary: int, temperature: float, mixture_kind: str = "arithmetic") -> Tensor:
    """The mixture's probabilities."""
    total, product = torch.zeros(()), torch.ones(())
    for term in terms:
        logits = term.hidden_BTH @ term.weight_VH.T + (0 if term.bias_V is None else term.bias_V)
        logits = logits if term.softcap is None else term.softcap * torch.tanh(logits / term.softcap)
        probs = (logits[..., :vocabulary] / temperature).softmax(-1)
        total, product = total + term.share * probs, product * probs**term.share
    return total if mixture_kind == "arithmetic" else product / product.sum(-1, keepdim=True)


@pytest.mark.parametrize("mixture_kind", ["arithmetic", "log_linear"])
@pytest.mark.parametrize("trained_head", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_values_and_gradients_are_those_of_the_whole_vocabulary(kind, beta, temperature, trained_head, mixture_kind):
    hidden, weight, terms, mask = states()
    inputs = [hidden.requires_grad_(), weight.requires_grad_(trained_head)]
    options = {"kind": kind, "beta": beta, "temperature": temperature, "chunk_tokens": 3, "mixture_kind": mixture_kind}
    values = mixture_divergence(hidden, weight, terms, mask, **options)
    p = (hidden @ weight.T / temperature).softmax(-1)
    expected = formula(p, mixed(terms, 9, temperature, mixture_kind), kind, beta) * mask
    torch.testing.assert_close(values, expected, atol=1e-12, rtol=0)
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    for actual, wanted in zip(
        torch.autograd.grad(values.sum(), needed), torch.autograd.grad(expected.sum(), needed), strict=True
    ):
        torch.testing.assert_close(actual, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mixture_kind", ["arithmetic", "log_linear"])
@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixture_of_one_or_of_equals_is_that_teacher(dtype, top_k, mixture_kind):
    hidden, weight, terms, mask = states(dtype)
    term = terms[0]
    options = {"kind": "reverse", "top_k": top_k}
    alone = divergence(hidden, term.hidden_BTH, weight, term.weight_VH, mask, **options)
    options["mixture_kind"] = mixture_kind
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


def test_log_probs_of_a_log_linear_mixture():
    """sqrt(.5 .1) : sqrt(.4 .1) : sqrt(.1 .8) are .2236, .2 and .2828, and add up to .7064."""
    logps = [torch.tensor(probs).log() for probs in ([0.5, 0.4, 0.1], [0.1, 0.1, 0.8])]
    expected = torch.tensor([0.31653, 0.28311, 0.40036])
    torch.testing.assert_close(log_linear_logps(logps, [0.5, 0.5]).exp(), expected, atol=2e-5, rtol=0)
    shifted = [logps[0] + 3, logps[1] - 1]  # logits do as well
    torch.testing.assert_close(log_linear_logps(shifted, [0.5, 0.5]).exp(), expected, atol=2e-5, rtol=0)
    assert log_linear_logps(logps[:1], [1.0]).equal(logps[0])
    never = [torch.tensor([-torch.inf, 0.5]), logps[0][:2]]
    assert log_linear_logps(never, [0.5, 0.5]).exp().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_tokens_of_a_log_linear_mixture_are_divided_by_its_sum(temperature):
    _, _, terms, mask = states()
    tokens = torch.arange(8).view(2, 4)[mask]
    heads = [Projection(term.weight_VH, term.bias_V, term.softcap, temperature) for term in terms]
    hidden = [term.hidden_BTH[mask] for term in terms]
    expected = mixed(terms, 9, temperature, "log_linear")[mask].log().gather(1, tokens[:, None])[:, 0]
    for size in (3, 100):
        values = log_linear_token_logps(hidden, heads, SHARES, tokens, chunk_tokens=size)
        torch.testing.assert_close(values, expected, atol=1e-13, rtol=0)
    alone = log_linear_token_logps(hidden[1:2], heads[1:2], [1.0], tokens)
    of_one = mixed([terms[1]], 9, temperature)[mask] / SHARES[1]
    torch.testing.assert_close(alone, of_one.log().gather(1, tokens[:, None])[:, 0], atol=1e-13, rtol=0)


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.6], [1.5, -0.5], [1.0, 0.0]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        mixture_logps([torch.zeros(1)] * 2, weights)
    if len(weights) == 2:
        with pytest.raises(ValueError, match="weights"):
            log_linear_logps([torch.zeros(1)] * 2, weights)


def test_another_number_of_distributions_than_weights_is_refused():
    for count, weights in ((1, [0.5, 0.5]), (3, [0.5, 0.5]), (2, [1.0]), (0, [])):
        with pytest.raises(ValueError, match=r".+"):
            log_linear_logps([torch.zeros(1)] * count, weights)


def test_states_that_do_not_fit_are_refused():
    hidden, weight, terms, mask = states()
    with pytest.raises(ValueError, match="does not fit mask_BT"):
        mixture_divergence(hidden, weight, [MixtureTerm(terms[0].hidden_BTH[:1], terms[0].weight_VH, 1.0)], mask)

"""The gradient that the forward pass makes, against autograd of the spelled-out formula."""

import pytest
import torch
from functional.test_logps import VARIANTS, dense, make

from lit_uniopd.functional import fused_token_loss as module
from lit_uniopd.functional.fused_token_loss import linear_token_loss


@pytest.fixture(params=list(VARIANTS.values()), ids=list(VARIANTS))
def options(request) -> dict:
    return dict(request.param)


@pytest.fixture(params=[(2, 16), (1, 5), (64, 2**21)], ids=["2_rows", "1_row", "one_chunk"])
def tiles(request, monkeypatch) -> None:
    """Chunks of rows that do not divide the 7 tokens, and tiles that do not divide the 11 vocabulary entries."""
    rows, block = request.param
    monkeypatch.setattr(module, "_tile_rows", lambda weight: rows)
    monkeypatch.setattr(module, "tile_columns", lambda rows, weight: min(max(1, block // rows), len(weight)))


OLD = torch.linspace(-4, -1, 7, dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -2, 0.5, 3, -1, 0, 2], dtype=torch.float64)


def clipped(logps, which):
    """Of PPO: neither linear in the log-prob nor smooth."""
    ratio = (logps - OLD[which]).exp()
    return torch.maximum(-ratio * ADVANTAGES[which], -ratio.clamp(0.8, 1.28) * ADVANTAGES[which])


@pytest.mark.parametrize("trained", [(True, True), (False, True), (True, False)], ids=["both", "hidden", "weight"])
def test_values_and_gradients_equal_the_dense_definition(options, tiles, trained):
    hidden, weight, bias, tokens, options = make(**options)
    train_weight, train_hidden = trained
    results = []
    for fused in (False, True):
        h, w = hidden.clone().requires_grad_(train_hidden), weight.clone().requires_grad_(train_weight)
        b = None if bias is None else bias.clone().requires_grad_(train_weight)
        if fused:
            loss, logps, entropy = linear_token_loss(h, w, tokens, clipped, bias_V=b, **options)
            assert not logps.requires_grad
            assert not entropy.requires_grad
        else:
            logps, entropy = dense(h, w, b, tokens, **options)
            loss = clipped(logps, slice(None)).sum()
        (0.3 * loss).backward()
        results.append((loss, logps, entropy, h.grad, w.grad, None if b is None else b.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_without_gradients_it_is_only_a_number():
    hidden, weight, _, tokens, _ = make()
    with torch.no_grad():
        loss, logps, _ = linear_token_loss(hidden, weight.requires_grad_(), tokens, clipped)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, clipped(logps, slice(None)).sum())


def test_extreme_logits_do_not_overflow():
    hidden = torch.tensor([[1.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    loss, logps, entropy = linear_token_loss(hidden, weight, torch.tensor([0, 1]), lambda logps, _: -logps)
    assert logps.tolist() == [0.0, -2e4]
    assert entropy.tolist() == [0.0, 0.0]
    loss.backward()
    for tensor in (hidden, weight):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())


def test_products_run_in_the_weights_type():
    hidden, weight, _, tokens, _ = make(n=40, width=32, vocabulary=200, dtype=torch.bfloat16)
    expected = torch.log_softmax((hidden @ weight.T).double(), dim=-1)[torch.arange(40), tokens]
    weight.requires_grad_()
    hidden.requires_grad_()
    loss, logps, _ = linear_token_loss(hidden, weight, tokens, lambda logps, _: logps)
    torch.testing.assert_close(logps.double(), expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    dense(h, w, None, tokens)[0].sum().backward()
    for actual, exact in ((hidden.grad, h.grad), (weight.grad, w.grad)):
        assert actual is not None
        assert exact is not None
        assert actual.dtype == torch.bfloat16
        assert (actual.double() - exact).norm() / exact.norm() < 0.01


def test_tiles_have_rows_enough_for_the_weight_and_not_too_many_logits():
    rows = {v: module._tile_rows(torch.empty(v, 1)) for v in (512, 32_000, 151_936, 2**26)}
    assert rows == {512: 2**14, 32_000: 262, 151_936: 220, 2**26: 1}


def test_no_tokens_at_all():
    hidden, weight, _, tokens, _ = make()
    loss, logps, _ = linear_token_loss(hidden[:0], weight.requires_grad_(), tokens[:0], clipped)
    loss.backward()
    assert len(logps) == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_its_gradient_is_there_once():
    hidden, weight, _, tokens, _ = make()
    loss, *_ = linear_token_loss(hidden, weight.requires_grad_(), tokens, clipped)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.backward()


def test_mistakes_name_the_argument():
    hidden, weight, _, tokens, _ = make()
    weight.requires_grad_()
    with pytest.raises(ValueError, match="temperature"):
        linear_token_loss(hidden, weight, tokens, clipped, temperature=0.0)
    with pytest.raises(ValueError, match="vocabulary"):
        linear_token_loss(hidden, weight, tokens + 100, clipped)

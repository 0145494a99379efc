import pytest
import torch
from torch import Tensor

from lit_uniopd.functional import logps as module
from lit_uniopd.functional.logps import linear_token_logps, sequence_logps, token_logps
from lit_uniopd.functional.projection import Projection

VARIANTS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "softcap": {"softcap": 1.5},
    "bias": {"bias": True},
    "everything": {"bias": True, "softcap": 2.0, "temperature": 1.3},
}


@pytest.fixture(params=list(VARIANTS.values()), ids=list(VARIANTS))
def options(request) -> dict:
    return dict(request.param)


@pytest.fixture(params=[(3, 4), (2, 16), (64, 5)], ids=["3x4", "2x16", "one_chunk"])
def small_tiles(request, monkeypatch) -> int:
    """Tiles that divide neither the 7 tokens nor the 11 vocabulary entries."""
    rows, columns = request.param
    monkeypatch.setattr(module, "tile_columns", lambda rows, weight: min(columns, len(weight)))
    return rows


def make(n=7, width=3, vocabulary=11, dtype=torch.float64, bias=False, **options):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, width, generator=generator, dtype=dtype)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype)
    bias_V = torch.randn(vocabulary, generator=generator, dtype=dtype) if bias else None
    return hidden, weight, bias_V, torch.randint(0, vocabulary, (n,), generator=generator), options


def dense(hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, softcap=None, temperature=1.0):
    """The definition, spelled out over the whole vocabulary."""
    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    probs = torch.softmax(logits / temperature, dim=-1)
    return probs[torch.arange(len(tokens)), tokens].log(), -(probs * probs.log()).sum(dim=-1)


@pytest.mark.parametrize("trained", [(True, True), (False, True), (True, False)], ids=["both", "hidden", "weight"])
def test_values_and_gradients_equal_the_dense_definition(options, small_tiles, trained):
    hidden, weight, bias, tokens, options = make(**options)
    upstream = torch.randn(7, dtype=torch.float64)
    train_weight, train_hidden = trained
    results = []
    for function in (dense, linear_token_logps):
        h, w = hidden.clone().requires_grad_(train_hidden), weight.clone().requires_grad_(train_weight)
        b = None if bias is None else bias.clone().requires_grad_(train_weight)
        if function is dense:
            logps, entropy = dense(h, w, b, tokens, **options)
        else:
            logps, entropy = linear_token_logps(
                h, w, tokens, bias_V=b, chunk_tokens=small_tiles, return_entropy=True, **options
            )
            assert not entropy.requires_grad
        (logps * upstream).sum().backward()
        results.append((logps, entropy, h.grad, w.grad, None if b is None else b.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.thinned(3)
def test_gradcheck(options, small_tiles, trained):
    hidden, weight, bias, tokens, options = make(**options)
    inputs = [hidden.requires_grad_(), weight.requires_grad_(trained)]
    inputs += [] if bias is None else [bias.requires_grad_(trained)]

    def function(h, w, b=None):
        return linear_token_logps(h, w, tokens, bias_V=b, chunk_tokens=small_tiles, **options)

    assert torch.autograd.gradcheck(function, inputs)


def test_bias_alone_can_be_trained():
    hidden, weight, bias, tokens, _ = make(bias=True)
    assert bias is not None
    expected = torch.autograd.functional.jacobian(lambda b: dense(hidden, weight, b, tokens)[0].sum(), bias)
    bias.requires_grad_()
    linear_token_logps(hidden, weight, tokens, bias_V=bias).sum().backward()
    torch.testing.assert_close(bias.grad, expected)


def test_extreme_logits_do_not_overflow(small_tiles):
    hidden = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    weight = torch.tensor([[-300.0], [0.0], [300.0]])
    # Row 0 has logits -300, 0, 300 and row 1 the reverse: log-probs are -600 (rest of the sum is below 1e-130) and 0.
    logps = linear_token_logps(hidden, weight, torch.tensor([0, 0]), chunk_tokens=small_tiles)
    torch.testing.assert_close(logps.detach(), torch.tensor([-600.0, 0.0]))
    logps.sum().backward()
    # d/dh: W[token] - E[W] = -300 - 300 and -300 - (-300).
    torch.testing.assert_close(hidden.grad, torch.tensor([[-600.0], [0.0]]))


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_bfloat16_is_as_good_as_its_logits(monkeypatch, trained):
    monkeypatch.setattr(module, "tile_columns", lambda rows, weight: 64)
    hidden, weight, _, tokens, _ = make(n=40, width=32, vocabulary=200, dtype=torch.bfloat16)
    logits = (hidden @ weight.T).double()  # products in bfloat16, everything after them exact
    expected = torch.log_softmax(logits, dim=-1)[torch.arange(40), tokens]
    weight.requires_grad_(trained)
    hidden.requires_grad_()
    logps = linear_token_logps(hidden, weight, tokens, chunk_tokens=16)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps.double(), expected, rtol=1e-5, atol=1e-5)

    logps.sum().backward()
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    dense(h, w, None, tokens)[0].sum().backward()
    pairs = [(hidden.grad, h.grad), (weight.grad, w.grad)] if trained else [(hidden.grad, h.grad)]
    for actual, exact in pairs:
        assert actual is not None
        assert exact is not None
        assert actual.dtype == torch.bfloat16
        assert (actual.double() - exact).norm() / exact.norm() < 0.01


def test_autocast_runs_the_products_in_its_type_and_keeps_gradients_in_the_weights_type():
    hidden, weight, _, tokens, _ = make(n=40, width=32, vocabulary=200, dtype=torch.float32)
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logps = linear_token_logps(hidden, weight, tokens)
        expected = token_logps(torch.nn.functional.linear(hidden, weight), tokens)
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    assert logps.dtype == torch.float32
    logps.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_nothing_is_kept_without_grad_and_only_one_hidden_sized_tensor_with_a_frozen_head():
    hidden, weight, _, tokens, _ = make()
    weight.requires_grad_()
    with torch.no_grad():
        assert linear_token_logps(hidden.requires_grad_(), weight, tokens).grad_fn is None
    saved_shapes: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved_shapes.append(t.shape), lambda _: hidden):
        linear_token_logps(hidden, weight.detach(), tokens)
    assert saved_shapes == [hidden.shape]


def test_padding_and_batch_shape_change_nothing():
    hidden, weight, _, tokens, _ = make(n=6)
    flat = linear_token_logps(hidden, weight, tokens)
    for pads in (0, 3, 17):
        padded = torch.nn.functional.pad(hidden.view(2, 3, 3), (0, 0, 0, pads), value=1e4)
        padded_tokens = torch.nn.functional.pad(tokens.view(2, 3), (0, pads))
        got = linear_token_logps(padded, weight, padded_tokens)
        torch.testing.assert_close(got[:, :3].flatten(), flat)


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_no_tokens_at_all(trained):
    hidden, weight, _, tokens, _ = make(n=0)
    hidden.requires_grad_()
    weight.requires_grad_(trained)
    logps = linear_token_logps(hidden, weight, tokens)
    logps.sum().backward()
    assert logps.shape == (0,)
    assert hidden.grad is not None
    assert weight.grad is None or not weight.grad.any()


def test_token_logps_equals_the_definition_and_upcasts():
    # log softmax of (0, ln 3) is (-ln 4, -ln 4/3); at temperature 0.5 the odds are 9 to 1.
    logits = torch.tensor([[[0.0, 1.0986122886681098], [0.0, 1.0986122886681098]]])
    got = token_logps(logits, torch.tensor([[0, 1]]))
    torch.testing.assert_close(got, torch.tensor([[-1.3862943611, -0.2876820724]]))
    got = token_logps(logits, torch.tensor([[0, 1]]), temperature=0.5)
    torch.testing.assert_close(got, torch.tensor([[-2.3025850930, -0.1053605157]]))
    assert token_logps(logits.bfloat16(), torch.tensor([[0, 1]])).dtype == torch.float32


def test_sequence_logps_ignores_everything_outside_the_mask():
    inf, nan = float("inf"), float("nan")
    logps = torch.tensor([[-1.0, -3.0, -inf], [nan, -inf, inf], [-2.0, nan, -4.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1]])
    total, mean = (sequence_logps(logps, mask, average=average) for average in (False, True))
    assert total.tolist() == [-4.0, 0.0, -6.0]  # the empty response gives 0
    assert mean.tolist() == [-2.0, 0.0, -3.0]
    (total.sum() + mean.sum()).backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[1.5, 1.5, 0.0], [0.0, 0.0, 0.0], [1.5, 0.0, 1.5]]


def test_mistakes_name_the_argument():
    hidden, weight, _, tokens, _ = make()
    cases = [
        (lambda: linear_token_logps(hidden, weight, tokens, temperature=0.0), "temperature"),
        (lambda: linear_token_logps(hidden, weight, tokens, chunk_tokens=0), "chunk_tokens"),
        (lambda: linear_token_logps(hidden, weight, tokens, softcap=-1.0), "softcap"),
        (lambda: linear_token_logps(hidden, weight, tokens[:-1]), "tokens_BT"),
        (lambda: linear_token_logps(hidden, weight, tokens + 11), "tokens_BT"),
        (lambda: linear_token_logps(hidden, weight, tokens - 100), "tokens_BT"),
        (lambda: linear_token_logps(hidden[:, :2], weight, tokens), "hidden"),
        (lambda: linear_token_logps(hidden, weight, tokens, bias_V=torch.zeros(3)), "bias"),
        (lambda: token_logps(hidden, tokens, temperature=-1.0), "temperature"),
        (lambda: token_logps(hidden, tokens[:-1]), "tokens_BT"),
        (lambda: sequence_logps(hidden, weight, average=True), "mask_BT"),
    ]
    for call, name in cases:
        with pytest.raises(ValueError, match=name):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tokens_give_a_gradient_of_zero(dtype: torch.dtype) -> None:
    """A rank whose answers are all empty still takes part in the exchange of gradients."""
    hidden, weight = (torch.ones(n, 8, dtype=dtype, requires_grad=True) for n in (0, 50))
    torch.use_deterministic_algorithms(True)  # which fills memory that nobody has written with NaN
    try:
        linear_token_logps(hidden, weight, torch.zeros(0, dtype=torch.long)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_several_threads_meet_seldom(monkeypatch):
    """Each operation ends when the slowest thread has had its turn: on a busy machine a scheduler's slice."""
    tiles, fill = [], Projection.fill
    monkeypatch.setattr(Projection, "fill", lambda head, tile, *args: tiles.append(tile) or fill(head, tile, *args))
    hidden, weight, _, tokens, _ = make(n=512, width=2, vocabulary=40_000, dtype=torch.float32)
    logps, counts = [], []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            logps.append(linear_token_logps(hidden, weight, tokens))
        finally:
            torch.set_num_threads(1)
        counts.append(len(tiles))
        tiles.clear()
    assert counts == [20, 2]  # of 4 MiB, and of 64
    torch.testing.assert_close(*logps, atol=1e-5, rtol=1e-5)

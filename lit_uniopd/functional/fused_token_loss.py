"""A loss of token log-probs, straight from hidden states, with its gradient made in the forward pass.

Where the loss of a token depends on that token's log-prob alone (a policy gradient, clipped or not), its derivative is
known as soon as the log-prob is, and the tile of probabilities can be turned into gradients while it is there: 3 matrix
products, where `linear_token_logps` must make every tile again in the backward pass (4). With a frozen head that
function needs 2, and is used.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lit_uniopd.functional.logps import linear_token_logps
from lit_uniopd.functional.projection import (
    Projection,
    add_matmul,
    check_positive,
    check_tokens,
    chunks,
    locate,
    math_dtype,
    tile_columns,
)

LossOf = Callable[[Tensor, slice | Tensor], Tensor]
"""From the log-probs of some tokens, and which they are (consecutive ones, or their indices), to the loss of each."""

LEAST_ROWS_CPU, LEAST_ROWS_ACCELERATOR = 256, 4096
"""Tokens whose logits are held at once: the weight's gradient is read and written once for so many."""
ELEMENTS_CPU, ELEMENTS_ACCELERATOR = (2**23, 2**25), (2**26, 2**28)
"""More tokens while there are fewer logits than the first, fewer tokens where there would be more than the second."""


def linear_token_loss(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    tokens_N: Tensor,
    loss_of: LossOf,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over tokens of a loss of their log-probs; gradients for hidden states and head are exact.

    The loss can be differentiated once, and is scaled by what comes from above.

    Args:
        hidden_NH: last hidden states at the positions that predict the tokens, without padding.
        weight_VH: output projection.
        tokens_N: token ids.
        loss_of: each token's loss may depend on its own log-prob only.
        bias_V: bias of the projection.
        softcap: Gemma 2's ``cap * tanh(logits / cap)``.
        temperature: divides the (capped) logits.

    Returns:
        The loss, and without gradient the log-probs ``[N]`` and the entropies ``[N]`` of the whole distributions, in
        nats.

    Raises:
        ValueError: if shapes do not fit, a token id is outside the vocabulary, or a number is not positive.

    Example:
        >>> weight_VH = torch.tensor([[1.0, 2.0], [1.0, 6.0]]).log()
        >>> loss, logps_N, _ = linear_token_loss(torch.eye(2), weight_VH, torch.tensor([0, 1]), lambda logps, _: -logps)
        >>> loss, logps_N.exp()  # log(1 / 0.5) + log(1 / 0.75)
        (tensor(0.9808), tensor([0.5000, 0.7500]))
    """
    head = Projection(weight_VH, bias_V, softcap, temperature)
    trained = weight_VH.requires_grad or (bias_V is not None and bias_V.requires_grad)
    if not trained or not torch.is_grad_enabled():
        options: dict[str, Any] = {"bias_V": bias_V, "softcap": softcap, "temperature": temperature}
        logps_N, entropy_N = linear_token_logps(hidden_NH, weight_VH, tokens_N, return_entropy=True, **options)
        return loss_of(logps_N, slice(0, len(tokens_N))).sum(), logps_N.detach(), entropy_N
    head.check(hidden_NH)
    check_positive(temperature=temperature)
    check_tokens(tokens_N, hidden_NH.shape[:-1], weight_VH.shape[0], "hidden_NH")
    dtype, device = head.compute_dtype(), weight_VH.device.type
    with torch.autocast(device, enabled=False):
        return _LinearTokenLoss.apply(
            hidden_NH.to(dtype), weight_VH.to(dtype), bias_V, tokens_N, loss_of, softcap, temperature
        )


class _LinearTokenLoss(Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        loss_of: LossOf,
        softcap: float | None,
        temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        head, dtype = Projection(weight, bias, softcap, temperature), math_dtype(weight)
        n, vocabulary = len(tokens), weight.shape[0]
        rows = min(n, _tile_rows(weight))
        buffer = weight.new_empty(rows * vocabulary, dtype=dtype)
        logps, entropy = weight.new_empty(n, dtype=dtype), weight.new_empty(n, dtype=dtype)
        loss = weight.new_zeros((), dtype=dtype)
        needs_grad = ctx.needs_input_grad[:3]
        shapes = (hidden.shape, weight.shape, weight.shape[:1])
        grads = [weight.new_zeros(s, dtype=dtype) if w else None for w, s in zip(needs_grad, shapes, strict=True)]
        for chunk in chunks(n, max(rows, 1)):
            tile = buffer[: (chunk.stop - chunk.start) * vocabulary].view(-1, vocabulary)
            logps[chunk], entropy[chunk], total, slope = _exponentials(head, hidden[chunk], tokens[chunk], tile)
            with torch.enable_grad():
                leaf = logps[chunk].detach().requires_grad_()
                chunk_loss = loss_of(leaf, chunk).sum()
                (grad,) = torch.autograd.grad(chunk_loss, leaf)
            loss += chunk_loss.detach()
            _add_gradients(head, hidden[chunk], tokens[chunk], tile, total, slope, grad / temperature, chunk, grads)
        types = (hidden.dtype, weight.dtype, dtype if bias is None else bias.dtype)
        ctx.gradients = [None if g is None else g.to(t) for g, t in zip(grads, types, strict=True)]
        ctx.mark_non_differentiable(logps, entropy)
        return loss, logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.gradients is None:
            raise RuntimeError("linear_token_loss holds its gradients for one backward pass")
        gradients, ctx.gradients = ctx.gradients, None
        return *(None if g is None else g.mul_(grad) for g in gradients), *(None,) * 4


def _tile_rows(weight: Tensor) -> int:
    on_cpu, vocabulary = weight.device.type == "cpu", weight.shape[0]
    fewest, most = ELEMENTS_CPU if on_cpu else ELEMENTS_ACCELERATOR
    rows = max(LEAST_ROWS_CPU if on_cpu else LEAST_ROWS_ACCELERATOR, fewest // vocabulary)
    return max(1, min(rows, most // vocabulary))


def _exponentials(
    head: Projection, hidden: Tensor, tokens: Tensor, tile: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Fill the tile with ``exp(logit - largest)``: log-probs, entropies, sums of the tile, slope of a soft cap."""
    head.fill(tile, hidden)
    slope = head.cap_slope(tile)
    top = tile.amax(dim=1, keepdim=True)
    token_logit = tile.gather(1, tokens[:, None]) - top
    total, centred = torch.zeros_like(top), torch.zeros_like(top)
    for columns in chunks(tile.shape[1], tile_columns(len(tile), head.weight_VH)):
        block = tile[:, columns].sub_(top)
        shifted = block.clone()
        centred += shifted.mul_(block.exp_()).sum(dim=1, keepdim=True)
        total += block.sum(dim=1, keepdim=True)
    log_total = total.log()
    return (token_logit - log_total)[:, 0], (log_total - centred / total)[:, 0], total, slope


def _add_gradients(
    head: Projection,
    hidden: Tensor,
    tokens: Tensor,
    tile: Tensor,
    total: Tensor,
    slope: Tensor | None,
    grad: Tensor,
    chunk: slice,
    grads: list[Tensor | None],
) -> None:
    """Turn the tile into the gradient of the logits, and that into those of hidden states, weight and bias."""
    d_hidden, d_weight, d_bias = grads
    scale = (-grad[:, None]) / total
    for columns in chunks(tile.shape[1], tile_columns(len(tile), head.weight_VH)):
        block = tile[:, columns].mul_(scale)
        where, inside = locate(tokens, columns)
        block.scatter_add_(1, where, torch.where(inside, grad[:, None], 0.0))
        if slope is not None:
            block.mul_(slope[:, columns])
        if d_hidden is not None:
            add_matmul(d_hidden[chunk], block, head.weight_VH[columns])
        if d_weight is not None:
            add_matmul(d_weight[columns], block.T, hidden)
        if d_bias is not None:
            d_bias[columns] += block.sum(dim=0)

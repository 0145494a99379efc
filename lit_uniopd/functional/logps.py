"""Log-probs of given tokens, from logits or straight from hidden states.

At a vocabulary of 152k the logits of one long answer are larger than the model, so ``linear_token_logps`` walks over
the output projection in tiles that are made, used and overwritten. How the gradient is kept depends on the head:

* trained head: keep hidden states and one log-sum-exp per token, make each tile again in the backward pass
  (4 matrix products instead of 3);
* frozen head (LoRA, say): the gradient of a token's log-prob by its hidden state is ``W[token] - E_p[W]``, which the
  forward pass gets for one more product; the backward pass only scales it (2 products).
"""

from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lit_uniopd.functional.divergence import divergence, topk_forward_kl, topk_mass
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

__all__ = ["divergence", "linear_token_logps", "sequence_logps", "token_logps", "topk_forward_kl", "topk_mass"]

CHUNK_TOKENS = 1024
"""Rows of a tile. Its columns follow from the number of elements that it may have, so neither the vocabulary's size nor
further tokens cost memory: the buffers of the matrix product, too, follow from the shape of the tile."""


def token_logps(logits_BTV: Tensor, tokens_BT: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probs ``[B, T]`` of tokens, in nats, float32 or better.

    The reference for ``linear_token_logps`` and the way for logits that exist anyway.

    Args:
        logits_BTV: Logits at the positions that predict the tokens (already shifted).
        tokens_BT: Token ids.
        temperature: Divides the logits.

    Raises:
        ValueError: if the shapes do not fit, a token id is outside the vocabulary, or the temperature is not positive.

    Example:
        >>> logits_BTV = torch.tensor([[[1.0, 1.0, 2.0]]]).log()
        >>> token_logps(logits_BTV, torch.tensor([[2]])).exp()
        tensor([[0.5000]])
    """
    check_positive(temperature=temperature)
    check_tokens(tokens_BT, logits_BTV.shape[:-1], logits_BTV.shape[-1], "logits_BTV")
    scaled = logits_BTV.to(math_dtype(logits_BTV)) / temperature
    return torch.log_softmax(scaled, dim=-1).gather(-1, tokens_BT.unsqueeze(-1)).squeeze(-1)


@overload
def linear_token_logps(
    hidden_BTH: Tensor,
    weight_VH: Tensor,
    tokens_BT: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    return_entropy: Literal[False] = False,
) -> Tensor: ...


@overload
def linear_token_logps(
    hidden_BTH: Tensor,
    weight_VH: Tensor,
    tokens_BT: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    return_entropy: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def linear_token_logps(
    hidden_BTH: Tensor,
    weight_VH: Tensor,
    tokens_BT: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    return_entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probs of tokens from hidden states, without ever holding ``[B, T, V]`` logits; gradients are exact.

    ``log softmax(softcap(hidden @ weight.T + bias) / temperature)[token]``. Matrix products run in the weight's type
    (autocast's where it is on), everything after them in float32, or float64 for float64 weights.

    Args:
        hidden_BTH: Last hidden states at the positions that predict the tokens; flattened ``[N, H]`` is fine, and
            cheaper: leave padding out before the call.
        weight_VH: Output projection. Whether it requires grad decides what is kept for the backward pass.
        tokens_BT: Token ids, shaped like ``hidden_BTH`` without its last dimension.
        bias_V: Bias of the projection.
        softcap: Gemma 2's ``cap * tanh(logits / cap)``.
        temperature: Divides the (capped) logits.
        chunk_tokens: Tokens per tile.
        return_entropy: Also return the entropy of the whole distribution, in nats, without gradient.

    Returns:
        Log-probs shaped like ``tokens_BT``; with ``return_entropy`` a pair with the entropies.

    Raises:
        ValueError: if shapes do not fit, a token id is outside the vocabulary, or a number is not positive.

    Example:
        >>> hidden_BTH, weight_VH = torch.eye(2)[None], torch.tensor([[1.0, 2.0], [1.0, 6.0]]).log()
        >>> linear_token_logps(hidden_BTH, weight_VH, torch.tensor([[0, 1]])).exp()  # 1 / (1 + 1) and 6 / (2 + 6)
        tensor([[0.5000, 0.7500]])
    """
    head = Projection(weight_VH, bias_V, softcap, temperature)
    head.check(hidden_BTH)
    check_positive(chunk_tokens=chunk_tokens)
    check_tokens(tokens_BT, hidden_BTH.shape[:-1], weight_VH.shape[0], "hidden_BTH")
    dtype, device = head.compute_dtype(), weight_VH.device.type
    hidden, weight, bias = hidden_BTH.flatten(0, -2).to(dtype), weight_VH.to(dtype), bias_V
    if not torch.is_grad_enabled():  # a Function sees requires_grad of its inputs even under no_grad
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    with torch.autocast(device, enabled=False):
        logps, entropy = _LinearTokenLogps.apply(
            hidden, weight, bias, tokens_BT.flatten(), softcap, temperature, chunk_tokens, return_entropy
        )
    logps = logps.view(tokens_BT.shape)
    return (logps, entropy.view(tokens_BT.shape)) if return_entropy else logps


def sequence_logps(token_logps_BT: Tensor, mask_BT: Tensor, *, average: bool) -> Tensor:
    """Sum or mean ``[B]`` of the log-probs under the mask.

    An empty response gives 0. What stands outside the mask has no influence, infinities and NaN included.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> logps_BT, mask_BT = torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[True, True, False]])
        >>> sequence_logps(logps_BT, mask_BT, average=False), sequence_logps(logps_BT, mask_BT, average=True)
        (tensor([-3.]), tensor([-1.5000]))
    """
    if token_logps_BT.shape != mask_BT.shape:
        raise ValueError(f"mask_BT has shape {tuple(mask_BT.shape)}, token_logps_BT {tuple(token_logps_BT.shape)}")
    mask = mask_BT.bool()
    total = torch.where(mask, token_logps_BT.to(math_dtype(token_logps_BT)), 0.0).sum(dim=1)
    return total / mask.sum(dim=1).clamp(min=1) if average else total


def _scan(
    head: Projection, hidden: Tensor, tokens: Tensor, buffer: Tensor, width: int, *, keep_slope: bool, entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One pass over the vocabulary with a running maximum: token logit, log-sum-exp, entropy, d logp / d hidden."""
    n, dtype = len(tokens), buffer.dtype
    top = hidden.new_full((n, 1), torch.finfo(dtype).min, dtype=dtype)  # finite, so that 0 * top below stays 0
    total, token_logit, centred = (torch.zeros_like(top) for _ in range(3))
    expected = hidden.new_zeros(hidden.shape if keep_slope else 0, dtype=dtype)
    for columns in chunks(head.weight_VH.shape[0], width):
        tile = head.fill(buffer[: n * (columns.stop - columns.start)].view(n, -1), hidden, columns)
        where, inside = locate(tokens, columns)
        token_logit = torch.where(inside, tile.gather(1, where), token_logit)
        slope = head.cap_slope(tile) if keep_slope else None
        new_top = torch.maximum(top, tile.amax(dim=1, keepdim=True))
        decay = (top - new_top).exp()
        tile.sub_(new_top)
        if entropy:
            shifted = tile.clone()
            centred = decay * (centred + (top - new_top) * total)
            centred += shifted.mul_(tile.exp_()).sum(dim=1, keepdim=True)
        else:
            tile.exp_()
        total, top = total * decay + tile.sum(dim=1, keepdim=True), new_top
        if keep_slope:
            expected.mul_(decay)
            add_matmul(expected, tile if slope is None else tile.mul_(slope), head.weight_VH[columns])
    if keep_slope:
        token_weight = head.weight_VH[tokens].to(dtype)
        slope = head.cap_slope(token_logit)
        token_weight = token_weight if slope is None else token_weight.mul_(slope)
        expected = token_weight.sub_(expected.div_(total)).div_(head.temperature)
    log_total = total.log()
    return token_logit[:, 0], (log_total + top)[:, 0], (log_total - centred / total)[:, 0], expected


class _LinearTokenLogps(Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        softcap: float | None,
        temperature: float,
        chunk_tokens: int,
        return_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        head = Projection(weight, bias, softcap, temperature)
        n, dtype = len(tokens), math_dtype(weight)
        rows = min(chunk_tokens, n)
        width = tile_columns(rows, weight)
        trained = any(ctx.needs_input_grad[1:3])
        frozen = ctx.needs_input_grad[0] and not trained
        buffer = weight.new_empty(rows * width, dtype=dtype)
        logps, lse, entropy = (weight.new_empty(n, dtype=dtype) for _ in range(3))
        slope = torch.empty_like(hidden) if frozen else hidden.new_empty(0)
        for chunk in chunks(n, max(rows, 1)):
            token_logit, lse[chunk], entropy[chunk], chunk_slope = _scan(
                head, hidden[chunk], tokens[chunk], buffer, width, keep_slope=frozen, entropy=return_entropy
            )
            logps[chunk] = token_logit - lse[chunk]
            if frozen:
                slope[chunk] = chunk_slope
        ctx.head, ctx.tiles, ctx.frozen = (softcap, temperature), (rows, width), frozen
        if frozen:
            ctx.save_for_backward(slope)
        elif trained:
            ctx.save_for_backward(hidden, weight, bias, tokens, lse)
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.frozen:
            (slope,) = ctx.saved_tensors
            return (slope * grad[:, None]).to(slope.dtype), *(None,) * 7
        hidden, weight, bias, tokens, lse = ctx.saved_tensors
        grads = _trained_backward(Projection(weight, bias, *ctx.head), hidden, tokens, lse, grad, ctx)
        return *grads, *(None,) * 5


def _trained_backward(
    head: Projection, hidden: Tensor, tokens: Tensor, lse: Tensor, grad: Tensor, ctx: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Make each tile of probabilities again, and turn it into gradients.

    The vocabulary is the outer loop: a block of the weight's gradient is summed over all tokens while it is in the
    cache, and written once, however short the chunks are.
    """
    weight, dtype, (rows, width) = head.weight_VH, lse.dtype, ctx.tiles
    buffer = lse.new_empty(rows * width)
    needs_grad = ctx.needs_input_grad[:3]
    d_hidden = hidden.new_zeros(hidden.shape, dtype=dtype) if needs_grad[0] else None
    # The first chunk of tokens writes it: zeros would only be read again.
    d_weight = (torch.empty_like(weight) if len(tokens) else torch.zeros_like(weight)) if needs_grad[1] else None
    d_bias = weight.new_zeros(weight.shape[:1], dtype=dtype) if needs_grad[2] else None
    grad, lse = (grad / head.temperature)[:, None], lse[:, None]
    for columns in chunks(weight.shape[0], width):
        block = None if d_weight is None else d_weight[columns]
        total = block if block is None or block.dtype == dtype else torch.zeros_like(block, dtype=dtype)
        for chunk in chunks(len(tokens), max(rows, 1)):
            n = chunk.stop - chunk.start
            tile = head.fill(buffer[: n * (columns.stop - columns.start)].view(n, -1), hidden[chunk], columns)
            slope = head.cap_slope(tile)
            tile.sub_(lse[chunk]).exp_().mul_(-grad[chunk])
            where, inside = locate(tokens[chunk], columns)
            tile.scatter_add_(1, where, torch.where(inside, grad[chunk], 0.0))
            tile = tile if slope is None else tile.mul_(slope)
            if d_hidden is not None:
                add_matmul(d_hidden[chunk], tile, weight[columns])
            if total is not None:
                add_matmul(total, tile.T, hidden[chunk], first=chunk.start == 0)
            if d_bias is not None:
                d_bias[columns] += tile.sum(dim=0)
        if block is not None and total is not None and total is not block:
            block.copy_(total)
    d_hidden = None if d_hidden is None else d_hidden.to(hidden.dtype)
    return d_hidden, d_weight, None if d_bias is None or head.bias_V is None else d_bias.to(head.bias_V.dtype)

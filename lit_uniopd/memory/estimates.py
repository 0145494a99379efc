"""Bytes that follow from a model's dimensions: the KV cache of a rollout, the activations of a micro-batch.

docs/memory.md derives the formulas and says how far they are from what was measured. Extra words: a *unit* is one
number per token; products of matrices run in ``matmul`` bytes, the residual stream in ``residual`` bytes.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from lit_uniopd.functional.logps import CHUNK_TOKENS
from lit_uniopd.functional.projection import tile_elements
from lit_uniopd.policy.backbone import body_of, layer_configs, unwrap
from lit_uniopd.policy.cascade_attention import worth_sharing
from lit_uniopd.policy.shared_prefix import why_not_packed
from lit_uniopd.sampling.decode_loop import GrowingLayer


@dataclass(frozen=True)
class Dimensions:
    """What the formulas read off a decoder."""

    layers: int
    hidden: int
    queries: int
    """Heads times their width."""
    keys: int
    """Key heads times their width: fewer than queries under grouped-query attention."""
    heads: int
    vocabulary: int
    inner: int
    """Width of the MLP; for a mixture of experts, of all experts that a token visits."""
    experts: int
    """Experts that a token visits; 0: the layers are dense."""
    gated: bool
    """The MLP multiplies two branches (Llama, Qwen, Gemma) rather than being one (GPT-2)."""
    qk_norm: bool
    """Queries and keys are normalised (Qwen3)."""
    windows: tuple[int | None, ...]
    """Of each layer that caches keys: its sliding window. None: it sees everything."""
    eager: bool
    """Attention scores are kept, rather than recomputed by a fused kernel."""
    shares: bool
    """Answers can be decoded against one cache of their prompt, as far as the config tells."""


@dataclass(frozen=True)
class Numerics:
    """In what types a model computes, and what of it is trained."""

    matmul: int
    """Bytes of what matrix products read: 2 under bf16-mixed or with bfloat16 weights, else 4."""
    residual: int
    """Bytes of the stream between layers: those of the weights that were not quantised."""
    autocast: bool = False
    """Inputs of products are cast one by one, so layers that share an input keep a copy each."""
    trained: bool = False
    """The weights themselves, not adapters."""
    adapter: int = 4
    """Bytes of the adapters."""
    adapter_inputs: int = 0
    """Units that a layer's adapters read, summed over adapters; 0: there are none."""
    adapter_ranks: int = 0
    """The same of their ranks."""


def dimensions(model: nn.Module) -> Dimensions:
    """Read a model, loaded or on the meta device."""
    base = unwrap(model)
    config: Any = base.config.get_text_config(decoder=True)
    # Of the widest layer where layers differ; none without attention.
    layers = layer_configs(config)
    heads = max(getattr(layer, "num_attention_heads", None) or 1 for layer in layers)
    key_heads = max(getattr(layer, "num_key_value_heads", None) or heads for layer in layers)
    width = max(getattr(layer, "head_dim", None) or config.hidden_size // heads for layer in layers)
    visited = getattr(config, "num_experts_per_tok", None) or 0
    inner = getattr(config, "moe_intermediate_size", None) if visited else None
    inner = inner or max(_inner_width(layer) for layer in layers) or 4 * config.hidden_size
    names = {name.rpartition(".")[2] for name, _ in body_of(model).named_modules()}
    cached = [layer for layer in DynamicCache(config=base.config).layers if isinstance(layer, DynamicLayer)]
    return Dimensions(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        queries=heads * width,
        keys=key_heads * width,
        heads=heads,
        vocabulary=config.vocab_size,
        inner=inner * max(visited, 1),
        experts=visited,
        gated=bool(names & {"gate_proj", "gate_up_proj", "w3", "experts"}),
        qk_norm=bool(names & {"q_norm", "q_layernorm"}),
        windows=tuple(
            layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None for layer in cached
        ),
        eager=config._attn_implementation == "eager",
        shares=why_not_packed(model, 0) is None,
    )


def _inner_width(config: Any) -> int:
    """Of a layer's MLP; 0 if the config does not say. Gemma 3n lists one for each layer."""
    width = getattr(config, "intermediate_size", None) or 0
    return max(width) if isinstance(width, list | tuple) else width


def numerics(model: nn.Module, *, autocast: bool) -> Numerics:
    """Read a model as it is loaded.

    Args:
        model: loaded or on the meta device, with or without adapters.
        autocast: whether it runs in bf16-mixed or 16-mixed.
    """
    weight: Any = unwrap(model).get_input_embeddings().weight
    layers = max(1, unwrap(model).config.get_text_config(decoder=True).num_hidden_layers)
    # Of PEFT's layers, by the name of their parameters: adapters of a vision tower see other tokens.
    adapters: list[Any] = [
        parameter
        for name, parameter in body_of(model).named_parameters()
        if ".lora_A." in name and "visual" not in name and "vision" not in name
    ]
    return Numerics(
        matmul=2 if autocast else weight.element_size(),
        residual=weight.element_size(),
        autocast=autocast,
        trained=weight.requires_grad,
        adapter=adapters[0].element_size() if adapters else 4,
        adapter_inputs=sum(a.shape[1] for a in adapters) // layers,
        adapter_ranks=sum(a.shape[0] for a in adapters) // layers,
    )


# --- rollout ---


def cached_positions(prompt: int, new: int, window: int | None = None) -> int:
    """Positions that one row's buffers hold when its last token is drawn: what ``GrowingLayer`` has room for."""
    used = prompt + new - 1  # the last token is not read any more
    if window is not None:
        return min(used, window)
    room = prompt + GrowingLayer.ROOM
    return room + (GrowingLayer.ROOM + 1) * max(0, ceil((used - room) / (GrowingLayer.ROOM + 1)))


def kv_cache_bytes(
    dims: Dimensions, types: Numerics, *, rows: int, prompt: int, new: int, prompts: int = 0, cuda: bool = False
) -> int:
    """Keys and values of a rollout in which every row is as long as it may be.

    ``rows x positions x keys x (bytes of a key + bytes of a value)``, summed over layers; those of a prompt once where
    its answers share them (``cascade.worth_sharing``). Under autocast rotated keys stay in the type of the residual
    stream.

    Args:
        dims: of the model that writes.
        types: of the same.
        rows: answers written at the same time.
        prompt: tokens of the longest prompt.
        new: tokens of the longest answer.
        prompts: that these answers belong to. 0: each to its own.
        cuda: whether the device is a GPU.
    """
    prompts = prompts or rows
    position = dims.keys * (max(types.residual, types.matmul) + types.matmul)
    case = {"prompts": prompts, "rows": rows, "length": prompt, "new": new}
    seen_whole = all(window is None or window >= prompt + new for window in dims.windows)
    if (
        dims.shares
        and seen_whole
        and worth_sharing(**case, position_bytes=2 * dims.keys * types.residual, cpu=not cuda)
    ):
        answer = cached_positions(1, new - 1) if new > 1 else 0
        return len(dims.windows) * (prompts * prompt + rows * answer) * position
    return rows * sum(cached_positions(prompt, new, window) for window in dims.windows) * position


def logits_bytes(dims: Dimensions, types: Numerics, rows: int) -> int:
    """What drawing one token for each row takes: logits, their float32 copy, probabilities, and those allowed."""
    return rows * dims.vocabulary * (types.matmul + 3 * 4)


# --- update ---


def layer_units_bytes(dims: Dimensions, types: Numerics, row_length: int = 0) -> int:
    """Bytes per token that one decoder layer keeps for its backward pass."""
    a, r, h, q, k = types.matmul, types.residual, dims.hidden, dims.queries, dims.keys
    norms = 2 * h * (4 + (r if types.trained else 0))
    if dims.qk_norm:
        norms += (q + k) * (4 + (a if types.trained else 0))
    attention = (2 * q + 2 * k) * a + 4 * dims.heads
    if dims.eager:  # keys and values are repeated for every head, and all scores are kept
        attention = 4 * q * a + dims.heads * row_length * (4 if a == 4 else 4 + a)
    mlp = dims.inner * a * (3 if dims.gated else 1) + 2 * dims.experts * h * a
    return norms + attention + mlp + _inputs(dims, types)


def _inputs(dims: Dimensions, types: Numerics) -> int:
    """What linear layers keep of their inputs: for their own gradient, or for that of their adapters."""
    a, r, h = types.matmul, types.residual, dims.hidden
    if types.adapter_inputs:
        a = types.matmul if types.autocast else types.adapter
        ranks = types.adapter_ranks * a
        if types.autocast or types.adapter != r:  # peft casts the input of each adapter by itself
            return types.adapter_inputs * a + ranks
        return (2 * h + dims.inner) * r + ranks
    if not types.trained:
        return 0
    copies = (5 if dims.gated else 4) if types.autocast and r == 4 else 2
    return copies * h * a + dims.inner * a


def layer_inputs_bytes(dims: Dimensions, types: Numerics, tokens: int) -> int:
    """The input of each layer: what checkpointing keeps."""
    return tokens * dims.layers * dims.hidden * types.residual


def saved_bytes(
    dims: Dimensions,
    types: Numerics,
    *,
    tokens: int,
    checkpointing: bool,
    offloading: bool = False,
    row_length: int = 0,
) -> int:
    """What one forward pass keeps for its backward pass, the head excluded.

    With checkpointing, the input of each layer, and all that one layer keeps while it is computed again.

    Args:
        dims: of the model.
        types: of the same.
        tokens: of the micro-batch, padding included.
        checkpointing: whether layers are computed again in the backward pass.
        offloading: whether their inputs are kept on the host: all but that of the one that is computed.
        row_length: tokens of its longest row; matters for eager attention only.
    """
    layer = layer_units_bytes(dims, types, row_length)
    last = dims.hidden * (4 + (types.residual if types.trained else 0))
    if not checkpointing:
        return tokens * (dims.layers * layer + last)
    inputs = layer_inputs_bytes(dims, types, tokens) // (dims.layers if offloading else 1)
    return inputs + tokens * (layer + last)


def working_bytes(dims: Dimensions, types: Numerics, tokens: int) -> int:
    """What a forward or backward pass holds for a moment: the states of one MLP and of its neighbours."""
    return tokens * (3 * dims.inner + 3 * dims.hidden + dims.queries) * types.matmul


ENCODER_TOKENS = 8192
"""Tokens of pictures that vLLM encodes in one pass, at most: what it reads at once, by default."""


def encoder_bytes(config: Any, types: Numerics, *, tokens: int) -> int:
    """What vLLM holds of pictures: their features, and the states of one layer of the encoder.

    Args:
        config: of the model; 0 for one that reads no pictures.
        types: in which it computes.
        tokens: of all prompts that it reads; all of them may be pictures.
    """
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return 0
    width: int = getattr(vision, "embed_dim", None) or vision.hidden_size  # Qwen2-VL's other one is that of its output
    inner: int = getattr(vision, "intermediate_size", None) or 4 * width
    patches = (getattr(vision, "spatial_merge_size", None) or 1) ** 2  # to a token
    states = patches * (3 * inner + 4 * width)
    return min(tokens, ENCODER_TOKENS) * (states + config.get_text_config().hidden_size) * types.matmul


def head_bytes(dims: Dimensions, types: Numerics, *, tokens: int, cuda: bool, training: bool) -> int:
    """What `functional.linear_token_logps` needs: hidden states, one tile of logits, a trained head's gradient.

    The gradient is made anew for each micro-batch and then added; under autocast the weight is copied too.
    """
    tile = min(tile_elements(cpu=not cuda), min(tokens, CHUNK_TOKENS) * dims.vocabulary)
    states = tokens * dims.hidden * types.matmul * (2 if training else 1)
    weight = dims.vocabulary * dims.hidden
    gradient = weight * (types.residual + (4 if types.autocast else 0)) if training and types.trained else 0
    return 4 * tile + states + gradient


def autocast_copies_bytes(model: nn.Module, dims: Dimensions, *, checkpointing: bool) -> int:
    """16-bit copies of float32 matrices, trained or not, that autograd keeps for the gradients of their inputs.

    Lightning switches autocast's own cache off, so they are gone after the backward pass; with checkpointing they are
    those of one layer.
    """
    matrices = [p for m in body_of(model).modules() if not isinstance(m, nn.Embedding) for p in m.parameters(False)]
    size = sum(2 * p.numel() for p in matrices if p.dtype == torch.float32 and p.ndim > 1)
    return size // dims.layers if checkpointing else size

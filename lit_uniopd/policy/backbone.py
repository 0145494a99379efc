"""The two halves of a language model: the body that makes hidden states, and the head that makes logits.

Log-probs never need ``[B, T, V]`` logits at once, so losses, scoring and sampling call the halves themselves.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_uniopd.errors import UserError


@dataclass(frozen=True, slots=True)
class OutputHead:
    """``logits = softcap(scale * hidden @ weight.T + bias)``: what transformers' models do after their last layer."""

    weight_VH: Tensor
    bias_V: Tensor | None
    scale: float
    """Granite divides its logits, Cohere multiplies them."""
    softcap: float | None
    """Gemma 2 and RecurrentGemma: ``cap * tanh(logits / cap)``."""

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits ``[..., V]`` of hidden states ``[..., H]``."""
        out = nn.functional.linear(hidden.to(self.weight_VH.dtype) * self.scale, self.weight_VH, self.bias_V).float()
        return out if self.softcap is None else self.softcap * torch.tanh(out / self.softcap)


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, or the model itself. Injected adapters stay active."""
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if get_base_model is not None else model  # type: ignore[return-value]


def body_of(model: nn.Module) -> nn.Module:
    """The submodule that maps token ids (and pictures) to ``last_hidden_state``, of text-only and multimodal models."""
    base = unwrap(model)
    body = base.base_model
    if body is base:  # Llama 4 and Mllama name their body otherwise than they say
        body = getattr(base, "model", base)
    if body is base:
        raise UserError(f"{type(base).__name__} is not a causal or image-text model; set its `path` to one that is.")
    return body


def head_of(model: nn.Module) -> OutputHead:
    """The output projection, read anew on each call: a sharded or replaced weight must never be cached.

    Raises:
        UserError: if the head is not a plain linear layer (an adapter on it, say).
    """
    base = unwrap(model)
    layer = base.get_output_embeddings()
    if type(layer) is not nn.Linear:
        raise UserError(
            f"The output head of {type(base).__name__} is a {type(layer).__name__}, not a plain linear layer: "
            "take lm_head out of lora.target_modules and leave it unquantised."
        )
    config = base.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier", "output_multiplier"):  # Cohere, Falcon H1, Muse
        scale *= getattr(config, name, None) or 1.0
    scaling = getattr(config, "logits_scaling", None) or 1.0
    scale *= scaling if config.model_type == "hyperclovax" else 1.0 / scaling
    softcap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    return OutputHead(layer.weight, layer.bias, scale, softcap)


def reads_prompts_both_ways(model: nn.Module) -> bool:
    """Whether every token of a prompt attends to all of it: a prefix language model."""
    return unwrap(model).config.model_type == "paligemma"


@torch.no_grad()
def check_head(model: nn.Module) -> None:
    """Compare body + head with the model's own logits on a few tokens, and without the last, once at load.

    Raises:
        UserError: if the model does something else between its last layer and its logits, or looks ahead.
    """
    if head_of(model).weight_VH.is_meta:  # there are no values to compare
        return
    ids = torch.arange(4, device=head_of(model).weight_VH.device)[None] % head_of(model).weight_VH.shape[0]
    was_training = model.training
    model.eval()
    # To a prefix language model these are tokens of an answer, which alone must not look ahead.
    types = {"token_type_ids": torch.ones_like(ids)} if reads_prompts_both_ways(model) else {}
    hidden = body_of(model)(input_ids=ids, use_cache=False, **types).last_hidden_state
    expected = model(input_ids=ids, use_cache=False, **types).logits.float()
    types = {name: value[:, :-1] for name, value in types.items()}
    prefix = body_of(model)(input_ids=ids[:, :-1], use_cache=False, **types).last_hidden_state
    model.train(was_training)
    precise = hidden.dtype in (torch.float32, torch.float64)
    change = (hidden[:, :-1].float() - prefix.float()).norm() / prefix.float().norm().clamp(min=1e-30)
    if change > (0.01 if precise else 0.1):
        raise UserError(
            f"{type(unwrap(model)).__name__} looks at later tokens, so it has no log-probs of a next one; choose a "
            "causal model (some are made causal by `is_decoder` in their config)."
        )
    fits = hidden.shape[-1] == head_of(model).weight_VH.shape[1]  # not where a projection stands between
    actual = head_of(model).logits(hidden) if fits else torch.full_like(expected, torch.inf)
    # Low precision may round in another order. In float32 also a cap that is far above these logits is seen.
    if (actual - expected).abs().max() > (1e-4 if precise else 0.05) * expected.abs().max().clamp(min=1e-3):
        raise UserError(
            f"{type(unwrap(model)).__name__} changes its logits after the output layer in a way lit_uniopd does not "
            "know, so log-probs would be wrong; choose another model."
        )


def layer_configs(config: Any) -> list[Any]:
    """The config of each layer where layers differ (Gemma 4's head width), which refuses to be asked as a whole."""
    return list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config]


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of the language model: its largest list of modules."""
    body: Any = body_of(model)
    lists = [module for module in getattr(body, "language_model", body).modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()), default=[]))

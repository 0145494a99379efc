"""Low-rank adapters: around a model, and merged into its weights."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_uniopd.distributed.sharding import weights_in_turn
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.policy.args import LoraArgs


def has_adapters(model: nn.Module) -> bool:
    """Whether a model is PEFT's. PEFT takes a second to import, and whoever made adapters has done so."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def with_adapters(model: PreTrainedModel, args: LoraArgs, flag: str, without: Sequence[str] = ()) -> nn.Module:
    """A PEFT model with adapters, in float32, around a frozen one.

    Args:
        model: the base.
        args: of the adapters.
        flag: the option that they came from, for messages.
        without: names of modules that get none.

    Raises:
        UserError: naming ``flag``, if no layer has the names in ``args``.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=args.target_modules,
        exclude_modules=list(without) or None,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"--{flag}.lora.target_modules {args.target_modules} fit no layer ({first_line(error)}); "
            "name layers of the model, or all-linear."
        ) from error


@torch.no_grad()
def merged_weights(base: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Names and weights of the base model, layer by layer as of ``weights_in_turn``, LoRA products added to them."""
    layers: dict[str, Any] = {
        f"{name}.weight": layer for name, layer in base.named_modules() if getattr(layer, "get_delta_weight", None)
    }
    for weights in weights_in_turn(base):
        merged = {name.replace(".base_layer.", "."): w for name, w in weights.items() if ".lora_" not in name}
        for name in merged.keys() & layers.keys():
            # Added before rounding: a step of training is often smaller than the spacing of bfloat16 at a weight.
            delta, weight = layers[name].get_delta_weight("default"), merged[name]
            merged[name] = (weight.to(delta.dtype) + delta).to(weight.dtype)
        yield merged


def merged_state(base: nn.Module) -> dict[str, Tensor]:
    """All ``merged_weights``; sharded ones must be gathered."""
    return {name: weight for weights in merged_weights(base) for name, weight in weights.items()}

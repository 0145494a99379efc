"""Low-rank adapters: around a model, and merged into its weights."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_uniopd.distributed.sharding import weights_of
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.policy.args import LoraArgs


def with_adapters(model: PreTrainedModel, args: LoraArgs, flag: str) -> nn.Module:
    """A PEFT model with adapters, in float32, around a frozen one.

    Raises:
        UserError: naming ``flag``, if no layer has the names in ``args``.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=args.target_modules,
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
def merged_state(base: nn.Module) -> dict[str, Tensor]:
    """The base model's state dict with every LoRA product added to its weight; sharded weights must be gathered."""
    deltas: dict[str, Tensor] = {}
    for name, layer in base.named_modules():
        get_delta = getattr(layer, "get_delta_weight", None)
        if get_delta is not None:
            deltas[f"{name}.weight"] = get_delta("default")
    merged = {}
    for name, tensor in weights_of(base).items():
        if ".lora_" in name:
            continue
        clean = name.replace(".base_layer.", ".")
        # Added before rounding: a step of training is often smaller than the spacing of bfloat16 at a weight.
        summed = tensor.to(deltas[clean].dtype) + deltas[clean] if clean in deltas else tensor
        merged[clean] = summed.to(tensor.dtype)
    return merged

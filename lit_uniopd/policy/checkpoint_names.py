"""Weights as the published checkpoints of a model have them, which other programs read."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from lit_uniopd.policy.lora import merged_weights


@torch.no_grad()
def checkpoint_weights(base: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of a model as ``save_pretrained`` would write them, adapters merged, layer by layer.

    transformers holds the experts of a layer in one tensor, and some parts under other names, than checkpoints do. At
    most one layer is held twice.

    Args:
        base: a transformers model without the wrapper of adapters; its weights are whole.
    """
    for _, weights in groupby(merged_weights(base), key=lambda weight: layer_of(weight[0])):
        yield from revert_weight_conversion(base, dict(weights)).items()


def layer_of(name: str) -> str:
    """What a parameter's name has up to its first number, which is its layer's; all of the rest has none."""
    parts = name.split(".")
    numbers = [i for i, each in enumerate(parts) if each.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else ""

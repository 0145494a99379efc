"""Weights as the published checkpoints of a model have them, which other programs read."""

from collections.abc import Iterator
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
        base: a transformers model without the wrapper of adapters; sharded or not, see ``weights_in_turn``.
    """
    for weights in merged_weights(base):
        yield from revert_weight_conversion(base, weights).items()

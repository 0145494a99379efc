"""`torch.compile` of a model's layers, part by part and in place, for passes with gradients.

What is compiled are the modules that a layer is made of (attention, MLP, norms), not the layer around them: gradient
checkpointing repeats a layer's forward pass, and FSDP's hooks gather its weights, outside of any compiled code. Nothing
is renamed and nothing wrapped, so that state dicts, adapters, exports and shards are what they were.

Attention over packed rows is cut out (`packed_attention` makes tables whose shapes are those of one batch, each of
which would be compiled anew); what is before and behind it in its module is compiled for any length.

Passes without gradients run as ever. In a rollout every token is another length, and rows leave while others go on.
"""

from collections.abc import Callable
from functools import cache, wraps
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from lit_uniopd.errors import UserError
from lit_uniopd.policy.backbone import layers_of
from lit_uniopd.policy.shared_prefix import ATTENTION, packed_attention
from lit_uniopd.utils.compile_cache import separate_compile_cache


def compile_blocks(model: nn.Module, flag: str) -> None:
    """Compile the parts of every layer; their code is made when a pass with gradients first needs it.

    To be called when adapters are in place, and before the model is sharded.

    Args:
        model: causal or image-text model, or a PEFT model around one; changed in place.
        flag: the option that it came from, for messages.

    Raises:
        UserError: naming ``flag``, if the model has no list of layers.
    """
    parts = [part for layer in layers_of(model) for part in layer.children()]
    if not parts:
        raise UserError(f"--{flag}.compile: {type(model).__name__} has no list of layers; leave it out.")
    separate_compile_cache()
    AttentionInterface.register(ATTENTION, torch.compiler.disable(packed_attention))
    for part in parts:
        # A bound method, so that a deep copy of the module has one of its own.
        part.forward = MethodType(_forward_of(type(part)), part)  # type: ignore[method-assign]


@cache
def _forward_of(kind: type[nn.Module]) -> Callable[..., Any]:
    """The forward pass of a class of modules: compiled where gradients are wanted, else as it is."""
    as_it_is = kind.forward

    @wraps(as_it_is)
    def forward(self: nn.Module, *args: Any, **options: Any) -> Any:
        run = _compiled(as_it_is) if torch.is_grad_enabled() else as_it_is
        return run(self, *args, **options)

    return forward


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)

"""Kernels of the hub in the place of layers: transformers' `use_kernels`.

transformers chooses them for the device and for the mode that a model is in. A policy is loaded on the CPU, and goes to
and from eval mode by its flags (`answering`), so they are chosen once: on the GPU, and among those that have a backward
pass, which serve both modes.
"""

from typing import Any

import torch
from torch import nn
from transformers.utils.import_utils import is_kernels_available

from lit_uniopd.errors import UserError
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.backbone import unwrap


def check_kernels(args: PolicyArgs, flag: str) -> None:
    """Refuse them where there can be none, before anything is loaded.

    Raises:
        UserError: naming ``flag``.
    """
    if not args.use_kernels:
        return
    if not torch.cuda.is_available():
        raise UserError(f"--{flag}.use_kernels takes kernels for GPUs, and there is none here; leave it out.")
    if not is_kernels_available():
        raise UserError(
            f"--{flag}.use_kernels needs the package kernels in a version that this transformers takes; install it by "
            "`pip install 'transformers[kernels]'`, or leave it out."
        )
    others = (f"quantization {args.quantization}", args.quantization != "none"), ("compile", args.compile)
    for option, applies in others:
        if applies:
            raise UserError(f"--{flag}.use_kernels does not go with --{flag}.{option}; leave one of them out.")


def use_hub_kernels(model: nn.Module, flag: str) -> None:
    """Move a model to this process's GPU, and replace the layers for which the hub has kernels.

    Args:
        model: causal or image-text model, or a PEFT model around one; changed in place, and left in train mode.
        flag: the option that it came from, for messages.

    Raises:
        UserError: naming ``flag``, if the weights are still to be read in shards, or the hub cannot be asked.
    """
    base: Any = unwrap(model)
    if next(base.parameters()).is_meta:
        raise UserError(
            f"--{flag}.use_kernels needs whole models; set --trainer.strategy.init_args.read_shards false too."
        )
    base.to(_gpu()).train()
    try:
        base.set_use_kernels(True)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"--{flag}.use_kernels: the hub gave no kernels ({error}); check the network, or leave it out."
        ) from error
    base._use_kernels = False  # else each change of mode would choose anew


def _gpu() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())

"""Is a checkpoint of the model that is about to be overwritten?"""

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lit_uniopd.errors import UserError


def check_same_model(module: nn.Module, checkpoint: dict[str, Any], path: str, flag: str) -> None:
    """Compare a checkpoint with the trained weights of a module; tell if it was made from another model's files.

    Args:
        module: with its policy loaded.
        checkpoint: as ``PolicyModule.on_save_checkpoint`` left it.
        path: where the policy came from.
        flag: the option that the policy came from.

    Raises:
        UserError: if it belongs to another model or another choice of trained weights.
    """
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    saved_shapes = {name: tuple(t.shape) for name, t in checkpoint["state_dict"].items()}
    names = shapes.keys() | saved_shapes.keys()
    differing = sorted(name for name in names if shapes.get(name) != saved_shapes.get(name))
    if differing:
        name = differing[0]
        raise UserError(
            f"--ckpt_path holds another model than --{flag}.path {path}: {name} has shape "
            f"{saved_shapes.get(name, 'none')} there and {shapes.get(name, 'none')} here ({len(differing)} tensors "
            "differ); give the model and the lora settings with which it was made."
        )
    if checkpoint["policy_path"] != path:
        rank_zero_warn(
            f"The checkpoint was made from {checkpoint['policy_path']!r}; this run has {path!r}, and frozen weights "
            "come from that."
        )

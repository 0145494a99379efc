"""Which weights of a model are trained: all, those of its language model, or adapters."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lit_uniopd.errors import UserError
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.backbone import body_of
from lit_uniopd.policy.hub_kernels import check_kernels
from lit_uniopd.policy.lora import with_adapters
from lit_uniopd.policy.multimodal import tower_parameters


def choose_trained(model: PreTrainedModel, args: PolicyArgs, *, trainable: bool, flag: str) -> nn.Module:
    """The model with adapters, if there are any, and with gradients for what is trained.

    Args:
        model: as loaded; changed in place.
        args: say what is trained.
        trainable: False: nothing is.
        flag: the option that ``args`` came from, for messages.

    Raises:
        UserError: naming ``flag``, if the options do not fit the model.
    """
    check_kernels(args, flag)
    if trainable:
        _check_update_options(args, flag)
    untouched: list[str] = []
    if args.freeze_vision:
        tower = tower_parameters(model)
        if not tower:
            raise UserError(
                f"--{flag}.freeze_vision: {type(model).__name__} has no vision tower beside its text; leave it out."
            )
        for parameter in tower.values():
            parameter.requires_grad_(False)
        untouched = tower_modules(model)
    result: nn.Module = model
    if args.lora is not None:
        result = with_adapters(model, args.lora, flag, without=untouched)
    if not trainable:
        result.requires_grad_(False)
    return result


def _check_update_options(args: PolicyArgs, flag: str) -> None:
    """Refuse options of the update that contradict each other."""
    if args.activation_offloading and not args.gradient_checkpointing:
        raise UserError(
            f"--{flag}.activation_offloading keeps the inputs of layers that are computed again; set "
            f"--{flag}.gradient_checkpointing true too."
        )
    if args.compile and args.quantization != "none":
        raise UserError(
            f"--{flag}.compile does not go with --{flag}.quantization {args.quantization}, whose layers have kernels "
            "of their own; leave one of them out."
        )


def tower_modules(model: nn.Module) -> list[str]:
    """Names of the modules outside of the language model: of the vision tower and of the projector behind it."""
    body: Any = body_of(model)
    inside = {id(module) for module in body.language_model.modules()} | {id(body)}
    tower = {id(module) for module in body.modules()} - inside
    return [name for name, module in model.named_modules() if id(module) in tower]

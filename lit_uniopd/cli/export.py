"""A checkpoint as a Hugging Face directory, for `from_pretrained` and vLLM."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from lit_uniopd.distributed.sharded_checkpoint import LOAD_ERRORS, load_sharded
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.loading import reads_images
from lit_uniopd.policy.policy import Policy
from lit_uniopd.utils.checkpoint_directory import is_sharded_checkpoint, newest_checkpoint
from lit_uniopd.utils.new_directory import new_directory
from lit_uniopd.utils.run_directory import CONFIG
from lit_uniopd.utils.strict_yaml import read_yaml

TRAINED = {"student": "model.student", "policy": "model.policy"}
"""Option of the module that holds the trained model -> how users write it."""
NO_UPDATE = {"gradient_checkpointing": False, "activation_offloading": False, "compile": False, "use_kernels": False}
"""Options of the update, which is over, and of GPUs."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    checkpoint: Path
    """That was read."""
    config: Path
    """Of its run."""
    base: str
    """Path of the model that training began with, as the config has it."""
    steps: int
    """Optimizer steps at the checkpoint."""
    images: bool
    """Whether the model reads pictures."""


def export_run(
    source: Path,
    directory: Path,
    *,
    adapter: bool = False,
    dtype: str | None = None,
    model: str | None = None,
    config: Path | None = None,
    extrapolation: float = 0.0,
) -> Exported:
    """Write what a run trained as a Hugging Face directory.

    Args:
        source: a checkpoint or the directory of a run.
        directory: where to write; it must be empty, or not exist.
        adapter: write the LoRA adapter alone.
        dtype: of the written weights. None: as they were held.
        model: where the model that training began with is now. None: where it was.
        config: the run's. None: the one above the checkpoint.
        extrapolation: by how much of the way from the first weights to the trained ones to go on beyond these
            (ExPO, arXiv 2404.16792, where it is alpha).

    Raises:
        UserError: if one of them does not exist or does not fit the others.
    """
    checkpoint = newest_checkpoint(source)
    config = run_config(checkpoint, config)
    args, flag = trained_args(config)
    base = args.path
    if model is not None:
        args = replace(args, path=model)
    if adapter:  # it is the same, whatever the base is held in
        args = replace(args, quantization="none")
    elif args.quantization != "none":
        raise UserError(
            "The run trained adapters on a quantised model, into which they cannot be merged; add --adapter."
        )
    state = read_checkpoint(checkpoint)
    policy = restored(args, trained_weights(state), flag, extrapolation)
    if dtype is not None:
        policy.to(getattr(torch, dtype))
    export(policy, directory, adapter=adapter)
    return Exported(checkpoint, config, base, state["global_step"], reads_images(args, flag))


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds but for the optimizers' states; pickles are not executed.

    Raises:
        UserError: if it is no checkpoint of ours, or damaged.
    """
    if is_sharded_checkpoint(checkpoint):
        return load_sharded(checkpoint, with_optimizers=False)
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return {"state_dict": state["state_dict"], "global_step": state["global_step"]}
    except (*LOAD_ERRORS, TypeError) as error:
        raise UserError(
            f"{checkpoint} is no checkpoint of a run, or damaged ({first_line(error)}); give another."
        ) from error


def trained_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a checkpoint holds of the policy, by the names of its parameters."""
    weights: Mapping[str, Tensor] = state["state_dict"]
    return {name.removeprefix("policy."): tensor for name, tensor in weights.items() if name.startswith("policy.")}


def run_config(checkpoint: Path, config: Path | None = None) -> Path:
    """The config of the run that wrote a checkpoint.

    Args:
        checkpoint: below the run's directory.
        config: where it is, if it is not above the checkpoint.

    Raises:
        UserError: if there is none.
    """
    places = [config] if config is not None else [folder / CONFIG for folder in list(checkpoint.absolute().parents)[:3]]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(f"There is no {CONFIG} of the run that wrote {checkpoint}; name it by --config.")
    return path


def trained_args(path: Path) -> tuple[PolicyArgs, str]:
    """Which model a run trained, from its config, and the option that it came from.

    Raises:
        UserError: if the config names no model.
    """
    settings: Any = read_yaml(path)
    settings = ((settings or {}).get("model") or {}).get("init_args") or {}
    name = next((name for name in TRAINED if settings.get(name)), None)
    if name is None:
        raise UserError(f"{path} names no trained model ({' or '.join(TRAINED.values())}); give another by --config.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--policy", type=PolicyArgs)
    try:
        parsed: Any = parser.instantiate_classes(parser.parse_object({"policy": settings[name]}))
    except ArgumentError as error:
        raise UserError(
            f"{path}: --{TRAINED[name]} cannot be read ({first_line(error)}); give another checkpoint."
        ) from error
    return parsed.policy, TRAINED[name]


def restored(
    args: PolicyArgs, trained: Mapping[str, Tensor], flag: str = "model.policy", extrapolation: float = 0.0
) -> Policy:
    """The policy on the CPU, as it was trained.

    Args:
        args: of the model that training began with.
        trained: what was trained, by the names of the policy's parameters.
        flag: the option that ``args`` came from, for messages.
        extrapolation: by how much of the way from the first weights to the trained ones to go on beyond these.

    Raises:
        UserError: if the weights are those of another model.
    """
    policy = Policy.load(replace(args, **NO_UPDATE), trainable=True, flag=flag)
    parameters = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    names = parameters.keys() | trained.keys()
    shapes = {name: (_shape(trained.get(name)), _shape(parameters.get(name))) for name in names}
    differing = sorted(name for name, (saved, built) in shapes.items() if saved != built)
    if differing:
        saved, built = shapes[differing[0]]
        raise UserError(
            f"The checkpoint is not of --{flag}.path {args.path}: {differing[0]} has shape {saved} there and {built} "
            f"in the model ({len(differing)} tensors differ); name its run's config by --config, or its "
            "model by --model."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_extrapolated(name, parameter, trained[name], extrapolation))
    return policy


def _extrapolated(name: str, first: Tensor, trained: Tensor, extrapolation: float) -> Tensor:
    """``trained + extrapolation * (trained - first)``; of an adapter, whose two matrices make that difference, the
    second matrix is scaled.
    """
    if not extrapolation or ".lora_A." in name:
        return trained
    last = trained.float()
    return last + extrapolation * (last if ".lora_B." in name else last - first.float())


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def export(policy: Policy, directory: Path, *, adapter: bool = False) -> None:
    """Write a policy, adapters merged, or its adapter alone; the directory appears when it is complete.

    Raises:
        UserError: if the directory has something in it, or there is no adapter.
    """
    if adapter and policy.args.lora is None:
        raise UserError("--adapter: this run trained the weights themselves, no adapter; leave --adapter out.")
    with new_directory(directory) as partial:
        (policy.save_adapter if adapter else policy.save)(partial)

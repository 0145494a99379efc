"""``uniopd export``: a checkpoint as a Hugging Face directory, for `from_pretrained` and vLLM."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from lit_uniopd.distributed.sharded_checkpoint import LOAD_ERRORS, is_sharded_checkpoint, load_sharded
from lit_uniopd.errors import UserError
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.policy import Policy
from lit_uniopd.utils.command_parser import CommandParser

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
"""In the directory of every run; it says which model was trained."""
TRAINED = {"student": "model.student", "policy": "model.policy"}
"""Option of the module that holds the trained model -> how users write it."""


def newest_checkpoint(path: Path) -> Path:
    """A checkpoint itself, or the last one below the directory of a run.

    Raises:
        UserError: if there is none.
    """
    if not path.exists() and not is_sharded_checkpoint(path):
        raise UserError(f"{path} does not exist; give a checkpoint or the directory of a run, runs/NAME/version_N.")
    if path.is_file() or is_sharded_checkpoint(path):
        return path
    found = sorted(path.glob("**/*.ckpt"), key=lambda file: (file.stat().st_mtime, file.stem.startswith("last")))
    if not found:
        raise UserError(f"There is no checkpoint below {path}; give a checkpoint or the directory of another run.")
    return found[-1]


def trained_weights(checkpoint: Path) -> dict[str, Tensor]:
    """What a checkpoint holds of the policy, by the names of its parameters; pickles are not executed.

    Raises:
        UserError: if it is no checkpoint of ours, or damaged.
    """
    if is_sharded_checkpoint(checkpoint):
        state = load_sharded(checkpoint, with_optimizers=False)["state_dict"]
    else:
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        except (*LOAD_ERRORS, TypeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{checkpoint} is no checkpoint of a run, or damaged ({reason}); give another.") from error
    return {name.removeprefix("policy."): tensor for name, tensor in state.items() if name.startswith("policy.")}


def trained_args(checkpoint: Path, config: Path | None = None) -> tuple[PolicyArgs, str]:
    """Which model a checkpoint's weights belong to, from its run's config, and the option that it came from.

    Raises:
        UserError: if there is no config, or none that names a model.
    """
    places = [config] if config is not None else [folder / CONFIG for folder in list(checkpoint.absolute().parents)[:3]]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"There is no {CONFIG} of the run that wrote {checkpoint}; name it by --config.")
    settings: Any = yaml.safe_load(found.read_text())
    settings = ((settings or {}).get("model") or {}).get("init_args") or {}
    name = next((name for name in TRAINED if settings.get(name)), None)
    if name is None:
        raise UserError(f"{found} names no trained model ({' or '.join(TRAINED.values())}); give another by --config.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--policy", type=PolicyArgs)
    try:
        parsed: Any = parser.instantiate_classes(parser.parse_object({"policy": settings[name]}))
    except ArgumentError as error:
        raise UserError(
            f"{found}: --{TRAINED[name]} cannot be read ({str(error).splitlines()[0]}); give another checkpoint."
        ) from error
    return parsed.policy, TRAINED[name]


def restored(args: PolicyArgs, trained: Mapping[str, Tensor], flag: str = "model.policy") -> Policy:
    """The policy on the CPU, as it was trained.

    Args:
        args: of the model that training began with.
        trained: what was trained, by the names of the policy's parameters.
        flag: the option that ``args`` came from, for messages.

    Raises:
        UserError: if the weights are those of another model.
    """
    policy = Policy.load(replace(args, gradient_checkpointing=False), trainable=True, flag=flag)
    ours = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    differing = sorted(n for n in ours.keys() | trained.keys() if _shape(ours.get(n)) != _shape(trained.get(n)))
    if differing:
        name = differing[0]
        raise UserError(
            f"The checkpoint is not of --{flag}.path {args.path}: {name} has shape {_shape(trained.get(name))} there "
            f"and {_shape(ours.get(name))} in the model ({len(differing)} tensors differ); name its run's config by "
            "--config, or its model by --model."
        )
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(trained[name])
    return policy


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def export(policy: Policy, directory: Path, *, adapter: bool = False) -> None:
    """Write a policy, adapters merged, or its adapter alone; the directory is there when it is complete.

    Raises:
        UserError: if the directory has something in it, or there is no adapter.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is there already; choose another directory, or remove it.")
    if adapter and policy.args.lora is None:
        raise UserError("--adapter: this run trained the weights themselves, no adapter; leave --adapter out.")
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        (policy.save_adapter if adapter else policy.save)(partial)
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    except OSError as error:
        raise UserError(f"Cannot write {directory} ({error.strerror or error}); choose another directory.") from error


def main(argv: list[str]) -> int:
    """The command line of ``uniopd export``."""
    parser = CommandParser(prog="uniopd export", description=__doc__)
    parser.add_argument("source", metavar="RUN_OR_CHECKPOINT", type=Path, help="runs/NAME/version_N, or a checkpoint")
    parser.add_argument("out", metavar="OUT", type=Path, help="the directory to write")
    parser.add_argument("--adapter", action="store_true", help="write the LoRA adapter alone, as a PEFT directory")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: as the weights were held")
    parser.add_argument("--model", help="where the model that training began with is now, if it was moved")
    parser.add_argument("--config", type=Path, help=f"the run's {CONFIG}, if the checkpoint was moved away from it")
    options = parser.parse_args(argv)
    checkpoint = newest_checkpoint(options.source)
    args, flag = trained_args(checkpoint, options.config)
    if options.model is not None:
        args = replace(args, path=options.model)
    if options.adapter:  # it is the same, whatever the base is held in
        args = replace(args, quantization="none")
    elif args.quantization != "none":
        raise UserError(
            "The run trained adapters on a quantised model, into which they cannot be merged; add --adapter."
        )
    policy = restored(args, trained_weights(checkpoint), flag)
    if options.dtype is not None:
        policy.to(getattr(torch, options.dtype))
    export(policy, options.out, adapter=options.adapter)
    log.info("%s of %s is in %s.", "The adapter" if options.adapter else "The policy", checkpoint, options.out)
    return 0

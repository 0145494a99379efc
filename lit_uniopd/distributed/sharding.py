"""Sharding a policy over ranks by FSDP2, and gathering it where ranks run different numbers of forward passes.

A policy is the root: everything that reads its weights runs in ``policy(lambda: ...)``, before which FSDP gathers
embeddings, head and vision tower; the layers of the language model are gathered one by one as they run. Every rank must
run them equally often. Where that cannot be guaranteed (rollouts, scoring, evaluation: answers differ in length, a rank
may have nothing to do), ``gathered`` fetches all weights once, and forward passes inside communicate nothing.

The vision tower belongs to the root on purpose: a rank whose micro-batch has no picture does not run the tower, so its
layers must not gather anything of their own.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True)
class ShardingArgs:
    """How sharded weights are computed with and kept."""

    param_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Type in which weights are gathered and used; null: the one they are held in."""
    reduce_dtype: Literal["bfloat16", "float32"] | None = None
    """Type in which gradients are summed over ranks; null: that of the weights."""
    cpu_offload: bool = False
    """Keep shards, gradients and optimizer states in the host's memory."""
    accumulate: Literal["whole", "sharded"] = "whole"
    """Gradients between the micro-batches of a step."""

    def policies(self, device: str) -> dict[str, Any]:
        """What ``fully_shard`` takes."""
        param, reduce = (name and getattr(torch, name) for name in (self.param_dtype, self.reduce_dtype))
        # Only CUDA has pinned memory to copy from.
        offload = CPUOffloadPolicy(pin_memory=device == "cuda") if self.cpu_offload else OffloadPolicy()
        return {"mp_policy": MixedPrecisionPolicy(param, reduce), "offload_policy": offload}


def shard(module: nn.Module, layers: Iterable[nn.Module], mesh: DeviceMesh, args: ShardingArgs) -> None:
    """Shard a module over the ranks of a mesh; the layers are gathered one by one, all else with the root.

    Quantised weights are not sharded: they are small and frozen, and their packed bytes cannot be cut anywhere.

    Args:
        module: the root.
        layers: of the module, in the order in which they run.
        mesh: of the ranks that see different data.
        args: types and places.
    """
    quantised = {p for p in module.parameters() if not p.is_floating_point() or hasattr(p, "quant_state")}
    options = {"mesh": mesh, "ignored_params": quantised, **args.policies(mesh.device_type)}
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(module, **options)


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP keeps this module's weights."""
    return isinstance(module, FSDPModule)


def units_of(policy: nn.Module) -> list[FSDPModule]:
    """The modules that FSDP gathers one at a time: the root and the layers."""
    return [module for module in policy.modules() if isinstance(module, FSDPModule)]


@contextmanager
def gathered(policy: nn.Module) -> Iterator[None]:
    """All weights on every rank, in the type they are computed in, without gradients.

    Entering and leaving are collective calls; in between a rank may run any number of forward passes, or none. Does
    nothing inside another ``gathered``, or for a policy that is not sharded.

    Args:
        policy: sharded or not.
    """
    if not is_sharded(policy) or any(_is_gathered(unit) for unit in units_of(policy)):
        yield
        return
    policy(lambda: None)  # in its first pass FSDP decides which module is the root: it must be the policy
    units: list[Any] = units_of(policy)
    with torch.no_grad(), ExitStack() as stack:
        for unit in units:
            unit.unshard()
            stack.callback(unit.reshard)
            stack.enter_context(_without_hooks(unit))
        yield


def _is_gathered(unit: Any) -> bool:
    """Whether ``gathered`` holds this module's weights."""
    return not any(map(_is_fsdp, unit._forward_pre_hooks.values()))


@contextmanager
def _without_hooks(unit: Any) -> Iterator[None]:
    """Remove FSDP's hooks around this module's forward pass: they cost time even if there is nothing to gather."""
    before, after = unit._forward_pre_hooks, unit._forward_hooks
    unit._forward_pre_hooks = OrderedDict((key, hook) for key, hook in before.items() if not _is_fsdp(hook))
    unit._forward_hooks = OrderedDict((key, hook) for key, hook in after.items() if not _is_fsdp(hook))
    try:
        yield
    finally:
        unit._forward_pre_hooks, unit._forward_hooks = before, after


def _is_fsdp(hook: Any) -> bool:
    return getattr(hook, "__module__", "").startswith("torch.distributed.fsdp")


def reshard(module: nn.Module) -> None:
    """Free weights that a forward pass has left gathered, so that parameters are shards again."""
    for unit in units_of(module):
        if not _is_gathered(unit):
            unit.reshard()


def largest_over_ranks(module: nn.Module, number: int) -> int:
    """The largest of a number over all ranks that a module is sharded over. A collective call."""
    meshes = {p.device_mesh for p in module.parameters() if isinstance(p, DTensor)}
    tensor = torch.tensor(number, device=next(iter(meshes)).device_type)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return int(tensor)


@contextmanager
def unsharded(layer: nn.Module) -> Iterator[None]:
    """The weights of one of ``units_of`` on every rank; any other module is left as it is.

    Entering is a collective call, inside of ``policy(...)``.
    """
    if not isinstance(layer, FSDPModule) or not has_shards(layer):
        yield
        return
    layer.unshard()
    try:
        yield
    finally:
        layer.reshard()


def has_shards(module: nn.Module) -> bool:
    """Whether any parameter is a shard now."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def can_gather_in_turn(module: nn.Module) -> bool:
    """Whether layers may be gathered one at a time outside of an update: not shards that the host keeps for a GPU."""
    shards = [parameter for parameter in module.parameters() if isinstance(parameter, DTensor)]
    return bool(shards) and all(shard.device.type == shard.device_mesh.device_type for shard in shards)


def gathered_dtype(module: nn.Module) -> torch.dtype | None:
    """The type in which FSDP gathers the weights of the layers inside; None: the one they are held in."""
    units: list[Any] = units_of(module)
    return units[0]._get_fsdp_state()._mp_policy.param_dtype if units else None


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, without the side effect that FSDP's has: gathered weights stay gathered."""
    if not any(isinstance(module, FSDPModule) for module in model.modules()):
        return dict(model.state_dict())
    buffers = {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }
    return {**dict(model.named_parameters(remove_duplicate=False)), **buffers}


def weights_in_turn(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """``weights_of`` a model, in parts of one layer each; all that is in no layer is in parts of its own.

    If the model is sharded, this is inside of ``policy(...)``, every step is a collective call, and a part has whole
    weights until the next one is asked for.
    """
    for layer, names in groupby(list(weights_of(model)), key=layer_of):
        part = model.get_submodule(layer)
        with unsharded(part):
            weights = weights_of(part)
            yield {name: weights[name.removeprefix(f"{layer}.")] for name in names}


def layer_of(name: str) -> str:
    """The layer of a parameter: its module's name up to the first number in it; all of the rest has none."""
    parts = name.split(".")[:-1]
    numbers = [i for i, each in enumerate(parts) if each.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else ""


# --- shards and full tensors ---


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor in full, or any other tensor, on the CPU. A collective call."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().cpu()
    on_mesh: Any = tensor.detach().to(tensor.device_mesh.device_type)
    return on_mesh.full_tensor().cpu()


def sharded_like(tensor: Tensor, model: Tensor) -> Tensor:
    """This rank's shard of a full tensor that every rank has, laid out like ``model``; communicates nothing."""
    if isinstance(tensor, DTensor) or not isinstance(model, DTensor) or tensor.shape != model.shape:
        return tensor
    mesh = model.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, model.placements, src_data_rank=None)


def trained_state(module: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Trained parameters in full, on the CPU. A collective call.

    Args:
        module: sharded or not.
        keep: False: take part in the collective calls, but keep nothing (only rank 0 needs the result).
    """
    state = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            tensor = full_tensor(parameter)
            if keep:
                state[name] = tensor
    return state

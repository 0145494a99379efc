"""Stored weights of which each rank reads its own shards only, so that none ever holds a whole model.

``from_pretrained`` is stopped before it reads: it gives the model as always, with its types, its generation config and
its names for the stored tensors, but on the meta device. Once FSDP has divided that, transformers' own reader fills it
in. It takes slices out of the safetensors files where a parameter is a shard, ties weights, and computes the buffers
that no file has.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.backbone import unwrap
from lit_uniopd.policy.loading import load_stored

STACKING = {"MergeModulelist": 0, "Concatenate": 1}
"""Conversions that can be made of shards of the first dimension: name -> the least dimension in which they join."""


@dataclass(frozen=True)
class UnreadWeights:
    """Where a model's weights are, and how transformers was about to read them."""

    files: list[str]
    options: Any
    """Its ``LoadStateDictConfig``."""

    def read_into(self, model: nn.Module, device: torch.device, flag: str) -> None:
        """Fill in a model on the meta device; of a parameter that is sharded, this rank's shard.

        Args:
            model: as `load_unread` gave it, with adapters or without, sharded since.
            device: where shards and buffers are to be.
            flag: the option that it came from, for messages.

        Raises:
            UserError: if a file does not hold what its header says.
        """
        base: Any = unwrap(model)
        options = replace(self.options, device_map={"": device})
        with _without_adapters(base):
            result, _ = base._load_pretrained_model(base, None, self.files, options)
            if errors := [*result.conversion_errors.values(), *map(str, result.mismatched_keys)]:
                raise UserError(
                    f"--{flag}.path: its weights could not be read shard by shard ({first_line(Exception(errors[0]))});"
                    " set --trainer.strategy.init_args.read_shards false."
                )
            base._finalize_model_loading(base, options, result)


def load_unread(
    args: PolicyArgs, *, trainable: bool, flag: str, ranks: int
) -> tuple[PreTrainedModel, UnreadWeights] | None:
    """The model that ``load_model`` would give, without its weights, and where they are.

    Args:
        args: what to load.
        trainable: whether it will be trained.
        flag: the option that ``args`` came from, for messages.
        ranks: that will share each weight.

    Returns:
        None if shards cannot be read by themselves; a line in the log says why.

    Raises:
        UserError: as ``load_model`` does.
    """
    reason, result = _why_not_tried(args), None
    if reason is None:
        with _reading_postponed() as postponed:
            model = load_stored(args, trainable=trainable, flag=flag)
        model.tie_weights(recompute_mapping=False)  # before FSDP sees them: it would shard each by itself
        result = model, postponed[0]
        reason = why_read_whole(*result, ranks)
    if reason is None:
        return result
    rank_zero_info(f"--{flag}: every rank reads the whole model before it is sharded, since {reason}.")
    return None


def _why_not_tried(args: PolicyArgs) -> str | None:
    if args.config is not None:
        return "its weights are made at random"
    if args.quantization != "none":
        return "it is quantised while it is read"
    try:
        from transformers.distributed.sharding_utils import DtensorShardOperation  # noqa: F401
    except ImportError:
        return "this version of transformers cannot read shards"
    return None


def why_read_whole(model: PreTrainedModel, unread: UnreadWeights, ranks: int) -> str | None:
    """Why shards of a model cannot be read by themselves, from its config and the headers of its files; None: they can.

    The answer is the same on every rank.

    Args:
        model: on the meta device.
        unread: its weights.
        ranks: that will share each weight.
    """
    from transformers.core_model_loading import rename_source_key

    if not type(model).__module__.startswith("transformers."):
        return "its code is not transformers' own"
    if any(dtype != unread.options.dtype for dtype in unread.options.dtype_plan.values()):
        return "some of its weights are kept in another type"
    expected, mapping = model.state_dict(), unread.options.weight_mapping or []
    converters = [entry for entry in mapping if hasattr(entry, "operations")]
    renamings = [entry for entry in mapping if not hasattr(entry, "operations")]
    tied = model.all_tied_weights_keys
    missing = set(expected) - set(tied)
    for key, shape in _stored_shapes(unread.files).items():
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, expected)
        if name not in expected and key in expected:
            name, pattern = key, None
        if name not in expected:
            continue
        if name in tied:
            return f"its files hold {key}, which is tied to another weight"
        if pattern is not None:
            converter = next(entry for entry in converters if pattern in entry.source_patterns)
            if not _is_stacked(converter, len(expected[name]), ranks):
                return f"{key} is converted"
        elif shape != tuple(expected[name].shape):
            return f"{key} has another shape than its config says"
        missing.discard(name)
    return f"its files lack {min(missing)}" if missing else None


def _is_stacked(converter: Any, length: int, ranks: int) -> bool:
    """Whether a conversion only stacks tensors, one for each expert say, of which every rank gets some."""
    operations = [(type(operation).__name__, getattr(operation, "dim", 0)) for operation in converter.operations]
    stacks = all(dim >= STACKING.get(name, math.inf) for name, dim in operations)
    of_one_kind = len(converter.target_patterns) == 1 and operations[:1] == [("MergeModulelist", 0)]
    return stacks and of_one_kind and math.ceil(length / ranks) * (ranks - 1) < length


def _stored_shapes(files: list[str]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every stored tensor."""
    shapes = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return shapes


@contextmanager
def _reading_postponed() -> Iterator[list[UnreadWeights]]:
    """``from_pretrained`` inside reads no weights; the list has what it was about to read."""
    postponed: list[UnreadWeights] = []

    def postpone(model: Any, state_dict: Any, files: list[str], options: Any, *others: Any) -> tuple[Any, None]:
        postponed.append(UnreadWeights(files, options))
        return None, None

    before = {name: PreTrainedModel.__dict__[name] for name in ("_load_pretrained_model", "_finalize_model_loading")}
    PreTrainedModel._load_pretrained_model = staticmethod(postpone)  # type: ignore[method-assign]
    PreTrainedModel._finalize_model_loading = staticmethod(lambda *_: None)  # type: ignore[method-assign]
    try:
        yield postponed
    finally:
        for name, method in before.items():
            setattr(PreTrainedModel, name, method)


@contextmanager
def _without_adapters(base: nn.Module) -> Iterator[None]:
    """The layers under adapters in their place, so that weights have the names under which they are stored."""
    adapted = [
        (parent, name, child)
        for parent in base.modules()
        for name, child in parent.named_children()
        if name != "base_layer" and isinstance(getattr(child, "base_layer", None), nn.Module)
    ]
    for parent, name, child in adapted:
        setattr(parent, name, child.base_layer)
    try:
        yield
    finally:
        for parent, name, child in adapted:
            setattr(parent, name, child)


@contextmanager
def weightless(model: nn.Module) -> Iterator[None]:
    """Stand-ins without memory in the place of parameters on the meta device: PEFT puts adapters where weights are."""
    places = [(module, name) for module in model.modules() for name in module._parameters]
    before = {place: place[0]._parameters[place[1]] for place in places}
    stand_ins = {
        id(p): nn.Parameter(torch.zeros((), dtype=p.dtype).expand(p.shape), requires_grad=p.requires_grad)
        for p in before.values()
        if p is not None and p.is_meta
    }
    for (module, name), parameter in before.items():
        module._parameters[name] = stand_ins.get(id(parameter), parameter)  # type: ignore[assignment]
    try:
        yield
    finally:
        for (module, name), parameter in before.items():
            if parameter is not None and id(parameter) in stand_ins:
                parameter.requires_grad_(stand_ins[id(parameter)].requires_grad)
                module._parameters[name] = parameter

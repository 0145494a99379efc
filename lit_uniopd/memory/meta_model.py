"""A model without its weights: built from its config on the meta device, in the types it would be loaded in."""

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.loading import outline_model
from lit_uniopd.policy.trained_parts import choose_trained
from lit_uniopd.utils.paths import resolve_path


def build_meta_model(args: PolicyArgs, *, trainable: bool, flag: str, cast_to: torch.dtype | None = None) -> nn.Module:
    """The model that ``Policy.load`` would give, on the meta device.

    Takes a fraction of a second and reads no weights. The models are cached, so do not change them.

    Args:
        args: what would be loaded.
        trainable: whether it would be trained.
        flag: the option that ``args`` came from, for messages.
        cast_to: the type that the trainer's precision casts every weight to, if it does.

    Raises:
        UserError: as ``Policy.load`` would, if there is no config or the options contradict each other.
    """
    return _cached_meta_model(_Key(args), trainable, flag, cast_to)


class _Key:
    """Equal arguments share one meta model; dataclasses with dictionaries have no hash."""

    def __init__(self, args: PolicyArgs) -> None:
        self.args, self.text = args, repr(args)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Key) and self.text == other.text


@lru_cache(maxsize=16)
def _cached_meta_model(key: _Key, trainable: bool, flag: str, cast_to: torch.dtype | None) -> nn.Module:
    args = key.args
    if args.path:
        resolve_path(args.path)  # what the playground has to build first needs real tensors
    with torch.device("meta"), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loading will warn again
        model: Any = outline_model(args, trainable=trainable, flag=flag)
        model = choose_trained(model, args, trainable=trainable, flag=flag)
    return model if cast_to is None else model.to(dtype=cast_to)

"""Training without dropout: log-probs that are compared with those of a rollout or a reference have none there."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PretrainedConfig

log = logging.getLogger(__name__)

_RATES = re.compile(r"drop|^(input_)?jitter_noise$|^moe_jitter_eps$")
"""Names of numbers that make a forward pass random in training mode: dropout, drop path, layer drop, routers' noise."""


_SAMPLING_ROUTERS = {"PhimoeTopKRouter"}
"""Modules that draw experts at random in training mode, whatever the rates."""


class DropoutRate(NamedTuple):
    """A rate above 0 that was set to 0."""

    owner: Any
    """A module, or a config that modules read in their forward pass."""
    attribute: str
    rate: float
    place: str
    """Name of the module; empty for a config."""


def switch_off_dropout(model: nn.Module) -> list[DropoutRate]:
    """Make the model's log-probs in training mode those of evaluation mode.

    Rates are set to 0 where architectures read them: in dropout modules (torch's own and those of adapters), in floats
    of other modules (``attention_dropout``) and in configs (GPT-J, Falcon). The modes stay, since gradient
    checkpointing and some mixtures of experts depend on them; only routers that draw their experts do not train.

    Returns:
        What was above 0.
    """
    rates: list[DropoutRate] = []
    configs: dict[int, PretrainedConfig] = {}
    for name, module in model.named_modules():
        if isinstance(config := getattr(module, "config", None), PretrainedConfig):
            configs[id(config)] = config
        if type(module).__name__ in _SAMPLING_ROUTERS:
            module.register_forward_pre_hook(_evaluates)  # outlasts later calls of train()
        attributes = ["p"] if isinstance(module, _DropoutNd) else [key for key in vars(module) if _RATES.search(key)]
        rates += [DropoutRate(module, key, getattr(module, key), name) for key in attributes]
    for config in configs.values():
        rates += [DropoutRate(config, key, value, "") for key, value in vars(config).items() if _RATES.search(key)]
    rates = [entry for entry in rates if isinstance(entry.rate, float) and entry.rate > 0]
    for entry in rates:
        setattr(entry.owner, entry.attribute, 0.0)
    return rates


def _evaluates(module: nn.Module, _: Any) -> None:
    module.eval()


@contextmanager
def stored_configs(rates: Sequence[DropoutRate]) -> Iterator[None]:
    """Configs as they were before ``switch_off_dropout``, for writing them to disk."""
    changed = [entry for entry in rates if isinstance(entry.owner, PretrainedConfig)]
    for entry in changed:
        setattr(entry.owner, entry.attribute, entry.rate)
    try:
        yield
    finally:
        for entry in changed:
            setattr(entry.owner, entry.attribute, 0.0)


def warn_of_dropout(rates: Sequence[DropoutRate], flag: str) -> None:
    """Say what was switched off.

    Args:
        rates: of ``switch_off_dropout``; configs alone are passed over, since modules may not read theirs.
        flag: the option that the model came from.
    """
    places = [entry for entry in rates if entry.place]
    if not places:
        return
    largest = max(places, key=lambda entry: entry.rate)
    log.warning(
        f"--{flag} is trained without its dropout (up to {largest.rate:g} in {len(places)} places, {largest.place} for "
        "one): its log-probs are compared with those of rollouts or of a reference, which are made without."
    )

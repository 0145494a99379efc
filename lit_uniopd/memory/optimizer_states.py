"""What an optimizer keeps for each trained parameter, asked of the optimizer itself."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PROBE = (64, 128)
"""Shape of the stand-in for parameters whose optimizer cannot be run without data."""


def optimizer_bytes(make: Callable[[Any], torch.optim.Optimizer], parameters: Sequence[Tensor]) -> tuple[int, bool]:
    """Bytes of an optimizer's states.

    The optimizer is made for parameters of the same shapes and types on the meta device, where a step costs nothing,
    and its states are counted: two float32 numbers per parameter for AdamW, none for plain SGD, 8-bit ones for
    bitsandbytes' where a tensor has at least ``min_8bit_size`` elements, and whatever your own keeps.

    Args:
        make: the configured optimizer, from parameters to an optimizer.
        parameters: the trained parameters, each once; only shape and type are read.

    Returns:
        The bytes, and whether they are exact: an optimizer that refuses the meta device is tried on a small tensor.
    """
    kinds = Counter((p.shape, p.dtype) for p in parameters)
    # Of each kind two stand for all: what their states have in common is a table that all parameters share.
    shadows = {
        kind: [nn.Parameter(torch.empty(kind[0], dtype=kind[1], device="meta")) for _ in range(min(count, 2))]
        for kind, count in kinds.items()
    }
    if not shadows:
        return 0, True
    try:
        optimizer = make([shadow for pair in shadows.values() for shadow in pair])
    except RuntimeError:
        return _scaled(make, parameters), False
    if not _has_made_states(optimizer):
        return _scaled(make, parameters), False
    users = Counter(id(tensor) for state in optimizer.state.values() for tensor in _tensors(state))
    states = {id(tensor): tensor for state in optimizer.state.values() for tensor in _tensors(state)}
    size = sum(_bytes(tensor) for key, tensor in states.items() if users[key] > 1)
    for kind, (first, *_) in shadows.items():
        unshared = sum(_bytes(tensor) for tensor in _tensors(optimizer.state[first]) if users[id(tensor)] == 1)
        size += kinds[kind] * unshared
    return size, True


def paged(make: Callable[[Any], torch.optim.Optimizer]) -> bool:
    """Whether the states may be moved to the host when the device runs full (bitsandbytes' paged optimizers)."""
    return bool(getattr(make([nn.Parameter(torch.empty(1))]), "is_paged", False))


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the tensors in an optimizer's state; tables that parameters share count once."""
    tensors = {id(tensor): tensor for state in optimizer.state.values() for tensor in _tensors(state)}
    return sum(_bytes(tensor) for tensor in tensors.values())


def _tensors(state: Mapping[str, Any]) -> list[Tensor]:
    return [value for value in state.values() if isinstance(value, Tensor)]


def _has_made_states(optimizer: torch.optim.Optimizer) -> bool:
    """Let an optimizer make the states of all its parameters; False if it would not."""
    # The kernels of 8-bit optimizers (bitsandbytes', and ours) know no meta device, their states do.
    init_state = getattr(optimizer, "init_state", None)
    if init_state is not None:
        optimizer.is_paged = False  # type: ignore[attr-defined]  # else memory of a GPU would be asked for
        for i, group in enumerate(optimizer.param_groups):
            for j, parameter in enumerate(group["params"]):
                init_state(group, parameter, i, j)
        return True
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    try:
        optimizer.step()
    except (RuntimeError, NotImplementedError):
        # A number was asked for; by then torch's optimizers have made the states of a whole group.
        return all(parameter in optimizer.state for parameter in parameters)
    return True


def _scaled(make: Callable[[Any], torch.optim.Optimizer], parameters: Sequence[Tensor]) -> int:
    """States of a small tensor on the CPU, times how much larger the parameters are."""
    probe = nn.Parameter(torch.zeros(PROBE))
    probe.grad = torch.zeros(PROBE)
    optimizer = make([probe])
    optimizer.step()
    return int(state_bytes(optimizer) / probe.numel() * sum(p.numel() for p in parameters))


def _bytes(tensor: Any) -> int:
    """Of a tensor, of this rank's shard, or of what an 8-bit state is made of."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    return tensor.nbytes if flatten is None else sum(_bytes(getattr(tensor, name)) for name in flatten()[0])

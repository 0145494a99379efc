"""What layers hand on is kept in the host's memory between the forward and the backward pass.

With gradient checkpointing a forward pass keeps the input of each layer and nothing else. Each is copied to pinned
memory as it is kept, and back when the backward pass computes its layer again. Copies are queued behind the computation
on its own stream, so that no buffer is reused too early and the processor never waits; they do not run beside it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

SMALL_BYTES = 2**10
"""Smaller tensors stay where they are."""


@dataclass(frozen=True, slots=True)
class _OnHost:
    copy: Tensor
    device: torch.device


@contextmanager
def activations_on_host(enabled: bool = True) -> Iterator[None]:
    """What autograd keeps of the operations inside is kept on the host; parameters stay where they are.

    Args:
        enabled: False: nothing is changed.
    """
    if not enabled or not torch.is_grad_enabled():
        yield
        return
    with saved_tensors_hooks(_to_host, _to_device):
        yield


def _to_host(tensor: Tensor) -> Tensor | _OnHost:
    if isinstance(tensor, nn.Parameter) or tensor.nbytes < SMALL_BYTES:
        return tensor
    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return _OnHost(copy.copy_(tensor, non_blocking=True), tensor.device)


def _to_device(kept: Tensor | _OnHost) -> Tensor:
    return kept.copy.to(kept.device, non_blocking=True) if isinstance(kept, _OnHost) else kept

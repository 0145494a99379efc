"""The collectives of manual optimization, and when gradients are synchronised."""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule
from torch.nn.parallel import DistributedDataParallel

from lit_uniopd.distributed.fsdp import FSDP, sync_gradients


def sum_over_ranks(module: LightningModule, value: float) -> float:
    """Sum of a number over all ranks."""
    return _reduce(module, value, "sum")


def max_over_ranks(module: LightningModule, value: float) -> float:
    """Largest of a number over all ranks."""
    return _reduce(module, value, "max")


def gather_over_ranks(module: LightningModule, value: Any) -> list[Any]:
    """The objects of all ranks (plain data, tensors), in rank order, on every rank."""
    if module.trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * module.trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def exchange(module: LightningModule, parcels: Sequence[Any]) -> list[Any]:
    """Send each rank its own object (plain data, CPU tensors).

    Args:
        module: being trained.
        parcels: one for each rank.

    Returns:
        What each rank sent to this one.
    """
    packed = [pickle.dumps(parcel) for parcel in parcels]
    sizes = gather_over_ranks(module, [len(parcel) for parcel in packed])
    incoming_sizes = [rank_sizes[module.global_rank] for rank_sizes in sizes]
    outgoing = torch.frombuffer(bytearray(b"".join(packed)), dtype=torch.uint8).to(module.device)
    incoming = torch.empty(sum(incoming_sizes), dtype=torch.uint8, device=module.device)
    torch.distributed.all_to_all_single(incoming, outgoing, incoming_sizes, sizes[module.global_rank])
    return [pickle.loads(buffer.cpu().numpy().tobytes()) for buffer in incoming.split(incoming_sizes)]


def wait_for_ranks(module: LightningModule) -> None:
    """Wait for the slowest rank, so that waiting is not counted as time of the collectives that follow."""
    if module.trainer.world_size > 1:
        module.trainer.strategy.barrier()


def _reduce(module: LightningModule, value: float, op: str) -> float:
    if module.trainer.world_size == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=module.device)
    return float(module.trainer.strategy.reduce(tensor, reduce_op=op))


@contextmanager
def gradient_sync(module: LightningModule, *, enabled: bool) -> Iterator[None]:
    """Synchronise gradients over ranks in the backward passes inside, or only accumulate them locally.

    Synchronising once, on the last micro-batch, moves the accumulated gradient; on each, it would cost a collective per
    micro-batch for the same result.
    """
    strategy = module.trainer.strategy
    if isinstance(strategy, FSDP):
        with sync_gradients(module, strategy.sharding, enabled=enabled):
            yield
        return
    wrapper = module.trainer.model
    if not isinstance(wrapper, DistributedDataParallel):
        yield
        return
    before = wrapper.require_backward_grad_sync
    wrapper.require_backward_grad_sync = enabled
    try:
        yield
    finally:
        wrapper.require_backward_grad_sync = before

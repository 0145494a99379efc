"""Show the plan and the models of a run, and what its devices have."""

import logging
from collections.abc import Mapping
from typing import Any

import psutil
import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from lit_uniopd.memory.parameter_counts import model_size
from lit_uniopd.memory.plan import padded, readable
from lit_uniopd.monitoring.media import log_text

log = logging.getLogger(__name__)


def free_bytes(device: torch.device, processes: int = 1) -> int:
    """Bytes that this process can still use on a device.

    On a GPU what is free, and what this process has reserved already. On the CPU available RAM and free swap, an equal
    part for each process; a container's own limit is not known here.

    Args:
        device: of this process.
        processes: that share this machine's RAM.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return (psutil.virtual_memory().available + psutil.swap_memory().free) // processes


def trainer_facts(trainer: Trainer) -> dict[str, Any]:
    """What a `Setup` has from the trainer: precision, kind and number of devices, and what they share."""
    strategy = trainer.strategy
    sharded = isinstance(strategy, FSDPStrategy | ModelParallelStrategy)
    buckets = isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("gradient_as_bucket_view")
    cuda = strategy.root_device.type == "cuda"
    # Of our own FSDP strategy, which has its types and not those of the trainer's precision.
    sharding: Any = getattr(strategy, "sharding", None)
    gathered = getattr(torch, getattr(sharding, "param_dtype", None) or "", None)
    return {
        "precision": str(trainer.precision),
        "cuda": cuda,
        "device_bytes": torch.cuda.get_device_properties(strategy.root_device).total_memory if cuda else 0,
        "shards": trainer.world_size // getattr(strategy, "data_parallel_replicate", 1) if sharded else 1,
        "buckets": buckets,
        "gathered_bytes": None if gathered is None else gathered.itemsize,
        "whole_gradients": getattr(sharding, "accumulate", None) == "whole",
        # On the CPU, the host's memory is the device's.
        "offloaded": cuda and getattr(sharding, "cpu_offload", False),
        "devices": max(trainer.world_size, torch.cuda.device_count() if cuda else 1),
    }


def parameter_table(models: Mapping[str, nn.Module]) -> str:
    """A Markdown table of models: parameters, how many are trained, frozen and quantised, bytes, types, and where.

    Args:
        models: name -> loaded model.
    """
    rows = []
    for name, model in models.items():
        size = model_size(model)
        counts = (size.parameters, size.trainable, size.frozen, size.quantised)
        types = ", ".join(f"{kind} {count / max(1, size.parameters):.0%}" for kind, count in size.types.most_common())
        rows.append((name, *(f"{count:,}" for count in counts), readable(size.bytes), types, ", ".join(size.devices)))
    header = ("model", "parameters", "trained", "frozen", "quantised", "memory", "types", "where")
    return padded(header, rows)


def publish(trainer: Trainer, tag: str, title: str, text: str) -> None:
    """Print a table once, and show it as a text of the run."""
    if not trainer.is_global_zero:
        return
    log.info("%s\n%s", title, text)
    log_text(trainer, tag, text)

"""Two ranks compute a sharded policy's log-probs and gradients with options of the update.

    torchrun --nproc-per-node 2 update_options.py ROOT

ROOT has a model. Rank 0 writes ROOT/NAME.pt for each name of `OPTIONS`: log-probs, and full gradients by name.
"""

import os
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from lit_uniopd.distributed.sharding import ShardingArgs, full_tensor
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs, compiled_blocks

PROMPTS = [[5, 6, 7] * 5] * 2 + [[9, 10, 11, 12, 13]]
TOKENS_BT = torch.tensor([[14, 15, 2, 0], [16, 2, 0, 0], [17, 18, 19, 20]])
MASK_BT = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
OFFLOADING: dict[str, Any] = {"gradient_checkpointing": True, "activation_offloading": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "compiled": {"compile": True},
    "offloaded": OFFLOADING,
    "all": {"compile": True, "lora": LoraArgs(rank=4, alpha=8), **OFFLOADING},
}


def loaded(root: Path, **options: Any) -> Policy:
    torch.manual_seed(0)
    policy = Policy.load(PolicyArgs(path=str(root / "model"), **options), trainable=True)
    generator = torch.Generator().manual_seed(1)
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.2, generator=generator)
    return policy


def gradients(policy: Policy) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Of the second of two passes, between which the policy writes nothing but is gathered as for a rollout."""
    logps_BT = torch.empty(0)
    for _ in range(2):
        policy.zero_grad()
        with policy.answering(), policy.gathered():
            policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
        logps_BT, _ = policy.token_logps(PROMPTS, TOKENS_BT, MASK_BT)
        (logps_BT * torch.linspace(-1, 1, 4)).sum().backward()
    grads = {name: full_tensor(p.grad) for name, p in policy.named_parameters() if p.grad is not None}
    return logps_BT.detach(), grads


def main(root: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    compiled_blocks._compiled = cache(partial(torch.compile, dynamic=True, backend="aot_eager"))
    for name, options in OPTIONS.items():
        policy = loaded(root, **options)
        policy.shard(mesh, ShardingArgs())
        result = gradients(policy)
        if torch.distributed.get_rank() == 0:
            torch.save((*result, torch._dynamo.utils.counters["stats"]["unique_graphs"]), root / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.barrier()
    sys.stderr.flush()
    os._exit(0)

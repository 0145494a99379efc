"""UniOPD on two ranks with an engine each.

    torchrun --nproc-per-node 2 ranks.py ROOT STRATEGY MODELS

Each rank writes what its engine drifted from the student in every step, a digest of its weights, and how many layers
were whole at most while the engine got them, into ROOT/STRATEGY-RANK.json. STRATEGY is ddp, fsdp or fsdp_lora.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from engines.comparisons import Drifts, on_policy
from tiny import Prompts, adam, prompts, trainer

from lit_uniopd.distributed.fsdp import FSDP
from lit_uniopd.distributed.sharding import full_tensor, has_shards
from lit_uniopd.policy import LoraArgs, PolicyArgs
from lit_uniopd.policy.backbone import layers_of
from lit_uniopd.sampling import engine_vllm_colocated


def main(root: Path, strategy: str, models: Path) -> None:
    """Train for three steps."""
    paths = {name: str(models / name) for name in ("student", "math", "code")}
    lora = LoraArgs(rank=4, alpha=8) if strategy == "fsdp_lora" else None
    student = PolicyArgs(path=paths["student"], lora=lora)
    model, drifts = on_policy(paths, student=student, optimizer=adam), Drifts()
    whole_layers = count_whole_layers()
    runner = trainer(
        root,
        devices=2,
        strategy="ddp" if strategy == "ddp" else FSDP(param_dtype=None),
        use_distributed_sampler=True,
        inference_mode=False,
        callbacks=[drifts],
    )
    runner.fit(model, Prompts(prompts(24)))
    total = sum(float(full_tensor(parameter).double().norm()) for parameter in model.policy.parameters())
    answers = model.rollouts.tokens_BT.tolist() if model.rollouts is not None else []
    result = {"drifts": drifts.largest, "weights": total, "answers": answers, "whole_layers": max(whole_layers)}
    (root / f"{strategy}-{runner.global_rank}.json").write_text(json.dumps(result))


def count_whole_layers() -> list[int]:
    """How many layers are not sharded, each time that the engine takes a weight."""
    counts: list[int] = []
    original = engine_vllm_colocated.checkpoint_weights

    def counting(base: Any) -> Iterator[tuple[str, torch.Tensor]]:
        for weight in original(base):
            counts.append(sum(not has_shards(layer) for layer in layers_of(base)))
            yield weight

    engine_vllm_colocated.checkpoint_weights = counting
    return counts


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))

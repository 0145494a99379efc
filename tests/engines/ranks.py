"""UniOPD on two ranks with an engine each.

    torchrun --nproc-per-node 2 ranks.py ROOT STRATEGY MODELS

Each rank writes what its engine drifted from the student in every step, and a digest of its weights, into
ROOT/STRATEGY-RANK.json.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from engines.comparisons import Drifts, on_policy
from tiny import Prompts, adam, prompts, trainer

from lit_uniopd.distributed.fsdp import FSDP
from lit_uniopd.distributed.sharding import full_tensor


def main(root: Path, strategy: str, models: Path) -> None:
    """Train for three steps."""
    paths = {name: str(models / name) for name in ("student", "math", "code")}
    model, drifts = on_policy(paths, optimizer=adam), Drifts()
    runner = trainer(
        root,
        devices=2,
        strategy=FSDP(param_dtype=None) if strategy == "fsdp" else "ddp",
        use_distributed_sampler=True,
        inference_mode=False,
        callbacks=[drifts],
    )
    runner.fit(model, Prompts(prompts(24)))
    total = sum(float(full_tensor(parameter).double().norm()) for parameter in model.policy.parameters())
    answers = model.rollouts.tokens_BT.tolist() if model.rollouts is not None else []
    result = {"drifts": drifts.largest, "weights": total, "answers": answers}
    (root / f"{strategy}-{runner.global_rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))

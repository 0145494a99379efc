"""`uniopd validate` on fixture rows, in this process or on as many gloo ranks as asked for.

python evaluate.py KIND RANKS ROOT MODEL KILL_AFTER BENCHMARK ... [JUDGE]

KILL_AFTER: each rank dies without a word when it has recorded so many batches; 0: never.
JUDGE: options of `JudgeArgs`, as JSON.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tiny import trainer

from datamodules import BenchmarkDataModule
from lit_uniopd.benchmarks.engine import EvalEngine
from lit_uniopd.benchmarks.judging.args import JudgeArgs
from lit_uniopd.distributed.fsdp import FSDP
from lit_uniopd.modules import Evaluation
from lit_uniopd.policy import PolicyArgs


def evaluate(kind: str, ranks: int, root: Path, model: str, names: list[str], judge: JudgeArgs | None = None) -> None:
    """Validate on fixture rows; ``root`` gets ``eval/version_N``."""
    logger = TensorBoardLogger(root, name="eval", default_hp_metric=False)
    strategy = FSDP(param_dtype=None, reduce_dtype=None) if kind == "fsdp" else kind
    options = {"logger": logger, "limit_val_batches": 1.0, "inference_mode": False}
    run = trainer(root, devices=ranks, strategy=strategy, **options)
    module = Evaluation(PolicyArgs(path=model), grader_workers=1)
    run.validate(module, BenchmarkDataModule(names, profile="fixture", max_rows=2, judge=judge), verbose=False)


if __name__ == "__main__":
    kind, ranks, root, model, kill_after, *names = sys.argv[1:]
    torch.set_num_threads(1)
    record, batches_left = EvalEngine._collect, int(kill_after)

    def mortal(self: EvalEngine) -> int:
        global batches_left
        count = record(self)
        batches_left -= 1
        if batches_left == 0:
            os._exit(9)
        return count

    if int(kill_after):
        EvalEngine._collect = mortal  # type: ignore[method-assign]
    judge = JudgeArgs(**json.loads(names.pop())) if names[-1].startswith("{") else None
    evaluate(kind, int(ranks), Path(root), model, names, judge)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # gloo's threads must not outlive the interpreter

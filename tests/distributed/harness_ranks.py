"""lm-eval's tasks on as many gloo ranks as asked for: python harness_ranks.py RANKS ROOT MODEL TASKS NAME ..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from lightning.pytorch.loggers import CSVLogger
from tiny import trainer

from datamodules import BenchmarkDataModule
from lit_uniopd.benchmarks.harness.args import HarnessArgs
from lit_uniopd.modules import Evaluation
from lit_uniopd.policy import PolicyArgs

if __name__ == "__main__":
    ranks, root, model, tasks, *names = sys.argv[1:]
    torch.set_num_threads(1)
    data = BenchmarkDataModule(
        [f"lm_eval:{name}" for name in names], profile="paper", max_rows=2, harness=HarnessArgs(include_path=tasks)
    )
    run = trainer(root, devices=int(ranks), strategy="ddp", limit_val_batches=1.0, logger=CSVLogger(root, name="eval"))
    run.validate(Evaluation(PolicyArgs(path=model), grader_workers=1), data, verbose=False)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

"""Runs of `scaling.py` with 8-bit states: the same arguments, and one scenario, `eight`."""

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import scaling
import torch

from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.modules import SFT
from lit_uniopd.optimizers import AdamW8bit


def adamw_8bit(params: Any) -> torch.optim.Optimizer:
    return AdamW8bit(params, lr=1e-3, eps=1e-4)


def eight(files: scaling.Files, ranks: int) -> tuple[Any, Any]:
    texts = SourceArgs(path=str(files.table("texts")))
    data = PromptDataModule(texts, texts, val_batch_size=3, seed=5, global_batch_size=scaling.ROWS)
    return SFT(files.model("wide"), optimizer=adamw_8bit, seed=3), data


if __name__ == "__main__":
    scaling.SCENARIOS["eight"] = eight
    scaling.RESUMED += ("eight",)
    scaling.main(Path(sys.argv[1]), sys.argv[2:])
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    sys.stderr.flush()
    os._exit(0)

"""A datamodule of somebody else on several ranks: it keeps Lightning's sampler, or its user is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, SequentialSampler

from datamodules.loaders import BatchLoader
from lit_uniopd.cli import main
from lit_uniopd.cli.shared_rows import ignores_ranks

ROOT = Path(__file__).parents[2]
ROWS = [0, 1, 2, 3]
FOREIGN = """
import json
from pathlib import Path

import torch
from lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader

class Rows(LightningDataModule):
    def train_dataloader(self):
        return DataLoader([0, 1, 2, 3])

class Seen(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.rows = []

    def training_step(self, batch, batch_idx):
        self.rows.append(int(batch))
        return self.weight.sum()

    def on_train_end(self):
        Path(f"rows_{self.global_rank}.json").write_text(json.dumps(sorted(self.rows)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""


class Ranked(BatchSampler):
    """Somebody's own, which knows the rank."""


class Endless(IterableDataset):
    def __iter__(self):
        return iter(ROWS)


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (DataLoader(ROWS), True),  # type: ignore[arg-type]
        (DataLoader(ROWS, shuffle=True, batch_size=2), True),  # type: ignore[arg-type]
        (DataLoader(ROWS, batch_size=None), True),  # type: ignore[arg-type]
        (DataLoader(ROWS, sampler=DistributedSampler(ROWS, 2, 0)), False),  # type: ignore[arg-type]
        (DataLoader(ROWS, batch_sampler=Ranked(SequentialSampler(ROWS), 2, False)), False),  # type: ignore[arg-type]
        (DataLoader(Endless()), False),
        (BatchLoader(ROWS, [[0, 1]], sum), False),
    ],
)
def test_samplers_that_know_of_no_ranks(loader, expected):
    assert ignores_ranks(loader) == expected


def test_what_every_config_needs_is_a_default(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(ROOT / "configs/sft.yaml"), "--print_config"])
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert trainer["inference_mode"] is False
    assert trainer["use_distributed_sampler"] is True  # which our loaders do not heed, and others' need


@pytest.mark.slow
@pytest.mark.parametrize("machine", [[], ["-c", str(ROOT / "configs/trainer/cpu.yaml")]], ids=["default", "cpu.yaml"])
@pytest.mark.thinned(2)
def test_a_foreign_datamodule_on_two_ranks(machine, tmp_path):
    (tmp_path / "foreign.py").write_text(FOREIGN)
    command = [sys.executable, "-m", "lit_uniopd", "fit", *machine, "--model=foreign.Seen", "--data=foreign.Rows"]
    command += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1"]
    command += ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    rows = [json.loads((tmp_path / f"rows_{rank}.json").read_text()) for rank in range(2)]
    warned = "all 2 may get the same rows" in finished.stderr
    if machine:  # use_distributed_sampler: false
        assert (rows, warned) == ([ROWS, ROWS], True)
    else:
        assert (sorted(rows[0] + rows[1]), warned) == (ROWS, False)

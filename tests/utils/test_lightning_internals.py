"""Lightning's private parts still are what `lightning_internals` takes them for."""

import signal
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.utils.data import BatchSampler, DataLoader

from lit_uniopd.utils.lightning_internals import (
    SignalConnector,
    logged_step,
    set_logged_step,
    set_signal_connector,
    signal_connector,
    steps_next,
    unwrapped_batch_sampler,
)


class TwoUpdates(LightningModule):
    """Two optimizer steps a batch, under manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps: list[tuple[int, int]] = []
        self.jump: int | None = None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        if self.jump is not None:
            set_logged_step(self.trainer, self.jump)
            self.jump = None
        self.steps.append((logged_step(self.trainer), self.trainer.global_step))
        for _ in range(2):
            self.optimizers().step()  # type: ignore[union-attr]


def fit(module: TwoUpdates, tmp_path, trainer: Trainer | None = None) -> Trainer:
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = trainer or Trainer(accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False, **options)
    trainer.fit(module, DataLoader([0, 1, 2]))  # type: ignore[arg-type]
    return trainer


def test_the_logged_step_counts_batches_and_can_be_set(tmp_path):
    module = TwoUpdates()
    fit(module, tmp_path)
    assert module.steps == [(0, 0), (1, 2), (2, 4)]
    module = TwoUpdates()
    module.jump = 5
    fit(module, tmp_path)
    assert [logged for logged, _ in module.steps] == [5, 6, 7]


@pytest.mark.parametrize(
    ("accumulated", "expected"), [(1, [True] * 3), (2, [False, True, True]), (3, [False, False, True])]
)
def test_the_last_batch_of_a_step_is_known(accumulated, expected, tmp_path):
    steps = []

    class Accumulates(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def training_step(self, batch, batch_idx):
            return self.weight.sum()

        def on_after_backward(self) -> None:
            steps.append((steps_next(self.trainer), self.trainer.global_step))

    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, accumulate_grad_batches=accumulated, **options)
    trainer.fit(Accumulates(), DataLoader([0, 1, 2]))  # type: ignore[arg-type]
    assert [last for last, _ in steps] == expected
    assert trainer.global_step == sum(expected)


def test_another_connector_handles_signals(tmp_path):
    """Lightning registers its handlers as the fit begins, and puts the old ones back behind it."""
    registered = []

    class Connector(SignalConnector):
        def register_signal_handlers(self) -> None:
            registered.append("registered")

        def teardown(self) -> None:
            registered.append("torn down")

    trainer = fit(TwoUpdates(), tmp_path)
    assert type(signal_connector(trainer)) is SignalConnector
    set_signal_connector(trainer, Connector(trainer))
    before = signal.getsignal(signal.SIGTERM)
    fit(TwoUpdates(), tmp_path, trainer)
    assert registered == ["registered", "torn down"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_batch_sampler_of_a_prediction_is_unwrapped(tmp_path):
    class Predicting(TwoUpdates):
        def predict_step(self, batch, batch_idx):
            return batch

    options: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **options)
    loader = DataLoader([0, 1, 2])  # type: ignore[arg-type]
    trainer.predict(Predicting(), loader)
    used = trainer.predict_dataloaders
    assert used is not None
    assert type(used.batch_sampler) is not BatchSampler
    assert type(unwrapped_batch_sampler(used)) is type(unwrapped_batch_sampler(loader)) is BatchSampler


@pytest.mark.parametrize(
    ("owner", "file", "names"),
    [
        (ModelParallelStrategy, "distributed/fsdp.py", ["_data_parallel_size", "_save_distributed_checkpoint"]),
        (DDPStrategy, "memory/report.py", ["_ddp_kwargs"]),
        (
            lambda: Trainer(logger=False).fit_loop,
            "utils/lightning_internals.py",
            ["_combined_loader", "_combined_loader_states_to_load"],
        ),
        (lambda: SignalConnector(Trainer(logger=False)), "distributed/preemption.py", ["_original_handlers"]),
    ],
)
def test_attributes_that_other_files_use_still_exist(owner, file, names):
    missing = [name for name in names if name not in vars(owner())]
    assert not missing, (
        f"Lightning no longer sets {', '.join(missing)}, which lit_uniopd/{file} uses; find its new name"
    )

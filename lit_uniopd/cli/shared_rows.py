"""Data loaders that would give every rank the same rows, named before they do."""

from collections.abc import Iterator
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from lit_uniopd.utils.lightning_internals import unwrapped_batch_sampler


class SharedRowsWarning(Callback):
    """Warn of loaders whose sampler knows of no ranks, where `use_distributed_sampler` is off.

    Our own datamodules share rows among ranks themselves, and their loaders are no `DataLoader`: Lightning's option
    means nothing to them. Somebody else's may rely on it.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._warn(trainer, trainer.train_dataloader)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._warn(trainer, trainer.val_dataloaders)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._warn(trainer, trainer.test_dataloaders)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._warn(trainer, trainer.predict_dataloaders)

    def _warn(self, trainer: Trainer, loaders: Any) -> None:
        if trainer.world_size > 1 and any(ignores_ranks(loader) for loader in _flattened(loaders)):
            rank_zero_warn(
                f"The loaders of --data take no account of ranks: all {trainer.world_size} may get the same rows; "
                "set --trainer.use_distributed_sampler true, or give each DataLoader a sampler that knows the rank."
            )


def ignores_ranks(loader: Any) -> bool:
    """Whether a loader takes its rows in torch's own order, which is the same on every rank."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    batches = unwrapped_batch_sampler(loader)
    if batches is not None and type(batches) is not BatchSampler:
        return False
    return type(loader.sampler if batches is None else batches.sampler) in (RandomSampler, SequentialSampler)


def _flattened(loaders: Any) -> Iterator[Any]:
    if loaders is not None:
        yield from CombinedLoader(loaders).flattened

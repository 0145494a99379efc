"""Which validation pairs count, and which the policy has mastered."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lit_uniopd.diagnostics.preferences import WeighedPairs, joined, weighed, weights_figure, weights_table
from lit_uniopd.errors import UserError
from lit_uniopd.functional.preference import PreferenceLoss
from lit_uniopd.types import PairBatch


class PreferenceDiagnostics(Callback):
    """After each validation of ``OmniDPO``: quality against performance, weights, and the pairs at both ends.

    Logs `pairs/rank_correlation` (Spearman's rho of score gaps and reward margins) and `pairs/effective_share` (of the
    weights), and shows the figure and the table in TensorBoard; the last figure is `pairs.png` of the run. With
    several ranks they are of rank 0's share of the pairs.

    Args:
        table_rows: pairs of highest and of lowest weight in the table.
    """

    def __init__(self, table_rows: int = 5) -> None:
        self.table_rows = table_rows
        self._seen: list[WeighedPairs] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(batch, PairBatch):
            raise UserError("PreferenceDiagnostics looks at preference pairs; take it out, or train OmniDPO.")
        if isinstance(outputs, PreferenceLoss):
            self._seen.append(weighed(batch.pairs, outputs))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir  # asked on all ranks: it is broadcast
        if not trainer.is_global_zero or not self._seen or trainer.sanity_checking:
            return
        pairs = joined(self._seen)
        values = {"pairs/rank_correlation": pairs.rank_correlation, "pairs/effective_share": pairs.effective_share}
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in values.items() if v == v}, step=trainer.global_step)
        figure = weights_figure(pairs)
        if directory is not None:
            Path(directory).mkdir(parents=True, exist_ok=True)
            figure.savefig(Path(directory) / "pairs.png", dpi=110)
        if isinstance(trainer.logger, TensorBoardLogger):
            board = trainer.logger.experiment
            board.add_figure("pairs/weights", figure, trainer.global_step)
            board.add_text("pairs/weights", weights_table(pairs, count=self.table_rows), trainer.global_step)

"""How pairs are weighted, and which the policy has mastered."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from lit_uniopd.diagnostics.advice import quality_advice
from lit_uniopd.diagnostics.images import images_figure
from lit_uniopd.diagnostics.preferences import (
    CURVES,
    WeighedPairs,
    curves_figure,
    effective_share,
    joined,
    pairs_figure,
    weighed,
    weights_table,
)
from lit_uniopd.errors import UserError
from lit_uniopd.functional.preference import PreferenceLoss
from lit_uniopd.modules import PreferenceModule
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.monitoring.media import log_figure, log_table, shows_media
from lit_uniopd.types import PairBatch
from lit_uniopd.utils.jsonl import write_lines
from lit_uniopd.utils.lightning_internals import logged_step
from lit_uniopd.utils.run_directory import run_directory
from lit_uniopd.utils.trainer_data import TrainerData
from lit_uniopd.view import PAIRS_FILE
from lit_uniopd.view.records import pair_records


class PreferenceDiagnostics(Callback):
    """Of objectives that learn from pairs: how the policy ranks its pairs, and the curves of the run.

    Logs `pairs/rank_correlation` (Spearman's rho of score gaps and reward margins) and `pairs/effective_share` (of the
    weights), and shows the figure and the table after each validation; the last figure is `pairs.png` of
    the run. With several ranks they are of rank 0's share of the pairs. At the end, `curves.png` has loss, accuracy and
    margin of training and validation pairs over the steps, and the norm of the gradient. `weighed_pairs.jsonl` has
    pairs of the last validation, for `uniopd view`: both weights, the mastery, the rewards. A run without validation
    pairs uses training pairs instead, spread evenly over all of them, before the first step and after the last.
    Sentence pairs are shown with their picture and the detectors' boxes. When the run has ended, a line says
    where the quality weight changes little (`lit_uniopd/diagnostics/advice.py`).

    Args:
        table_rows: pairs of highest and of lowest weight in the table.
        kept_pairs: pairs in the file: those of highest and of lowest weight.
    """

    def __init__(self, table_rows: int = 5, kept_pairs: int = 200) -> None:
        self.table_rows = table_rows
        self.kept_pairs = kept_pairs
        self._batches: list[WeighedPairs] = []
        self._last: WeighedPairs | None = None
        self.curves: dict[str, list[dict[str, float]]] = {"train": [], "val": []}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = []

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
            raise UserError(
                "PreferenceDiagnostics looks at preference pairs; take it out of trainer.callbacks, or train OmniDPO."
            )
        if isinstance(outputs, PreferenceLoss):
            self._batches.append(weighed(batch.pairs, outputs))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._report(trainer)

    # --- training pairs, where there are no validation pairs ---

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report_training_pairs(trainer, pl_module)

    def _report_training_pairs(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A collective call: every rank compares the same pairs, so that sharded weights are gathered in step."""
        data = TrainerData(trainer)
        pairs = data.train_pairs
        if not pairs or not isinstance(pl_module, PreferenceModule) or data.val_pairs:
            return
        sample, size = pairs[:: -(-len(pairs) // self.kept_pairs)], data.val_batch_size
        self._batches = []
        with torch.no_grad(), pl_module.policy.gathered(), pl_module.policy.answering():
            for start in range(0, len(sample), size):
                batch = PairBatch(sample[start : start + size])
                self._batches.append(weighed(batch.pairs, pl_module.compare(batch)[0]))
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        """Log, show and write the pairs of all batches."""
        directory = run_directory(trainer)
        if not trainer.is_global_zero or not self._batches:
            return
        pairs, step = joined(self._batches), trainer.global_step
        self._last = pairs
        values = {"pairs/rank_correlation": pairs.rank_correlation, "pairs/effective_share": pairs.effective_share}
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in values.items() if v == v}, step=logged_step(trainer))
        self._show(trainer, pairs_figure(pairs), "pairs/weights", directory, "pairs.png")
        lines = pair_records(pairs, step=step, count=self.kept_pairs)
        write_lines(directory / PAIRS_FILE, lines)
        if shows_media(trainer):
            log_table(trainer, "pairs/weights", weights_table(pairs, count=self.table_rows))
            if (figure := images_figure(lines)) is not None:
                log_figure(trainer, "pairs/pictures", figure)

    # --- curves ---

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        if trainer.global_step % max(1, trainer.log_every_n_steps) == 0:  # pyright: ignore[reportAttributeAccessIssue]
            self._add_point(trainer, "train")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._add_point(trainer, "val")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report_training_pairs(trainer, pl_module)
        directory = run_directory(trainer)
        if trainer.is_global_zero and any(self.curves.values()):
            figure = curves_figure(self.curves["train"], self.curves["val"])
            self._show(trainer, figure, "pairs/curves", directory, "curves.png")

    def _add_point(self, trainer: Trainer, split: str) -> None:
        metrics = {name: trainer.callback_metrics.get(f"{split}/{name}") for name in CURVES}
        values = {name: float(value) for name, value in metrics.items() if value is not None}
        points = self.curves[split]
        if values and (not points or points[-1]["step"] != trainer.global_step):
            points.append({"step": trainer.global_step, **values})

    def advice(self, trainer: Trainer) -> list[str]:
        """What the last pairs that were looked at say of the quality weight."""
        loss = getattr(trainer.lightning_module, "loss", None)
        weighs = isinstance(loss, PairLossArgs) and loss.kind == "omni_dpo" and loss.use_quality
        if not weighs or self._last is None:
            return []
        line = quality_advice(effective_share(self._last.w_quality), len(self._last.pairs))
        return [line] if line else []

    def state_dict(self) -> dict[str, Any]:
        return {"curves": self.curves}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curves = state_dict["curves"]

    def _show(self, trainer: Trainer, figure: Any, tag: str, directory: Path, file: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        figure.savefig(directory / file, dpi=110)
        log_figure(trainer, tag, figure)

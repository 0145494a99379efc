"""TensorBoard with the curves that a run is read by; the others are a switch away."""

import logging
import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)

DETAILS = (
    "epoch",
    *("eval_health/*", "val/*_low", "val/*_high", "eval*/*_low", "eval*/*_high"),
    *("domain/*/length", "domain/*/truncated", "domain/*/kl"),
    *("teacher/*/length", "teacher/*/truncated", "teacher/*/outcome_rate"),
    *("rollout/tokens_per_second", "time/*", "train/logp_drift", "train/lr"),
    *("*/chosen_drift", "val/chosen_*", "val/rejected_*", "val/nll_*", "val/w_*"),
    *("hallucination/*/chair_s_refined", "hallucination/*/mentions"),
)
"""Patterns of tags that are left out, unless a chart of the tab CUSTOM SCALARS has them. All other tags are written."""
ALARMS = (
    *("rollout/empty", "rollout/teacher_failed", "rollout/unknown_outcomes", "rollout/grader_error/*"),
    *("rollout/removed", "train/gap_fraction", "train/gap_fraction_eos"),
)
"""Patterns of tags that are 0 as long as nothing happens, and written from the first step where they are not."""


class CompactTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger, without the curves that are looked at only when something is wrong.

    Which they are stands in `DETAILS` and `ALARMS` of this file; tags of your own are always written. What was left
    out is counted at the end.

    Args:
        save_dir: folder of the runs.
        name: of the run's folder in it.
        version: of the run in that; null: the first free number.
        default_hp_metric: whether to write `hp_metric`, of which no objective here has any.
        all_tags: write every tag.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        default_hp_metric: bool = False,
        all_tags: bool = False,
    ) -> None:
        super().__init__(str(save_dir), name=name, version=version, default_hp_metric=default_hp_metric)
        self.all_tags = all_tags
        self._kept: set[str] = set()
        self._written: set[str] = set()
        self._left_out: set[str] = set()

    def keep(self, tags: Iterable[str]) -> None:
        """Write these tags in any case."""
        self._kept.update(tags)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # type: ignore[override]
        written = {tag: value for tag, value in metrics.items() if self._writes(tag, value)}
        self._written.update(written)
        self._left_out.update(metrics.keys() - written.keys())
        super().log_metrics(written, step)

    def _writes(self, tag: str, value: Any) -> bool:
        if self.all_tags or tag in self._kept or tag in self._written:
            return True
        if any(fnmatchcase(tag, pattern) for pattern in ALARMS):
            return bool(value != 0)  # NaN is an alarm too
        return not any(fnmatchcase(tag, pattern) for pattern in DETAILS)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        left_out = self._left_out - self._written
        if left_out and status == "success":
            log.info(
                "TensorBoard has %d of %d curves; --trainer.logger.all_tags true writes the others too.",
                len(self._written),
                len(self._written | left_out),
            )
            self._left_out = set()

"""TensorBoard's tab CUSTOM SCALARS: an objective's essential curves in one place."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

Charts = Mapping[str, Sequence[str]]
"""Title of a chart -> tags of its curves."""


def write_layout(trainer: Trainer, module: LightningModule) -> None:
    """Write the charts of the module and of the callbacks as the run's layout, under the module's name.

    Args:
        trainer: its TensorBoard loggers get the layout; others are left alone.
        module: names the layout.
    """
    if not trainer.is_global_zero:
        return
    charts: dict[str, list[str]] = {}
    for source in (module, *trainer.callbacks):  # type: ignore[attr-defined]
        essential_charts = getattr(source, "essential_charts", None)
        for title, tags in (essential_charts() if essential_charts is not None else {}).items():
            charts[title] = [*charts.get(title, []), *tags]
    if not charts:
        return
    # TensorBoard takes tags as patterns that need only match the beginning of a tag.
    layout: dict[str, Any] = {
        title: ["Multiline", [f"{re.escape(tag)}$" for tag in dict.fromkeys(tags)]] for title, tags in charts.items()
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_custom_scalars({type(module).__name__: layout})

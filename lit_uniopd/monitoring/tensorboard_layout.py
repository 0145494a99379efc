"""TensorBoard's tab CUSTOM SCALARS: the curves that an objective is read by, together in one place."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

Charts = Mapping[str, Sequence[str]]
"""Title of a chart -> tags of its curves."""


def write_layout(trainer: Trainer, module: LightningModule) -> None:
    """Put the charts of the module, then those of the callbacks, into the run's layout, under the module's name.

    Args:
        trainer: with loggers of any kind, or none; TensorBoard's get the layout.
        module: whose objective it is.
    """
    if not trainer.is_global_zero:
        return
    charts: dict[str, list[str]] = {}
    for part in (module, *trainer.callbacks):  # type: ignore[attr-defined]
        told = getattr(part, "essential_charts", None)
        for title, tags in (told() if told is not None else {}).items():
            charts[title] = [*charts.get(title, []), *tags]
    if not charts:
        return
    # TensorBoard takes tags as patterns, of which the beginning of a tag is enough.
    layout: dict[str, Any] = {
        title: ["Multiline", [f"{re.escape(tag)}$" for tag in dict.fromkeys(tags)]] for title, tags in charts.items()
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_custom_scalars({type(module).__name__: layout})

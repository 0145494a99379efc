"""Texts, figures, pictures and histograms for every logger of a run that can hold them, whichever comes first.

If none can (`CSVLogger`), they are files under ``media/`` of the run's directory; a run without a logger leaves none.
Steps are those of the scalars. Only rank 0 writes; the other ranks may call.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from lit_uniopd.monitoring.logger_adapters import FolderAdapter, LoggerAdapter, logger_adapter, rendered
from lit_uniopd.utils.lightning_internals import logged_step
from lit_uniopd.utils.run_directory import run_directory

if TYPE_CHECKING:  # slow to import, and most runs draw late or never
    from matplotlib.figure import Figure


def run_adapters(trainer: Trainer) -> list[LoggerAdapter]:
    """One for each logger of the run; none on other ranks than 0, and in a `fast_dev_run`, which logs nothing."""
    return [logger_adapter(logger) for logger in _loggers(trainer)]


def shows_media(trainer: Trainer) -> bool:
    """Whether a text or a figure would be written by this process, so that it is worth making one."""
    return bool(_loggers(trainer))


def log_text(trainer: Trainer, tag: str, markdown: str, step: int | None = None) -> None:
    """Show a text.

    Args:
        trainer: whose loggers get it.
        tag: its name, like that of a scalar.
        markdown: what is shown.
        step: on the axis of the scalars; None: where that is now.
    """
    for adapter in _media_adapters(trainer):
        adapter.text(tag, markdown, _step(trainer, step))


def log_table(trainer: Trainer, tag: str, markdown: str, step: int | None = None) -> None:
    """Show a table of ``lit_uniopd.utils.markdown.table``, as a real one where a logger has tables (see `log_text`)."""
    for adapter in _media_adapters(trainer):
        adapter.table(tag, markdown, _step(trainer, step))


def log_figure(trainer: Trainer, tag: str, figure: "Figure", step: int | None = None) -> None:
    """Show a matplotlib figure; it is drawn once, and every logger gets the same pixels (see `log_text`)."""
    if shows_media(trainer):
        log_image(trainer, tag, rendered(figure), step)


def log_image(trainer: Trainer, tag: str, image_HWC: np.ndarray, step: int | None = None) -> None:
    """Show a picture: uint8, RGB, ``[height, width, 3]`` (see `log_text`)."""
    for adapter in _media_adapters(trainer):
        adapter.image(tag, image_HWC, _step(trainer, step))


def log_histogram(
    trainer: Trainer, tag: str, values: Any, step: int | None = None, *, edges: Sequence[float] | None = None
) -> None:
    """Show how values are spread; nothing if there are none (see `log_text`).

    Args:
        trainer: whose loggers get it.
        tag: its name.
        values: numbers: an array, a tensor or a list.
        step: on the axis of the scalars; None: where that is now.
        edges: of the bins; None: as the logger does it.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size:
        for adapter in _media_adapters(trainer):
            adapter.histogram(tag, array, _step(trainer, step), edges)


def log_settings(trainer: Trainer, values: Mapping[str, Any]) -> None:
    """Give the run's settings to its loggers as hyper-parameters.

    Args:
        trainer: whose loggers get them.
        values: a tree of strings, numbers, lists and None, as a YAML file holds it; anything else does not fit into
            every logger.
    """
    for adapter in run_adapters(trainer):
        adapter.settings(values)


def _loggers(trainer: Trainer) -> list[Logger]:
    if not trainer.is_global_zero:
        return []
    return [logger for logger in trainer.loggers if not isinstance(logger, DummyLogger)]


def _media_adapters(trainer: Trainer) -> list[LoggerAdapter]:
    """Those that can hold media, else one for files."""
    adapters = run_adapters(trainer)
    return [adapter for adapter in adapters if adapter.holds_media] or (
        [FolderAdapter(run_directory(trainer) / "media")] if adapters else []
    )


def _step(trainer: Trainer, step: int | None) -> int:
    return logged_step(trainer) if step is None else step

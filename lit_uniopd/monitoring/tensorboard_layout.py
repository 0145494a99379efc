"""TensorBoard's tab CUSTOM SCALARS: an objective's essential curves in one place."""

from lightning import LightningModule, Trainer

from lit_uniopd.monitoring.logger_adapters import Charts
from lit_uniopd.monitoring.media import run_adapters

__all__ = ["Charts", "write_layout"]


def write_layout(trainer: Trainer, module: LightningModule) -> None:
    """Write the charts of the module and of the callbacks as the run's layout, under the module's name.

    Args:
        trainer: its loggers get the layout; TensorBoard alone of those that we know has a place for it.
        module: names the layout.
    """
    charts: dict[str, list[str]] = {}
    for source in (module, *trainer.callbacks):  # type: ignore[attr-defined]
        essential_charts = getattr(source, "essential_charts", None)
        for title, tags in (essential_charts() if essential_charts is not None else {}).items():
            charts[title] = [*charts.get(title, []), *tags]
    layout = {title: list(dict.fromkeys(tags)) for title, tags in charts.items()}
    for adapter in run_adapters(trainer) if layout else []:
        adapter.layout(type(module).__name__, layout)
